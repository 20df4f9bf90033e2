"""A header of nested parentheses: parsers of Python have crashed on less.

luthier matches the header, in time linear in its length, and evaluates nothing.
"""

from __future__ import annotations

from pathlib import Path


def build(folder: Path, marker: Path) -> Path:  # noqa: ARG001
    header = b"{'descr': '<f8', 'shape': " + b"(" * 400_000 + b")" * 400_000 + b"}"
    path = folder / "weights.npy"
    length = len(header).to_bytes(4, "little")
    path.write_bytes(b"\x93NUMPY\x02\x00" + length + header + bytes(8))
    return path
