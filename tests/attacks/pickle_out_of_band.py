"""Buffers that are not in the file, which a loader takes from wherever it is told.

They are not supported.
"""

from __future__ import annotations

from pathlib import Path

from pickles_by_hand import Raw, pickled, write


def build(folder: Path, marker: Path) -> Path:  # noqa: ARG001
    return write(folder, pickled(Raw(b"\x97")))
