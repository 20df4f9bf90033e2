"""Offsets near 2**64: where they are added in 64 bits, the tensor lies before the file.

luthier's numbers do not overflow, and places beyond 2**63 are no places.
"""

from __future__ import annotations

import json
from pathlib import Path


def build(folder: Path, marker: Path) -> Path:  # noqa: ARG001
    header = json.dumps(
        {"a": {"dtype": "U8", "shape": [8], "data_offsets": [2**64 - 8, 2**64]}}
    ).encode()
    path = folder / "weights.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(8))
    return path
