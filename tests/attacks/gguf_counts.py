"""A header that announces 2**60 tensors and as many keys.

Each takes some bytes in the file, and so there cannot be more than fit it.
"""

from __future__ import annotations

import struct
from pathlib import Path


def build(folder: Path, marker: Path) -> Path:  # noqa: ARG001
    path = folder / "weights.gguf"
    path.write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 2**60, 2**60) + bytes(1000))
    return path
