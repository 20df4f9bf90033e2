"""A thousand views, each a megabyte over a storage of four bytes.

What views declare beyond their storages is added up.
"""

from __future__ import annotations

from pathlib import Path

from pickles_by_hand import Called, Stored, pickled
from zips_by_hand import pack, torch_parts, write


def build(folder: Path, marker: Path) -> Path:  # noqa: ARG001
    storage = Stored("FloatStorage", "0", 1)
    shape, strides = (1 << 18,), (0,)
    tensors = [
        Called("torch._utils", "_rebuild_tensor_v2", storage, 0, shape, strides, False, {})
        for _ in range(1000)
    ]
    return write(folder, pack(torch_parts(pickled(tensors), _0=bytes(4))))
