"""A data set whose numbers are the bytes of another file.

Such a data set is refused by name, and the other file is not opened.
"""

from __future__ import annotations

from pathlib import Path

import h5py


def build(folder: Path, marker: Path) -> Path:  # noqa: ARG001
    secret = folder.parent / f"{folder.name}-secret.txt"
    secret.write_bytes(b"a password here")
    path = folder / "weights.h5"
    with h5py.File(path, "w") as file:
        file["sound"] = [1.0]
        file.create_dataset("a", (8,), "u1", external=[(str(secret), 0, 8)])
    return path
