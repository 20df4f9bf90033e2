"""Payloads in an exported program: as a weight that is a pickle, and among its example inputs.

The first is read in the same inert way as every pickle; the inputs are not looked at.
"""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

from zips_by_hand import pack, payload, torch_parts


def build(folder: Path, marker: Path) -> Path:
    inner = pack(torch_parts(payload(marker)))
    told = {"path_name": "weight_0", "is_param": False, "use_pickle": True, "tensor_meta": None}
    path = folder / "weights.pt2"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/archive_format", "pt2")
        archive.writestr("a/models/model.json", "{}")
        archive.writestr("a/data/weights/weight_0", inner)
        archive.writestr("a/data/sample_inputs/model.pt", inner)
        config = json.dumps({"config": {"a": told}})
        archive.writestr("a/data/weights/model_weights_config.json", config)
    return path
