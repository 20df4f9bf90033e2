"""A configuration of a hundred thousand brackets: a recursive parser runs out of its stack.

Such JSON is damage.
"""

from __future__ import annotations

import zipfile
from pathlib import Path


def build(folder: Path, marker: Path) -> Path:  # noqa: ARG001
    path = folder / "weights.pt2"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/archive_format", "pt2")
        archive.writestr("a/models/model.json", "{}")
        archive.writestr("a/data/weights/model_weights_config.json", "[" * 100_000)
    return path
