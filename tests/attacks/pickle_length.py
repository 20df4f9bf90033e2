"""A few bytes that say that 4,611,686,018,427,387,904 follow.

No memory is taken for bytes that are not there.
"""

from __future__ import annotations

from pathlib import Path

from pickles_by_hand import Raw, pickled, write


def build(folder: Path, marker: Path) -> Path:  # noqa: ARG001
    return write(folder, pickled(Raw(b"\x8e" + (1 << 62).to_bytes(8, "little") + b"abc")))
