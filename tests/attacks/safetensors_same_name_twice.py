"""A name that is there twice: one reader takes the first tensor, another the last.

A header with a name twice is damaged.
"""

from __future__ import annotations

from pathlib import Path


def build(folder: Path, marker: Path) -> Path:  # noqa: ARG001
    header = (
        b'{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},'
        b'"a":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}}'
    )
    path = folder / "weights.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(2))
    return path
