"""A frame that is longer than the file, for readers that allocate it.

A frame must fit.
"""

from __future__ import annotations

from pathlib import Path

from pickles_by_hand import Raw, pickled, write


def build(folder: Path, marker: Path) -> Path:  # noqa: ARG001
    return write(folder, pickled(Raw(b"\x95" + (1 << 62).to_bytes(8, "little") + b"N")))
