"""A number of ten million digits, which takes hours to read.

Numbers in text have a limit of digits.
"""

from __future__ import annotations

from pathlib import Path

from pickles_by_hand import Raw, pickled, write


def build(folder: Path, marker: Path) -> Path:  # noqa: ARG001
    return write(folder, pickled(Raw(b"L" + b"7" * 10_000_000 + b"L\n")))
