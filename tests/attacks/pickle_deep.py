"""A list in a list, a hundred thousand deep, for readers that recurse.

The machine does not; whoever walks the tree has a limit.
"""

from __future__ import annotations

from pathlib import Path

from pickles_by_hand import Raw, pickled, write


def build(folder: Path, marker: Path) -> Path:  # noqa: ARG001
    return write(folder, pickled(Raw(b"]" * 100_000 + b"a" * 99_999)))
