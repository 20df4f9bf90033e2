"""A shape of 2**32 x 2**32 elements, whose product in 64 bits is 0: a small file, a huge tensor.

luthier's numbers do not overflow, and such a shape is none that a tensor can have.
"""

from __future__ import annotations

import json
from pathlib import Path


def build(folder: Path, marker: Path) -> Path:  # noqa: ARG001
    header = json.dumps(
        {"a": {"dtype": "U8", "shape": [2**32, 2**32], "data_offsets": [0, 0]}}
    ).encode()
    path = folder / "weights.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header + b"")
    return path
