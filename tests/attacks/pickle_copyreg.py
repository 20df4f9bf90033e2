"""The reconstructors of copyreg, which call what they are given.

They are known, and give records of what they were given.
"""

from __future__ import annotations

from pathlib import Path

from pickles_by_hand import Called, Reference, pickled, write


def build(folder: Path, marker: Path) -> Path:
    system, command = Reference("os", "system"), f"touch {marker}"
    base = Reference("builtins", "object")
    calls = [
        Called("copy_reg", "_reconstructor", system, base, command),
        Called("copyreg", "__newobj__", system, command),
        Called("copyreg", "__newobj_ex__", system, (command,), {}),
    ]
    return write(folder, pickled(calls))
