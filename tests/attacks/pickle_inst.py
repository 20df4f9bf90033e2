"""A call by INST, the opcode of Python 1, which a list of forbidden opcodes forgets.

All opcodes that call give records.
"""

from __future__ import annotations

from pathlib import Path

from pickles_by_hand import Raw, opcodes, pickled, write


def build(folder: Path, marker: Path) -> Path:
    content = b"(" + opcodes(f"touch {marker}") + b"ios\nsystem\n"
    return write(folder, pickled(Raw(content)))
