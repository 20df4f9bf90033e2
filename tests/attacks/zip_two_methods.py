"""A header that says "stored" where the central directory says "deflated": two contents in one.

Both are compared before anything is read.
"""

from __future__ import annotations

from pathlib import Path

from zips_by_hand import Part, pack, payload, write


def build(folder: Path, marker: Path) -> Path:
    part = Part(b"archive/data.pkl", payload(marker), deflate=True, local={"method": 0})
    return write(folder, pack([part]))
