"""SIGKILLs at random moments of real training processes: is every state readable, every bit kept?

    python bench/kills.py [--kills 1000] [--seed 1] [--out FILE]

Two subjects by turns: ``luthier finetune`` of LeNet on small images, and a loop of one's own with
``luthier.Run`` whose state of 25 MB takes a while to write. Each runs once uninterrupted. Then each
is killed again and again, half of the times at a random moment and half of the times while a
checkpoint is being written, and continued until it ends by itself. After every kill each checkpoint
that has its final name must verify; at the end every bit must be that of the uninterrupted run.

Processes are forked from one that has torch imported, since importing takes longer than a kill.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import os
import random
import shutil
import signal
import tempfile
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

# A pool of threads does not survive a fork: whoever then computes in the child waits for ever.
os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np
import torch
from PIL import Image
from torch import nn
from torch.utils.data import Dataset

import luthier
from luthier import checkpoint, vision
from luthier.errors import DamagedError
from luthier.report import Console
from luthier.run import finetune as _finetune
from luthier.run import loop as _loop
from luthier.run.bitwise import compare_runs
from luthier.run.folder import RunFolder

# What a forked process would import for itself each time; nothing may compute before the fork.
PRELOADED = (_finetune, _loop, *map(vision.load, ("torchvision.transforms", "torchvision.models")))

Subject = Callable[[Path], object]


@dataclass
class Tally:
    """What came of the kills."""

    kills: int = 0
    while_saving: int = 0
    before_training: int = 0
    runs: int = 0
    checkpoints: int = 0
    unreadable: list[str] = field(default_factory=list)
    passed_over: int = 0
    differing: list[str] = field(default_factory=list)
    failed: int = 0

    def __str__(self) -> str:
        return (
            f"{self.kills} kills ({self.while_saving} while a checkpoint was written,"
            f" {self.before_training} before the first step) in {self.runs} runs;"
            f" {self.checkpoints} checkpoints looked at after kills: {len(self.unreadable)}"
            f" unreadable; {self.failed} resumes failed; {len(self.differing)} runs with differing"
            " bits"
        )


def write_images(folder: Path) -> Path:
    """Write noisy images of two classes."""
    generator = np.random.default_rng(0)
    for label in ("a", "b"):
        (folder / label).mkdir(parents=True)
        for number in range(20):
            pixels = generator.integers(0, 255, (40, 40, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / label / f"{number:02d}.png")
    return folder


def finetune(images: Path, epochs: int) -> Subject:
    """Return what starts a small job, or continues it."""
    knobs: dict[str, Any] = {
        "model": "luthier.models.lenet:LeNet",
        "weights": "none",
        "image_size": 32,
        "batch_size": 4,
        "epochs": epochs,
        "workers": 1,
        "save_every": "3 steps",
    }

    def subject(folder: Path) -> None:
        console, run = Console(quiet=True), folder / "run"
        if (run / "recipe.toml").exists():
            luthier.resume(run, console=console)
        else:
            shutil.rmtree(run, ignore_errors=True)
            luthier.finetune(images, out=run, console=console, **knobs)

    return subject


class Noise(Dataset[tuple[torch.Tensor, torch.Tensor]]):
    """Random samples that are drawn anew each time."""

    def __len__(self) -> int:
        return 40

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.randn(256) + index / 40, torch.tensor([random.random() + np.random.rand()])


def own_loop(folder: Path, epochs: int) -> None:
    """Train with a loop of one's own, whose state takes a while to write."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(256, 2048), nn.BatchNorm1d(2048), nn.Dropout(), nn.ReLU())
    model = nn.Sequential(model, nn.Linear(2048, 512), nn.Linear(512, 1))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(optimizer, 7)
    run = luthier.Run(
        folder / "run",
        save_every="2 steps",
        console=Console(quiet=True),
        model=model,
        optimizer=optimizer,
        scheduler=scheduler,
    )
    for _epoch in run.epochs(epochs):
        for inputs, targets in run.batches(Noise(), batch_size=4, shuffle=True):
            loss = nn.functional.mse_loss(model(inputs), targets)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            scheduler.step()
            run.log(loss=loss)


def start(subject: Subject, folder: Path) -> int:
    """Fork a process that runs the subject in a group of its own."""
    child = os.fork()
    # Both make the group: the child may not have come so far when its parent kills it.
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.setpgid(child, child)
    if child:
        return child
    try:
        subject(folder)
    except BaseException:
        (folder / "error.txt").write_text(traceback.format_exc())
        os._exit(1)
    os._exit(0)


