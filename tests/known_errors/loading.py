from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from known_errors import Known, Recorded


def of_data_parallel(_folder: Path) -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    weights = nn.DataParallel(model).state_dict()
    model.load_state_dict(weights)


def of_compiled(_folder: Path) -> None:
    net = nn.Linear(3, 4)
    net.load_state_dict(torch.compile(net).state_dict())


KNOWN: Known = {"module-prefix": [of_data_parallel, of_compiled]}
RECORDED: Recorded = {}
