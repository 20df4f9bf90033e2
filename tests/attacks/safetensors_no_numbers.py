"""Lengths and places that are true, false and fractions, which Python counts with all the same.

luthier takes whole numbers only.
"""

from __future__ import annotations

import json
from pathlib import Path


def build(folder: Path, marker: Path) -> Path:  # noqa: ARG001
    header = json.dumps(
        {"a": {"dtype": "U8", "shape": [True], "data_offsets": [False, 1.0]}}
    ).encode()
    path = folder / "weights.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(1))
    return path
