"""Pieces with as many elements as the tensor, of which two overlap: some elements are never set.

Every element must be in exactly one piece.
"""

from __future__ import annotations

from pathlib import Path

import torch

from torch_by_hand import distributed, tensor_of


def build(folder: Path, marker: Path) -> Path:  # noqa: ARG001
    pieces = [((0, 0), (2, 2)), ((1, 1), (2, 2)), ((0, 2), (1, 1))]
    stored = {("a", at): ("__0_0.distcp", torch.ones(sizes)) for at, sizes in pieces}
    return distributed(folder, {"a": tensor_of((3, 3), pieces)}, stored)
