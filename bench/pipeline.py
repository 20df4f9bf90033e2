"""JPEG files → normalised training batches, beside torchvision's transforms in a plain DataLoader.

    python bench/pipeline.py FOLDER [--rounds N] [--batch-size N] [--json FILE]

FOLDER holds a folder of images a class. Both sides read them shuffled, crop at random to 224
pixels, flip and normalise. They take turns, each with 0 and with 2 workers (processes there,
threads here), each turn in a process of its own, as a fork would slow down whatever else is in it;
medians of the rounds, in images a second. "first" is an epoch from the files, nothing kept; "later"
the epoch after it. Before the clock, workers are started and one batch is read, so that no import
is counted.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader

from luthier import data, vision
from luthier.values import Preprocessing

MEAN, STD, SIZE = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), 224
HOW = Preprocessing(256, SIZE, "bilinear", MEAN, STD)
WORKERS = (0, 2)
EPOCHS = {"first": 1.3, "later": 5.0}  # and how many times as fast as torchvision's it is to be
MEMORY = 2**32


def plain(folder: Path, batch_size: int, workers: int) -> DataLoader[Any]:
    t = vision.load("torchvision.transforms")
    steps = [t.RandomResizedCrop(SIZE), t.RandomHorizontalFlip(), t.ToTensor()]
    images = vision.load("torchvision.datasets").ImageFolder(
        folder, t.Compose([*steps, t.Normalize(MEAN, STD)])
    )
    return DataLoader(
        images,
        batch_size,
        shuffle=True,
        num_workers=workers,
        persistent_workers=workers > 0,
    )


def rate(batches: Iterable[tuple[torch.Tensor, torch.Tensor]]) -> float:
    """Return images a second."""
    started, images = time.perf_counter(), 0
    for batch, _ in batches:
        images += len(batch)
    return images / (time.perf_counter() - started)


def torchvisions(folder: Path, batch_size: int, workers: int) -> list[float]:
    """Return images a second of the first epoch and of a later one."""
    loader = plain(folder, batch_size, workers)
    next(iter(loader))
    return [rate(loader) for _ in EPOCHS]


def luthiers(folder: Path, batch_size: int, workers: int) -> list[float]:
    """Return images a second of the first epoch and of a later one."""
    images = vision.load("torchvision.datasets").ImageFolder(folder)
    samples = [data.Sample(Path(path), label) for path, label in images.samples]
    make = functools.partial(
        data.Batches, how=HOW, augment=data.Augment(), batch_size=batch_size, workers=workers
    )
    with contextlib.closing(make(samples[:batch_size])) as warm:
        next(warm.epoch())
    kept = data.Decoded(data.decoded_edge(HOW), memory=MEMORY)
    with contextlib.closing(make(samples, shuffle=True, decoded=kept)) as batches:
        return [rate(batches.epoch(epoch)) for epoch in range(len(EPOCHS))]


SIDES = {"torchvision": torchvisions, "luthier": luthiers}


def turn(folder: Path, batch_size: int, workers: int) -> dict[str, list[float]]:
    """Measure both sides once."""
    words = [str(folder), "--batch-size", str(batch_size), "--workers", str(workers), "--side"]
    found = {}
    for side in SIDES:
        command = [sys.executable, __file__, *words, side]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        found[side] = json.loads(done.stdout)
    return found


def main(folder: Path, rounds: int, batch_size: int, out: Path | None) -> None:
    turns = [{w: turn(folder, batch_size, w) for w in WORKERS} for _ in range(rounds)]
    rows = []
    for workers in WORKERS:
        for epoch, (name, goal) in enumerate(EPOCHS.items()):
            pairs = [{side: t[workers][side][epoch] for side in SIDES} for t in turns]
            sides = {side: statistics.median(pair[side] for pair in pairs) for side in SIDES}
            times = statistics.median(pair["luthier"] / pair["torchvision"] for pair in pairs)
            rows.append({"workers": workers, "epoch": name, **sides, "ratio": times, "goal": goal})
            print(
                f"{workers} workers, {name} epoch: torchvision {sides['torchvision']:7.0f}"
                f"  luthier {sides['luthier']:7.0f} images/s  {times:5.2f} x (goal {goal} x)"
            )
    print(
        f"torch {torch.__version__}, {torch.get_num_threads()} threads, {rounds} rounds, by turns"
    )
    if out is not None:
        out.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--side", choices=SIDES, help="measure one side once, in this process")
    parser.add_argument("--workers", type=int, default=0, help="with --side")
    given = parser.parse_args()
    torch.manual_seed(0)
    if given.side:
        print(json.dumps(SIDES[given.side](given.folder, given.batch_size, given.workers)))
    else:
        main(given.folder, given.rounds, given.batch_size, given.json)
