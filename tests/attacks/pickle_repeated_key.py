"""One key of nine hundred parts, set a million times.

The work with keys is kept in proportion to the file.
"""

from __future__ import annotations

from pathlib import Path

from pickles_by_hand import Raw, pickled, write


def build(folder: Path, marker: Path) -> Path:  # noqa: ARG001
    key = b"(" + b"K\x01" * 900 + b"tq\x010"
    return write(folder, pickled(Raw(b"}" + key + b"h\x01Ns" * 1_000_000)))
