"""A header that says it has 2**63 - 1 bytes: who makes room for it first has none left.

luthier compares the length with the file's size before it reads a byte of it.
"""

from __future__ import annotations

from pathlib import Path


def build(folder: Path, marker: Path) -> Path:  # noqa: ARG001
    path = folder / "weights.safetensors"
    path.write_bytes((2**63 - 1).to_bytes(8, "little") + b'{"a":')
    return path
