"""A part of a storage, as torch's old format has them, that reaches beyond the storage.

Its place is compared with the storage's size.
"""

from __future__ import annotations

import struct
from pathlib import Path

import torch

from torch_by_hand import Rebuilt, Reference, legacy


def build(folder: Path, marker: Path) -> Path:  # noqa: ARG001
    part = ("storage", torch.FloatStorage, "7", "cpu", 2, ("8", 1, 1 << 40))
    value = Rebuilt(Reference(0), 0, (2,), (1,))
    path = folder / "weights.pt"
    path.write_bytes(legacy([part], struct.pack("<q2f", 2, 0, 0), value, ["7"]))
    return path