def ended(child: int) -> int | None:
    """Return the exit status of a process that has ended by itself."""
    found, status = os.waitpid(child, os.WNOHANG)
    return os.waitstatus_to_exitcode(status) if found else None


def kill_at(child: int, folder: Path, moment: float, while_saving: bool) -> int | None:
    """Kill a process at a moment, or in the first save after it; return its status if it ended."""
    while True:
        status = ended(child)
        if status is not None:
            return status
        due = time.monotonic() >= moment
        if due and (not while_saving or any(folder.glob("run/checkpoints/.tmp-step-*"))):
            break
        time.sleep(0.0005)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return None


def look_at_checkpoints(folder: Path, tally: Tally) -> None:
    """Verify every checkpoint that has its final name."""
    place = folder / "run" / "checkpoints"
    for step in checkpoint.steps_in(place):
        tally.checkpoints += 1
        try:
            checkpoint.verify(checkpoint.directory_of(place, step))
        except DamagedError as error:
            tally.unreadable.append(str(error))


def one_run(
    subject: Subject, whole: Path, seconds: float, folder: Path, chance: random.Random, most: int
) -> Tally:
    """Kill and continue a run until it ends by itself; at most so many kills."""
    tally = Tally(runs=1)
    folder.mkdir()
    while True:
        child = start(subject, folder)
        # In the half of its time: what is killed early is killed again further on.
        moment = time.monotonic() + chance.uniform(0, seconds / 2)
        if tally.kills >= most:
            moment = float("inf")
        while_saving = chance.random() < 0.5
        saving_before = any(folder.glob("run/checkpoints/.tmp-step-*"))
        status = kill_at(child, folder, moment, while_saving)
        if status is not None:
            break
        tally.kills += 1
        saving = any(folder.glob("run/checkpoints/.tmp-step-*"))
        tally.while_saving += saving and not saving_before
        tally.before_training += not (folder / "run" / "metrics.jsonl").exists()
        look_at_checkpoints(folder, tally)
    if status:
        tally.failed += 1
        tally.differing.append((folder / "error.txt").read_text())
        return tally
    a, b = ({"run": RunFolder(place / "run")} for place in (whole, folder))
    differences, _ = compare_runs(a, b)
    tally.differing += [str(difference) for difference in differences[:1]]
    return tally


def run_whole(subject: Subject, folder: Path) -> float:
    """Run a subject uninterrupted, in a new folder, and return its seconds."""
    folder.mkdir()
    began = time.monotonic()
    _, status = os.waitpid(start(subject, folder), 0)
    if status:
        raise SystemExit((folder / "error.txt").read_text())
    return time.monotonic() - began


def subjects_at(place: Path, epochs: int = 4) -> dict[str, Subject]:
    """Return both subjects; images are written to ``place``."""
    return {
        "finetune": finetune(write_images(place / "images"), epochs),
        "own loop": functools.partial(own_loop, epochs=epochs),
    }


def measure(
    kills: int,
    seed: int,
    place: Path,
    subjects: Mapping[str, Subject],
    tell: Callable[[Tally], object] = lambda _tally: None,
) -> Tally:
    """Kill subjects by turns until there were so many kills; ``tell`` hears after each run."""
    chance = random.Random(seed)
    seconds = {name: run_whole(s, place / f"whole {name}") for name, s in subjects.items()}
    total, number = Tally(), 0
    while total.kills < kills:
        name = list(subjects)[number % len(subjects)]
        number += 1
        if number % 20 == 0:  # the machine's pace changes, and with it what a random moment is
            for again, subject in subjects.items():
                seconds[again] = run_whole(subject, place / "pace")
                shutil.rmtree(place / "pace")
        most = min(20, kills - total.kills)
        folder = place / f"run {number}"
        found = one_run(
            subjects[name], place / f"whole {name}", seconds[name], folder, chance, most
        )
        shutil.rmtree(folder)
        for key, value in vars(found).items():
            setattr(total, key, getattr(total, key) + value)
        tell(total)
    return total


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    began = time.monotonic()

    def write(tally: Tally) -> None:
        lines = [f"torch {torch.__version__}, seed {arguments.seed}", str(tally)]
        lines += [*tally.unreadable[:5], *tally.differing[:5]]
        lines.append(f"{time.monotonic() - began:.0f} s")
        if arguments.out:
            arguments.out.write_text("\n".join(lines) + "\n")

    with tempfile.TemporaryDirectory(prefix="kills-") as place:
        subjects = subjects_at(Path(place))
        tally = measure(arguments.kills, arguments.seed, Path(place), subjects, write)
    print(tally)
    raise SystemExit(bool(tally.unreadable or tally.differing or tally.failed))


if __name__ == "__main__":
    main()
