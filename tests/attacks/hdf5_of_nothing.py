"""A data set of a terabyte of which no byte was ever written: it reads as zeros.

What a data set takes up in memory must fit the file's size plus 48 MiB.
"""

from __future__ import annotations

from pathlib import Path

import h5py


def build(folder: Path, marker: Path) -> Path:  # noqa: ARG001
    path = folder / "weights.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("a", (2**20, 2**18), "f4", chunks=(2**10, 2**10))
    return path
