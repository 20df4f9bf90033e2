"""A name with a NUL: what C reads as "archive/data.pkl" is a longer name for Python.

Such a name is none.
"""

from __future__ import annotations

from pathlib import Path

from zips_by_hand import Part, pack, payload, torch_parts, write


def build(folder: Path, marker: Path) -> Path:
    hidden = Part(b"archive/data.pkl\0.txt", payload(marker))
    return write(folder, pack([*torch_parts(b"\x80\x02}."), hidden]))
