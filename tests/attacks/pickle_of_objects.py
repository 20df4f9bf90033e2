"""An array of objects, with a call among them; and a dtype whose metadata is one.

Arrays of objects are refused by name, dtypes of other kinds too.
"""

from __future__ import annotations

from pathlib import Path

from pickles_by_hand import Called, Raw, Reference, opcodes, pickled, touch, write


def build(folder: Path, marker: Path) -> Path:
    made = Called(
        "numpy.core.multiarray", "_reconstruct", Reference("numpy", "ndarray"), (0,), b"b"
    )
    kind = opcodes(Called("numpy", "dtype", "O8", 0, 1))
    kind += opcodes((4, "|", None, None, None, -1, -1, 63, {"payload": touch(marker)})) + b"b"
    state = opcodes((1, (1,), Raw(kind), False, [touch(marker)]))
    return write(folder, pickled(Raw(opcodes(made) + state + b"b")))
