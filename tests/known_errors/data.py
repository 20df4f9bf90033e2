from __future__ import annotations

from pathlib import Path

import torch
from torch.utils.data import DataLoader

from known_errors import Known, Recorded


def of_a_batch(_folder: Path) -> None:
    images = [torch.zeros(3, 8, 8), torch.zeros(3, 8, 9)]
    next(iter(DataLoader(images, batch_size=2)))  # type: ignore[arg-type]


def of_a_batch_in_a_worker(_folder: Path) -> None:
    images = [torch.zeros(3, 8, 8), torch.zeros(3, 8, 9)]
    next(iter(DataLoader(images, batch_size=2, num_workers=1)))  # type: ignore[arg-type]


KNOWN: Known = {"samples-of-unequal-size": [of_a_batch, of_a_batch_in_a_worker]}
RECORDED: Recorded = {}
