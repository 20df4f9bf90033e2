"""Seconds from a file of weights to a loaded model: luthier beside safetensors and torch.

    python bench/opening.py [--rounds 15] [--models resnet18,vit_b_16]

Each measurement is a process of its own, forked from one that has imported everything and has
opened nothing. It has the model, writes to all of it once, loads a file of two tensors, and is then
timed from the path to the model with all weights in it, on one thread: by ``load_state_dict``, or
by ``luthier.load``, which decides besides what goes where. The files are in the page cache for all
alike. The methods take turns (A B A B), the first of a round changes from round to round, and a
ratio is the median of the ratios within each round: of the clock, and of the processor's seconds,
which the other programs of a busy machine disturb less. "safetensors again" is the first method
once more: how far its ratio is from 1 is what the measurement cannot tell apart.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn

import luthier
from luthier import vision
from luthier.files import tensors
from luthier.files.opening import open_archive

Load = Callable[[nn.Module, Path], object]


def by_safetensors(model: nn.Module, path: Path) -> None:
    model.load_state_dict(load_file(path))


def by_torch(model: nn.Module, path: Path) -> None:
    model.load_state_dict(torch.load(path, mmap=True, weights_only=True))


def by_luthier(model: nn.Module, path: Path) -> None:
    model.load_state_dict(dict(tensors.Tensors(open_archive(path).content)))


METHODS: dict[str, dict[str, Load]] = {
    "safetensors": {
        "safetensors": by_safetensors,
        "safetensors again": by_safetensors,
        "luthier's reader": by_luthier,
        "luthier.load": luthier.load,
    },
    "torch zip": {
        "torch.load(mmap=True)": by_torch,
        "luthier, CRC compared": by_luthier,
    },
}


def build(name: str) -> nn.Module:
    with torch.device("meta"):
        model: nn.Module = getattr(vision.load("torchvision.models"), name)()
    model = model.to_empty(device="cpu")
    with torch.no_grad():
        for tensor in model.state_dict().values():
            tensor.fill_(1)
    return model


def seconds(load: Load, path: Path, model_name: str) -> list[float]:
    """Return the seconds of the clock and of the processor."""
    model = build(model_name)
    load(nn.Linear(3, 2), path.with_name(f"small{path.suffix}"))
    clock, processor = time.perf_counter(), time.process_time()
    load(model, path)
    return [time.perf_counter() - clock, time.process_time() - processor]


def apart(load: Load, path: Path, model_name: str) -> list[float]:
    """Measure in a process of its own."""
    here, there = os.pipe()
    child = os.fork()
    if not child:
        try:
            os.write(there, json.dumps(seconds(load, path, model_name)).encode())
            os._exit(0)
        finally:
            os._exit(1)
    os.close(there)
    with os.fdopen(here, "rb") as pipe:
        answer = pipe.read()
    if os.waitpid(child, 0)[1]:
        raise RuntimeError(f"the measurement of {path} failed")
    found: list[float] = json.loads(answer)
    return found


def measure(path: Path, model_name: str, kind: str, rounds: int) -> None:
    methods = METHODS[kind]
    names = list(methods)
    found: dict[str, list[list[float]]] = {name: [] for name in names}
    for number in range(rounds):
        turn = number % len(names)
        for name in names[turn:] + names[:turn]:
            found[name].append(apart(methods[name], path, model_name))
    for name in names:
        line = f"  {name:<22}"
        for unit in (0, 1):
            times = [pair[unit] for pair in found[name]]
            ratios = [t / pair[unit] for t, pair in zip(times, found[names[0]], strict=True)]
            low, middle, high = statistics.quantiles(ratios, n=4)
            line += f"{1000 * statistics.median(times):8.1f} ms{middle:6.2f} ({low:.2f}-{high:.2f})"
        print(line, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--models", default="resnet18,vit_b_16")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    print(f"torch {torch.__version__}, {asked.rounds} rounds")
    with tempfile.TemporaryDirectory() as folder:
        for name in asked.models.split(","):
            files = {kind: Path(folder, f"{name}.{number}") for number, kind in enumerate(METHODS)}
            for state, which in ((build(name), name), (nn.Linear(3, 2), "small")):
                first, second = (path.with_stem(which) for path in files.values())
                save_file(state.state_dict(), first)
                torch.save(state.state_dict(), second)
            for kind, path in files.items():
                size = path.stat().st_size / 1e6
                title = f"{name}, {kind}, {size:.0f} MB"
                print(f"\n{title:<24}   clock  ratio (middle half)  processor  ratio (middle half)")
                measure(path, name, kind, asked.rounds)


if __name__ == "__main__":
    main()
