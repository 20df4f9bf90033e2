"""Small real inputs: image folders written to disk, and the shared data where it is."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# Tests run in several processes, whose threads would wait for each other at full speed.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
# A shell's background jobs ignore Ctrl-C, and so would all that the tests start.
for _ignored in (signal.SIGINT, signal.SIGQUIT):
    if signal.getsignal(_ignored) is signal.SIG_IGN:
        signal.signal(_ignored, signal.SIG_DFL)
# What is tested is a CPU's bits, by processes forked from one that has torch. For a device there is
# LUTHIER_CUDA=1 pytest -n 0 tests/test_on_cuda.py
if os.environ.get("LUTHIER_CUDA") != "1":
    os.environ["CUDA_VISIBLE_DEVICES"] = ""

import numpy as np
import pytest
from PIL import Image

from faults import Victims
from stand_in import Driver

LENET = "luthier.models.lenet:LeNet"


def write_photos(
    root: Path, classes: dict[str, int], size: int = 40, seed: int = 0, spread: int = 60
) -> Path:
    """Write noisy PNGs whose mean colours lie ``spread`` apart, class by class."""
    generator = np.random.default_rng(seed)
    for index, (name, count) in enumerate(classes.items()):
        folder = root / name
        folder.mkdir(parents=True, exist_ok=True)
        for number in range(count):
            pixels = generator.normal(60 + spread * index, 50, (size, size, 3)).clip(0, 255)
            Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{number:03d}.png")
    return root


def weights_of_three(folder: Path, **knobs: Any) -> Path:
    """Return a model file of LeNet that has seen three classes for an epoch."""
    import luthier  # noqa: PLC0415 - not every test needs torch
    from luthier.report import Console  # noqa: PLC0415

    three = write_photos(folder / "data", {"x": 9, "y": 9, "z": 9}, seed=5)
    own = {"model": LENET, "image_size": 32, "workers": 0, "weights": "none", "epochs": 1}
    quiet = Console(quiet=True)
    return luthier.finetune(three, out=folder / "run", console=quiet, **own, **knobs).model


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train and val of two classes: 17 and 11 training images, 6 and 5 validation images."""
    root = tmp_path_factory.mktemp("photos")
    write_photos(root / "train", {"cat": 17, "dog": 11}, seed=1)
    write_photos(root / "val", {"cat": 6, "dog": 5}, seed=2)
    return root


@pytest.fixture(scope="session")
def shared() -> Path:
    """The shared data of real photos and weights."""
    beside = Path(__file__).resolve().parents[2] / "shared"
    found = Path(os.environ.get("LUTHIER_SHARED", beside)) / "data"
    if not found.is_dir():
        pytest.skip(f"no shared data at {found}; set LUTHIER_SHARED to where it is")
    return found


@pytest.fixture(scope="module")
def victims(request: pytest.FixtureRequest) -> Iterator[Victims]:
    """Processes that a fault ends, for the functions of the test's module."""
    processes = Victims(request.module.__name__)
    yield processes
    processes.close()


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Driver:
    """A driver of NVIDIA's that has the cards which a test says."""
    return Driver(tmp_path_factory.mktemp("driver"))
