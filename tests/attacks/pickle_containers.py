"""A file of nothing but the opcode of an empty list: each of its bytes takes eighty of memory.

What objects take is limited by the size of the file that they come from.
"""

from __future__ import annotations

from pathlib import Path

from pickles_by_hand import Raw, pickled, write


def build(folder: Path, marker: Path) -> Path:  # noqa: ARG001
    return write(folder, pickled(Raw(b"]" * 10_000_000)))
