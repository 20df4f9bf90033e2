"""A call by OBJ, whose function lies between its arguments and a mark.

All opcodes that call give records.
"""

from __future__ import annotations

from pathlib import Path

from pickles_by_hand import Raw, Reference, opcodes, pickled, write


def build(folder: Path, marker: Path) -> Path:
    content = b"(" + opcodes(Reference("os", "system")) + opcodes(f"touch {marker}") + b"o"
    return write(folder, pickled(Raw(content)))
