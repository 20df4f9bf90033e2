"""A storage in torch's old format that says 2**60 elements, in the pickle and before its bytes.

Nothing is allocated for it; the file ends before it does.
"""

from __future__ import annotations

import struct
from pathlib import Path

import torch

from torch_by_hand import Rebuilt, Reference, legacy


def build(folder: Path, marker: Path) -> Path:  # noqa: ARG001
    count = 1 << 60
    storage = ("storage", torch.FloatStorage, "7", "cpu", count, None)
    value = Rebuilt(Reference(0), 0, (count,), (1,))
    path = folder / "weights.pt"
    path.write_bytes(legacy([storage], struct.pack("<q4x", count), value, ["7"]))
    return path
