"""Two negative lengths, whose product is as positive as the bytes that are there.

A length below zero is none.
"""

from __future__ import annotations

import json
from pathlib import Path


def build(folder: Path, marker: Path) -> Path:  # noqa: ARG001
    header = json.dumps({"a": {"dtype": "U8", "shape": [-2, -4], "data_offsets": [0, 8]}}).encode()
    path = folder / "weights.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(8))
    return path
