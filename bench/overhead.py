"""What ``run.batches`` costs a step, against a bare loop over the same data.

    python bench/overhead.py [STEPS] [ROUNDS]

A model of one layer, batches of 16, no workers, no saves in between: nothing hides the overhead.
The loops take turns; medians of the rounds, in microseconds a step.
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
            began = time.perf_counter()
        steps += 1
        loss = nn.functional.cross_entropy(model(inputs), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return (time.perf_counter() - began) / steps * 1e6


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
    data = TensorDataset(torch.randn(BATCH * steps, 8), torch.randint(0, 3, (BATCH * steps,)))

    def plain() -> DataLoader[Any]:
        return DataLoader(data, BATCH, shuffle=True)

    def keyed() -> DataLoader[Any]:
        return DataLoader(Rows(data), BATCH, shuffle=True)

    loops = {
        ("TensorDataset", "bare"): lambda: bare(plain),
        ("TensorDataset", "Run"): lambda: with_run(plain),
        ("own data set", "bare"): lambda: bare(keyed),
        ("own data set", "Run"): lambda: with_run(keyed),
    }
    found: dict[tuple[str, str], list[float]] = {name: [] for name in loops}
    for _ in range(rounds):
        for name, loop in loops.items():
            found[name].append(loop())
    for data_set in ("TensorDataset", "own data set"):
        alone, ours = (statistics.median(found[data_set, how]) for how in ("bare", "Run"))
        print(
            f"{data_set:<14} bare {alone:6.1f} µs  Run {ours:6.1f} µs"
            f"  difference {ours - alone:6.1f} µs a step"
        )
    print(f"goal: a difference of {GOAL} µs for a TensorDataset; {BATCH} samples a batch")


if __name__ == "__main__":
    words = [int(word) for word in sys.argv[1:]]
    main(*(words + [2000, 15][len(words) :]))
