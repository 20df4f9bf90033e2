"""A shape whose number of elements, counted in 64 bits, is 0.

Numbers do not overflow here: the tensor reaches beyond its storage.
"""

from __future__ import annotations

from pathlib import Path

from pickles_by_hand import Called, Stored, pickled
from zips_by_hand import pack, torch_parts, write


def build(folder: Path, marker: Path) -> Path:  # noqa: ARG001
    storage = Stored("FloatStorage", "0", 1)
    shape, strides = (1 << 32, 1 << 32), (1 << 32, 1)
    tensor = Called("torch._utils", "_rebuild_tensor_v2", storage, 0, shape, strides, False, {})
    return write(folder, pack(torch_parts(pickled({"weight": tensor}), _0=bytes(4))))
