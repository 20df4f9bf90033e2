"""JPEG files → normalised training batches, beside torchvision's transforms in a plain DataLoader.

    python bench/pipeline.py FOLDER [--rounds N] [--batch-size N] [--json FILE]

FOLDER holds a folder of images a class. Both sides read them shuffled, crop at random to 224
pixels, flip and normalise. They take turns, each with 0 and with 2 workers (processes there,
threads here); medians of the rounds, in images a second. "first" is an epoch from the files,
nothing kept; "later" the epoch after it. Workers are started before the clock.
"""

from __future__ import annotations

import argparse
import json
import statistics
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
GOALS = {"first": 1.3, "later": 5.0}  # times as fast as torchvision's
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


def samples_of(folder: Path) -> list[data.Sample]:
    images = vision.load("torchvision.datasets").ImageFolder(folder)
    return [data.Sample(Path(path), label) for path, label in images.samples]


def rate(batches: Iterable[tuple[torch.Tensor, torch.Tensor]]) -> float:
    """Return images a second."""
    started, images = time.perf_counter(), 0
    for batch, _ in batches:
        images += len(batch)
    return images / (time.perf_counter() - started)


def turn(folder: Path, batch_size: int, workers: int) -> dict[str, dict[str, float]]:
    """Measure both sides once."""
    loader = plain(folder, batch_size, workers)
    kept = data.Decoded(data.decoded_edge(HOW), memory=MEMORY)
    batches = data.Batches(
        samples_of(folder),
        HOW,
        data.Augment(),
        batch_size=batch_size,
        shuffle=True,
        workers=workers,
        decoded=kept,
    )
    next(iter(loader))  # starts the workers
    found: dict[str, dict[str, float]] = {}
    for epoch, name in enumerate(("first", "later")):
        found[name] = {"torchvision": rate(loader), "luthier": rate(batches.epoch(epoch))}
    batches.close()
    return found


def main(folder: Path, rounds: int, batch_size: int, out: Path | None) -> None:
    torch.manual_seed(0)
    turns = [{w: turn(folder, batch_size, w) for w in WORKERS} for _ in range(rounds)]
    rows = []
    for workers in WORKERS:
        for name, goal in GOALS.items():
            sides = {
                side: statistics.median(one[workers][name][side] for one in turns)
                for side in ("torchvision", "luthier")
            }
            ratios = [t[workers][name]["luthier"] / t[workers][name]["torchvision"] for t in turns]
            times = statistics.median(ratios)
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
    given = parser.parse_args()
    main(given.folder, given.rounds, given.batch_size, given.json)
