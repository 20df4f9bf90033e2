"""A number of five million digits, which takes quadratic time to read.

Python reads no more than 4300 digits of a number.
"""

from __future__ import annotations

from pathlib import Path


def build(folder: Path, marker: Path) -> Path:  # noqa: ARG001
    header = b'{"a":{"dtype":"U8","shape":[' + b"9" * 5_000_000 + b'],"data_offsets":[0,1]}}'
    path = folder / "weights.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(1))
    return path
