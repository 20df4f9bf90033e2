"""A tensor that is said to lie far behind the end of the file.

Where a tensor ends is compared with the file's size.
"""

from __future__ import annotations

import struct
from pathlib import Path


def build(folder: Path, marker: Path) -> Path:  # noqa: ARG001
    path = folder / "weights.gguf"
    tensor = struct.pack("<Q", 1) + b"a" + struct.pack("<IQIQ", 1, 2**40, 0, 2**63)
    path.write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 1, 0) + tensor + bytes(64))
    return path
