"""A storage of a billion elements over a record of four bytes: what lies behind is mapped.

A record has the bytes that its storage asks for.
"""

from __future__ import annotations

import io
import pickle
from pathlib import Path
from typing import Any

import torch

from zips_by_hand import pack, torch_parts, write


class Tensor:
    def __reduce__(self) -> Any:
        arguments = (Storage(), 0, (1 << 30,), (1,), False, {})
        return torch._utils._rebuild_tensor_v2, arguments


class Storage:
    pass


class Pickler(pickle.Pickler):
    def persistent_id(self, item: Any) -> Any:
        if isinstance(item, Storage):
            return "storage", torch.FloatStorage, "0", "cpu", 1 << 30
        return None


def build(folder: Path, marker: Path) -> Path:  # noqa: ARG001
    file = io.BytesIO()
    Pickler(file, protocol=2).dump({"weight": Tensor()})
    return write(folder, pack(torch_parts(file.getvalue(), _0=bytes(4))))
