"""A tensor of a terabyte over one piece that is an expanded number.

A tensor that is put together has at most the bytes of its folder, and an allowance.
"""

from __future__ import annotations

from pathlib import Path

import torch

from torch_by_hand import distributed, tensor_of


def build(folder: Path, marker: Path) -> Path:  # noqa: ARG001
    shape = (1 << 38,)
    stored = {("a", (0,)): ("__0_0.distcp", torch.ones(1).expand(shape))}
    return distributed(folder, {"a": tensor_of(shape, [((0,), shape)])}, stored)
