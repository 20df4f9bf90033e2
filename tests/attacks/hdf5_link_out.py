"""A link to a data set in another file, which the library would open.

Links are not followed; what is behind them is refused by name.
"""

from __future__ import annotations

from pathlib import Path

import h5py


def build(folder: Path, marker: Path) -> Path:  # noqa: ARG001
    secret = folder.parent / f"{folder.name}-secret.h5"
    with h5py.File(secret, "w") as file:
        file["a"] = [1.0]
    path = folder / "weights.h5"
    with h5py.File(path, "w") as file:
        file["sound"] = [1.0]
        file["a"] = h5py.ExternalLink(str(secret), "a")
    return path
