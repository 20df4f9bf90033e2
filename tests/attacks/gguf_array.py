"""A key with an array of 2**61 texts: a reader that goes on behind the end never ends.

Each text has a length of eight bytes, and behind the end of the file there is none.
"""

from __future__ import annotations

import struct
from pathlib import Path


def build(folder: Path, marker: Path) -> Path:  # noqa: ARG001
    path = folder / "weights.gguf"
    array = struct.pack("<IIQ", 9, 8, 2**61)
    path.write_bytes(b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, 1) + b"a" + array + bytes(1000))
    return path
