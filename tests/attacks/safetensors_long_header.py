"""A header of 150 MB, which a sparse file holds without taking up room on the disk.

The format allows 100 MB. luthier refuses more before it reads it.
"""

from __future__ import annotations

from pathlib import Path


def build(folder: Path, marker: Path) -> Path:  # noqa: ARG001
    path = folder / "weights.safetensors"
    with path.open("wb") as file:
        file.write((150_000_000).to_bytes(8, "little") + b"{")
        file.truncate(160_000_000)
    return path
