"""An entry that begins beyond the file's end.

Places are compared with the file's size.
"""

from __future__ import annotations

from pathlib import Path

from zips_by_hand import Part, pack, payload, write


def build(folder: Path, marker: Path) -> Path:
    part = Part(b"archive/data.pkl", payload(marker), central={"header": 1 << 30})
    return write(folder, pack([part]))
