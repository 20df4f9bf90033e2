"""NEWOBJ and NEWOBJ_EX call __new__ of whatever the file names.

No class is looked up, so there is no __new__.
"""

from __future__ import annotations

from pathlib import Path

from pickles_by_hand import Raw, Reference, opcodes, pickled, write


def build(folder: Path, marker: Path) -> Path:
    arguments = opcodes(["touch", str(marker)])
    popen = opcodes(Reference("subprocess", "Popen")) + b"(" + arguments + b"t"
    return write(folder, pickled((Raw(popen + b"\x81"), Raw(popen + b"}\x92"))))
