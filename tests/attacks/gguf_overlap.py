"""Two tensors over the same bytes: what is written to one changes the other.

Tensors that overlap are damage.
"""

from __future__ import annotations

import struct
from pathlib import Path


def build(folder: Path, marker: Path) -> Path:  # noqa: ARG001
    path = folder / "weights.gguf"
    tensors = b"".join(
        struct.pack("<Q", 1) + name + struct.pack("<IQIQ", 1, 16, 0, 0) for name in (b"a", b"b")
    )
    path.write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 2, 0) + tensors + bytes(128))
    return path
