"""torch's own rebuilder of subclasses calls the function that it is given.

It is followed only to other rebuilders of the table, and not through itself for ever.
"""

from __future__ import annotations

from pathlib import Path

from pickles_by_hand import Raw, Reference, opcodes, pickled, write


def build(folder: Path, marker: Path) -> Path:
    again = Reference("torch._tensor", "_rebuild_from_type_v2")
    kind = Reference("torch", "Tensor")
    values = opcodes((Reference("os", "system"), kind, (f"touch {marker}",), {}))
    for _ in range(5000):
        values = opcodes((again, kind, Raw(values), {}))
    return write(folder, pickled(Raw(opcodes(again) + values + b"R")))
