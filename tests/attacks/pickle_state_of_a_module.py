"""BUILD on a reference would set attributes of a module or class of this very process.

A reference is no object: the file is damaged.
"""

from __future__ import annotations

from pathlib import Path

from pickles_by_hand import Raw, Reference, opcodes, pickled, touch, write


def build(folder: Path, marker: Path) -> Path:
    state = {"DamagedError": touch(marker)}
    content = opcodes(Reference("luthier", "errors")) + opcodes(state) + b"b"
    return write(folder, pickled(Raw(content)))
