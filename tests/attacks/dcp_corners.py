"""A tensor of 40 dimensions in two pieces, with 2**40 corners each.

In several pieces there are tensors of 8 dimensions at most.
"""

from __future__ import annotations

from pathlib import Path

import torch

from torch_by_hand import distributed, tensor_of


def build(folder: Path, marker: Path) -> Path:  # noqa: ARG001
    ones, zeros = (1,) * 39, (0,) * 39
    pieces = [((0, *zeros), (1, *ones)), ((1, *zeros), (1, *ones))]
    stored = {("a", at): ("__0_0.distcp", torch.ones(sizes)) for at, sizes in pieces}
    return distributed(folder, {"a": tensor_of((2, *ones), pieces)}, stored)
