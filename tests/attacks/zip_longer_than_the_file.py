"""An entry that ends beyond the file's end: what is mapped there is none of the file's.

Where each ends is compared with where the next begins.
"""

from __future__ import annotations

from pathlib import Path

from zips_by_hand import Part, pack, payload, write


def build(folder: Path, marker: Path) -> Path:
    lies = {"packed": 1 << 30, "size": 1 << 30}
    part = Part(b"archive/data.pkl", payload(marker), local=lies, central=lies)
    return write(folder, pack([part]))
