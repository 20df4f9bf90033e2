"""Sizes that refer to a zip64 field which is not there: 4 GiB, or whatever the memory holds.

Such a field must be there.
"""

from __future__ import annotations

from pathlib import Path

from zips_by_hand import Part, pack, payload, write


def build(folder: Path, marker: Path) -> Path:
    lies = {"size": 0xFFFFFFFF, "packed": 0xFFFFFFFF}
    part = Part(b"archive/data.pkl", payload(marker), local=lies, central=lies)
    return write(folder, pack([part]))
