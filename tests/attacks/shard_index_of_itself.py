"""An index that names itself as its shard: who opens shards as he opens files never ends.

A shard must hold tensors by name; an index is none.
"""

from __future__ import annotations

import json
from pathlib import Path


def build(folder: Path, marker: Path) -> Path:  # noqa: ARG001
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": index.name}}))
    return index
