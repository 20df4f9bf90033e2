"""Ten megabytes of escapes in a text of protocol 0.

They are read in one pass, in little memory.
"""

from __future__ import annotations

from pathlib import Path

from pickles_by_hand import Raw, pickled, write


def build(folder: Path, marker: Path) -> Path:  # noqa: ARG001
    return write(folder, pickled(Raw(b"S'" + b"\\x41" * 2_500_000 + b"'\n")))
