"""A defaultdict makes missing values by calling what the file names.

It is read as a plain dict.
"""

from __future__ import annotations

from pathlib import Path

from pickles_by_hand import Called, Reference, pickled, write


def build(folder: Path, marker: Path) -> Path:
    factory = Called("functools", "partial", Reference("os", "system"), f"touch {marker}")
    return write(folder, pickled(Called("collections", "defaultdict", factory)))
