"""A named pipe in place of the file: opening it waits for somebody to write to it, for ever.

luthier opens without waiting, and reads files only.
"""

from __future__ import annotations

import os
from pathlib import Path


def build(folder: Path, marker: Path) -> Path:  # noqa: ARG001
    path = folder / "weights.pt"
    os.mkfifo(path)
    return path
