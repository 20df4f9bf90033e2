"""The classic: a call of os.system.

It is a record of a call that nobody made.
"""

from __future__ import annotations

from pathlib import Path

from pickles_by_hand import pickled, touch, write


def build(folder: Path, marker: Path) -> Path:
    return write(folder, pickled({"weight": touch(marker)}))
