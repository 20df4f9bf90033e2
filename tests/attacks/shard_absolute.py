"""An index that names a shard by its absolute path: weights are read that were not given.

A shard's name is a name in the folder of the index and no path.
"""

from __future__ import annotations

import json
from pathlib import Path


def build(folder: Path, marker: Path) -> Path:  # noqa: ARG001
    secret = folder.parent / f"{folder.name}-secret.safetensors"
    header = b'{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}'
    secret.write_bytes(len(header).to_bytes(8, "little") + header + b"!")
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": str(secret)}}))
    return index
