"""A device without an end in place of the file.

luthier reads files only.
"""

from __future__ import annotations

from pathlib import Path


def build(folder: Path, marker: Path) -> Path:  # noqa: ARG001
    path = folder / "weights.pt"
    path.symlink_to("/dev/zero")
    return path
