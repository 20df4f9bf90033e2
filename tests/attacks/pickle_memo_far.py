"""A place of the memo beyond four billion, for loaders whose memo is an array.

Places that cannot have been filled are not kept.
"""

from __future__ import annotations

from pathlib import Path

from pickles_by_hand import Raw, pickled, write


def build(folder: Path, marker: Path) -> Path:  # noqa: ARG001
    return write(folder, pickled(Raw(b"]r\xff\xff\xff\xffj\xff\xff\xff\xff")))
