"""A zip64 field with 2**64 - 1 bytes: additions in C become small again.

Sizes are compared with where the next entry begins; Python's numbers do not overflow.
"""

from __future__ import annotations

import struct
from pathlib import Path

from zips_by_hand import Part, pack, payload, write


def build(folder: Path, marker: Path) -> Path:
    lies = {"size": 0xFFFFFFFF, "packed": 0xFFFFFFFF}
    extra = struct.pack("<HHQQ", 1, 16, (1 << 64) - 1, (1 << 64) - 1)
    part = Part(
        b"archive/data.pkl", payload(marker), local=lies, central=lies, extra=(extra, extra)
    )
    return write(folder, pack([part]))
