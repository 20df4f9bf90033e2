from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from known_errors import Known, Recorded


def all_frozen(_folder: Path) -> None:
    model = nn.Linear(3, 2).requires_grad_(False)
    loss = model(torch.ones(1, 3)).sum()
    loss.backward()


KNOWN: Known = {"nothing-requires-grad": [all_frozen]}
RECORDED: Recorded = {}
