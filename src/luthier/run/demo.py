"""The whole life of a model in under a minute: learn, crash, resume, compare, fine-tune.

Everything that is said is measured in the run that says it.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from luthier import checkpoint
from luthier.errors import missing_extra
from luthier.report import Console, draw_comparison, read_metrics, table
from luthier.run.finetune import Result, finetune, resume
from luthier.run.folder import free_folder, new_run
from luthier.values import Step, Tally

STRATEGIES = ("scratch", "full", "frozen", "discriminative")
_LOOK: dict[str, Any] = {"image_size": 32, "resize": 32, "augment": "none", "workers": 0}
_LENET: dict[str, Any] = {"model": "luthier.models.lenet:LeNet", "optimizer": "sgd", "seed": 1}
_LEARN = {**_LOOK, **_LENET, "weights": "none", "lr": 0.01, "epochs": 6, "batch_size": 32}
_TUNE = {**_LOOK, **_LENET, "lr": 0.005, "epochs": 15, "batch_size": 5, "step_size": 10}
_FEW = 5  # training images a class in the second half
_HELD_OUT = 60  # validation images a class there
_CRASH_AT = 80  # batches; in the middle of the fourth epoch


@dataclass(frozen=True)
class Demo:
    """What the demo found.

    Attributes:
        identical: whether the resumed run ended with the bits of the uninterrupted one.
        runs: the fine-tuning runs by strategy.
        picture: where their curves are compared.
        seconds: from beginning to end.
    """

    identical: bool
    runs: dict[str, Result]
    picture: Path
    seconds: float


def demo(out: str | Path | None = None, say: Callable[[str], None] = print) -> Demo:
    """Train LeNet on digits, kill it, resume it, and fine-tune it on digits it has not seen.

    Args:
        out: a new folder; ``runs/demo`` by default.
        say: takes each line.

    Raises:
        MissingExtraError: scikit-learn, whose digits are used, is not installed.
        RunFolderError: ``out`` is not empty.
    """
    started = time.monotonic()
    folder = new_run(Path(out) if out else free_folder(Path("runs/demo")), "demo").path
    first, second = _write_digits(folder)
    say(f"1. scikit-learn's handwritten digits, 8 x 8 pixels, as image folders in {folder}")
    whole = finetune(first, out=folder / "uninterrupted", console=Console(quiet=True), **_LEARN)
    say(f"2. LeNet learns the digits 0 to 4 from scratch in {whole.seconds:.1f} s")
    say(f"   validation: {whole.last.accuracy}")
    crashed = _crash_and_resume(first, folder / "killed", say)
    identical = _compare(whole, crashed, say)
    say(f"4. its weights start what learns the digits 5 to 9 from {_FEW} images each")
    runs = {name: _tune(second, folder / name, name, whole.model) for name in STRATEGIES}
    say(_table(runs))
    picture = folder / "strategies.png"
    records = {name: read_metrics(result.run / "metrics.jsonl") for name, result in runs.items()}
    draw_comparison(records, picture, f"LeNet on the digits 5 to 9, {_FEW} training images each")
    seconds = time.monotonic() - started
    say(f"5. their curves, side by side: {picture}")
    say(f"all of it in {seconds:.0f} s; each run's folder is in {folder}")
    return Demo(identical, runs, picture, seconds)


def _write_digits(folder: Path) -> tuple[Path, Path]:
    try:
        from sklearn.datasets import load_digits  # noqa: PLC0415 - an extra
    except ModuleNotFoundError:
        raise missing_extra("scikit-learn", "demo", "the demo") from None
    digits = load_digits()
    seen: dict[int, int] = {}
    for image, label in zip(digits.images, digits.target.tolist(), strict=True):
        count = seen.get(label, 0)
        seen[label] = count + 1
        if label >= 5 and count >= _FEW + _HELD_OUT:
            continue
        half = "digits-0-4" if label < 5 else "digits-5-9"
        learns = count % 5 if label < 5 else count < _FEW
        place = folder / half / ("train" if learns else "val") / str(label)
        place.mkdir(parents=True, exist_ok=True)
        pixels = np.rint(image * 255 / 16).astype(np.uint8)
        Image.fromarray(pixels).save(place / f"{count:03d}.png")
    return folder / "digits-0-4", folder / "digits-5-9"


class _KillsItself(Console):
    """Ends its process as a crash would, with no chance to clean up."""

    def __init__(self, after: int) -> None:
        super().__init__(quiet=True)
        self._left = after

    def step(self, step: Step, tally: Tally, epochs: int) -> None:
        self._left -= 1
        if self._left == 0:
            os.kill(os.getpid(), getattr(signal, "SIGKILL", signal.SIGTERM))
        super().step(step, tally, epochs)


def _train_until_killed(data: Path, out: Path, knobs: dict[str, Any]) -> None:
    finetune(data, out=out, console=_KillsItself(_CRASH_AT), **knobs)


def _crash_and_resume(data: Path, out: Path, say: Callable[[str], None]) -> Result:
    context = multiprocessing.get_context("spawn")  # a process of its own, not a copy of this one
    process = context.Process(target=_train_until_killed, args=(data, out, _LEARN))
    process.start()
    process.join()
    steps = checkpoint.steps_in(out / "checkpoints")
    say(
        f"3. the same once more, killed at step {_CRASH_AT} (exit code {process.exitcode});"
        f" resumed at step {steps[-1] if steps else 0}"
    )
    return resume(out, console=Console(quiet=True))


def _compare(whole: Result, crashed: Result, say: Callable[[str], None]) -> bool:
    ends = [_last_checkpoint(result) for result in (whole, crashed)]
    files = [checkpoint.verify(end)["files"] for end in ends]
    identical = bool(files[0] == files[1])
    for name in sorted(files[0]):
        one, other = (found[name]["sha256"][:12] for found in files)
        say(f"   {name:<22} uninterrupted {one}, killed and resumed {other}")
    say(
        f"   after {whole.summary['steps']} steps: {'identical' if identical else 'DIFFERENT'} bits"
    )
    return identical


def _last_checkpoint(result: Result) -> Path:
    return sorted((result.run / "checkpoints").iterdir())[-1]


def _tune(data: Path, out: Path, strategy: str, weights: Path) -> Result:
    start: dict[str, Any] = {} if strategy == "scratch" else {"weights": str(weights)}
    return finetune(data, out=out, strategy=strategy, console=Console(quiet=True), **start, **_TUNE)


def _table(runs: dict[str, Result]) -> str:
    rows = []
    for name, result in runs.items():
        low, high = result.last.accuracy.interval()
        rows.append(
            [
                name,
                f"{100 * result.last.accuracy.value:.1f} %",
                f"{100 * low:.1f} to {100 * high:.1f} %",
                f"{result.last.loss:.3f}",
                f"{result.seconds:.1f}",
            ]
        )
    header = ["strategy", "validation", "95 % interval", "loss", "seconds"]
    return "\n".join("   " + line for line in table(header, rows).splitlines())
