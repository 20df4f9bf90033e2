"""A zip64 field beside sizes that need none: some readers take these, some those.

The field is there for the sizes that say so, and for no others.
"""

from __future__ import annotations

import struct
from pathlib import Path

from zips_by_hand import Part, pack, payload, write


def build(folder: Path, marker: Path) -> Path:
    extra = struct.pack("<HHQQ", 1, 16, 4, 4)
    return write(folder, pack([Part(b"archive/data.pkl", payload(marker), extra=(b"", extra))]))
