"""An exported program whose configuration names a record outside of the weights.

A record's name is a name and no path.
"""

from __future__ import annotations

import json
import zipfile
from pathlib import Path


def build(folder: Path, marker: Path) -> Path:  # noqa: ARG001
    meta = {
        "dtype": 7,
        "sizes": [{"as_int": 1}],
        "requires_grad": False,
        "device": {"type": "cpu", "index": None},
        "strides": [{"as_int": 1}],
        "storage_offset": {"as_int": 0},
        "layout": 7,
    }
    told = {"path_name": "../../models/a.json", "use_pickle": False, "tensor_meta": meta}
    path = folder / "weights.pt2"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/archive_format", "pt2")
        archive.writestr("a/models/model.json", "{}")
        config = json.dumps({"config": {"a": {**told, "is_param": True}}})
        archive.writestr("a/data/weights/model_weights_config.json", config)
    return path
