"""A state for an object whose __setstate__ runs what it is given.

The state is kept beside the record, and never set.
"""

from __future__ import annotations

from pathlib import Path

from pickles_by_hand import Raw, Reference, opcodes, pickled, touch, write


def build(folder: Path, marker: Path) -> Path:
    made = opcodes(Reference("code", "InteractiveInterpreter")) + b")\x81"
    return write(folder, pickled(Raw(made + opcodes({"locals": touch(marker)}) + b"b")))
