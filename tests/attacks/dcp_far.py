"""An item that is said to have been at place two billion of a list.

A list has at most as many places as the checkpoint has items.
"""

from __future__ import annotations

from pathlib import Path

import torch

from torch_by_hand import distributed, tensor_of


def build(folder: Path, marker: Path) -> Path:  # noqa: ARG001
    described = {"a": tensor_of((2,), [((0,), (2,))])}
    stored = {("a", (0,)): ("__0_0.distcp", torch.ones(2))}
    return distributed(folder, described, stored, {"a": ("list", 2_000_000_000)})
