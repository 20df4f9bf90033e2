"""What ``run.batches`` costs a step, against a bare loop over the same data.

    python bench/overhead.py [STEPS] [ROUNDS]

A model of one layer, batches of 16, no workers, no saves in between: nothing hides the overhead.
The loops take turns; medians of the rounds and of their differences, in microseconds a step. It is
the processor time of the one thread that does all of it, so that what else the machine does counts
for little.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

import luthier
from luthier.report import Console

BATCH = 16
GOAL = 30  # microseconds


class Rows(Dataset[tuple[torch.Tensor, torch.Tensor]]):
    """A data set that luthier does not know: each of its samples is keyed."""

    def __init__(self, whole: TensorDataset) -> None:
        self.whole = whole

    def __len__(self) -> int:
        return len(self.whole)

    def __getitem__(self, index: int) -> Any:
        return self.whole[index]


def learner() -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(0)
    model = nn.Linear(8, 3)
    return model, torch.optim.SGD(model.parameters(), lr=0.01)


def train(model: nn.Module, optimizer: torch.optim.Optimizer, batches: Iterable[Any]) -> float:
    """Return microseconds a step; the first, which may begin an epoch, does not count."""
    began, steps = 0.0, -1
    for inputs, labels in batches:
        if steps < 0:
            began = time.thread_time()
        steps += 1
        loss = nn.functional.cross_entropy(model(inputs), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return (time.thread_time() - began) / steps * 1e6


def bare(loader: Callable[[], DataLoader[Any]]) -> float:
    model, optimizer = learner()
    return train(model, optimizer, loader())


def with_run(loader: Callable[[], DataLoader[Any]]) -> float:
    model, optimizer = learner()
    with tempfile.TemporaryDirectory() as place:
        quiet = Console(quiet=True)
        run = luthier.Run(Path(place), console=quiet, model=model, optimizer=optimizer)
        with run:
            found = [train(model, optimizer, run.batches(loader())) for _epoch in run.epochs(1)]
    return found[0]


def main(steps: int, rounds: int) -> None:
    torch.set_num_threads(1)
    data = TensorDataset(torch.randn(BATCH * steps, 8), torch.randint(0, 3, (BATCH * steps,)))

    def plain() -> DataLoader[Any]:
        return DataLoader(data, BATCH, shuffle=True)

    def keyed() -> DataLoader[Any]:
        return DataLoader(Rows(data), BATCH, shuffle=True)

    for name, loader in {"TensorDataset": plain, "own data set": keyed}.items():
        pairs = [(bare(loader), with_run(loader)) for _ in range(rounds)]
        alone, ours = (statistics.median(column) for column in zip(*pairs, strict=True))
        more = statistics.median(run - without for without, run in pairs)
        print(
            f"{name:<14} bare {alone:6.1f} µs  Run {ours:6.1f} µs  difference {more:6.1f} µs a step"
        )
    print(f"torch {torch.__version__}, {rounds} rounds of {steps} steps, by turns")
    print(f"goal: a difference of {GOAL} µs for a TensorDataset; {BATCH} samples a batch")


if __name__ == "__main__":
    words = [int(word) for word in sys.argv[1:]]
    main(*(words + [300, 50][len(words) :]))
