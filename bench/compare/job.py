"""The one job that every script here does, and what each prints when it is done.

Photos, start weights, augmentation, batch size and epochs are the same for all; the rest is what
the library's own documentation does with them. A script prints one line of JSON: the seconds of
each training epoch and of each validation, images a training epoch, and the last accuracy.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from luthier import vision

vision.load()  # torchvision beside a torch that its compiled part was not built for

from torchvision import models, transforms  # noqa: E402
from torchvision.datasets import ImageFolder  # noqa: E402

MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
LR, MOMENTUM, FALL_EVERY, FALL = 0.001, 0.9, 7, 0.1
WORKERS = 2


@dataclass(frozen=True)
class Job:
    """What is asked for.

    Attributes:
        data: a folder with ``train/`` and ``val/`` of class folders.
        model: torchvision's name.
        weights: a file with the state of that model of 1000 classes.
        strategy: "full", or "frozen" where only a new last layer learns.
        epochs: passes over the training photos.
        batch_size: photos in a batch.
        seed: of the new last layer, the order and the augmentation.
        out: an empty folder; the model file is written there.
        device: the machine's accelerator, or "cpu".
    """

    data: Path
    model: str
    weights: Path
    strategy: str
    epochs: int
    batch_size: int
    seed: int
    out: Path
    device: str


def asked(words: list[str] | None = None) -> tuple[Job, list[str]]:
    """Return the job of the command line, and what follows it."""
    parser = argparse.ArgumentParser()
    for name in ("data", "weights", "out"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--strategy", default="full")
    for name, default in {"epochs": 3, "batch-size": 16, "seed": 0}.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    values, rest = parser.parse_known_args(words)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(values.seed)
    return Job(**vars(values), device=device), rest


def photos(job: Job) -> tuple[ImageFolder, ImageFolder]:
    """Return the training and validation photos as the transfer-learning tutorial reads them."""
    normalise = [transforms.ToTensor(), transforms.Normalize(MEAN, STD)]
    learn = [transforms.RandomResizedCrop(224), transforms.RandomHorizontalFlip(), *normalise]
    look = [transforms.Resize(256), transforms.CenterCrop(224), *normalise]
    return (
        ImageFolder(str(job.data / "train"), transforms.Compose(learn)),
        ImageFolder(str(job.data / "val"), transforms.Compose(look)),
    )


def start(job: Job, classes: int) -> nn.Module:
    """Return the model with the start weights and a new last layer, as the tutorial makes it."""
    model: nn.Module = models.get_model(job.model, weights=None)
    model.load_state_dict(torch.load(job.weights, weights_only=True))
    if job.strategy == "frozen":
        model.requires_grad_(False)
    name, old = [(n, m) for n, m in model.named_modules() if isinstance(m, nn.Linear)][-1]
    model.set_submodule(name, nn.Linear(old.in_features, classes))
    return model.to(job.device)


def sgd(model: nn.Module) -> torch.optim.Optimizer:
    """Return the tutorial's optimizer of what learns."""
    learns = [p for p in model.parameters() if p.requires_grad]
    return torch.optim.SGD(learns, lr=LR, momentum=MOMENTUM)


def falling(optimizer: torch.optim.Optimizer) -> torch.optim.lr_scheduler.LRScheduler:
    """Return the tutorial's schedule, of which each epoch is a step."""
    return torch.optim.lr_scheduler.StepLR(optimizer, step_size=FALL_EVERY, gamma=FALL)


class Watch:
    """Takes the seconds of every training epoch and validation."""

    def __init__(self) -> None:
        self.seconds: dict[str, list[float]] = {"train": [], "val": []}
        self._began: dict[str, float] = {}

    def start(self, kind: str) -> None:
        self._began[kind] = time.perf_counter()

    def stop(self, kind: str) -> None:
        """End what ``start`` began; a second end is no end."""
        if kind in self._began:
            self.seconds[kind].append(time.perf_counter() - self._began.pop(kind))

    @contextlib.contextmanager
    def of(self, kind: str) -> Iterator[None]:
        self.start(kind)
        yield
        self.stop(kind)

    def report(self, images: int, accuracy: float | None, **more: object) -> None:
        """Print the line."""
        print(json.dumps({**self.seconds, "images": images, "accuracy": accuracy, **more}))
