"""An array of Python's objects, which numpy reads with pickle, and pickle runs code.

Such an array is refused by name; its bytes are never looked at.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np


def build(folder: Path, marker: Path) -> Path:
    class Payload:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.system, (f"touch {marker}",)

    path = folder / "weights.npz"
    np.savez(path, sound=np.ones(3), payload=np.array([Payload()], dtype=object))
    return path
