"""A pickle that is flagged as a folder: torch's reader gives whatever the memory holds for it.

A folder has no content.
"""

from __future__ import annotations

from pathlib import Path

from zips_by_hand import Part, pack, payload, write


def build(folder: Path, marker: Path) -> Path:
    part = Part(b"archive/data.pkl", payload(marker), central={"attributes": 0x10})
    return write(folder, pack([part]))
