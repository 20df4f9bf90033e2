"""A tensor without elements whose other lengths overflow: the strides are computed all the same.

luthier looks at the product without the zero, and refuses the shape.
"""

from __future__ import annotations

import json
from pathlib import Path


def build(folder: Path, marker: Path) -> Path:  # noqa: ARG001
    header = json.dumps(
        {"a": {"dtype": "F32", "shape": [2**62, 0, 2**62], "data_offsets": [0, 0]}}
    ).encode()
    path = folder / "weights.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header + b"")
    return path
