"""One setting in a process of its own: it may run out of memory, crash or hang there.

``python -m luthier.run.trial`` reads a ``Request`` from its standard input, a line of JSON, and
answers with lines of JSON: what it found, then the memory that its first steps took, or why they
failed. Each line after that asks for a round of training steps. The end of its input is its end.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import itertools
import json
import os
import queue
import shutil
import sys
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, NoReturn

import torch

from luthier import devices, recipe, training
from luthier.data import Inventory
from luthier.errors import DamagedError, LuthierError, is_out_of_memory
from luthier.files import durable
from luthier.recipe import decided
from luthier.report import Console
from luthier.run.folder import RunFolder
from luthier.run.job import Job, prepare
from luthier.run.session import Session
from luthier.tuning import Facts, Measured, Setting
from luthier.values import Position

_PASS = 8  # batches of a pass; a round is made of whole passes


@dataclass(frozen=True)
class Request:
    """What a trial is asked for.

    Attributes:
        recipe: of the run, as TOML, with the setting in it.
        scratch: a folder for what a run would write.
        inventory: where what is known of the images lies, or is put for the trials after.
        memory: bytes that it may take of the machine's memory, or None.
        reserve: part of a device's memory that is to stay free.
    """

    recipe: str
    scratch: str
    inventory: str
    memory: int | None
    reserve: float


class Trial:
    """A job whose training steps are taken and measured; its weights stand still.

    Args:
        job: ready to start; a job of several stages is measured in its last, where most learns.
        scratch: a new folder.
    """

    def __init__(self, job: Job, scratch: Path) -> None:
        self._job = job
        scratch.mkdir(parents=True)
        # The run's own learner and batches: what is measured is what a run does.
        self._session = Session(job, RunFolder(scratch), Console())
        for epoch in range(self._session.epochs):
            self._session.enter(epoch)
        self._learner = self._session.learner
        self._learner.micro = None  # what does not fit is to be an answer
        self._learner.lr = 0.0  # the same work as at any other rate, and nothing can diverge
        group = self._learner.accumulate
        self._pass = -(-_PASS // group) * group
        self._is_warm = False

    def begin(self) -> int:
        """Take the first two steps, after which all memory is taken; return its peak in bytes."""
        self._train(2 * self._learner.accumulate)
        return self._peak()

    def measure(self, seconds: float) -> Measured:
        """Train for whole passes over the same few batches, for so many seconds at least.

        A first pass that is not measured reads the images, which later epochs find decoded.
        """
        if not self._is_warm:
            self._train(self._pass)
            self._is_warm = True
        spent = self._learner.clock.seconds
        spent.clear()
        images, began, elapsed = 0, time.perf_counter(), 0.0
        while elapsed < seconds:
            images += self._train(self._pass)
            elapsed = time.perf_counter() - began
        self._give_memory_back()
        kinds: dict[str, float] = dict(spent)
        kinds["computing"] = elapsed - sum(kinds.values())
        return Measured(images, elapsed, kinds, self._peak())

    def close(self) -> None:
        """End the workers."""
        self._session.close()

    def _train(self, batches: int) -> int:
        sizes = self._session.sizes[:batches]
        with contextlib.closing(self._session.train.epoch(0)) as source:
            some = itertools.islice(source, len(sizes))
            with torch.random.fork_rng(devices=[]), training.reproducible():
                steps = training.train_epoch(self._learner, some, sizes, Position())
                return sum(step.images for step in steps)

    def _peak(self) -> int:
        if torch.device(self._job.chosen.device.value).type == "cuda":
            return torch.cuda.max_memory_reserved(self._job.chosen.device.value)
        return _resident("VmHWM:")

    def _give_memory_back(self) -> None:
        # Another trial is measured next, on the same device.
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def _facts(job: Job, request: Request) -> Facts:
    machine, how = job.recipe.machine, job.recipe.training
    device = job.chosen.device.value
    setting = Setting(
        batch_size=decided(how.batch_size),
        accumulate=decided(job.recipe.optimizer.accumulate),
        precision=job.precision.name,
        compile=bool(machine.compile),
        pin_memory=device.startswith("cuda") and machine.pin_memory is not False,
        workers=int(job.chosen.workers.value),
    )
    # On a CPU training shares the memory with the photos that are kept decoded.
    memory = (request.memory or sys.maxsize) - _kept(job)
    if device.startswith("cuda"):
        free, _ = torch.cuda.mem_get_info(device)
        memory = int(free * (1 - request.reserve))
    images, epochs = len(job.photos.train), decided(how.epochs)
    return Facts(setting, device, images, epochs, memory, _compiler(device))


def _kept(job: Job) -> int:
    """Return the bytes of decoded photos that are in memory."""
    found = (job.decoded.find(sample.path) for sample in (*job.photos.train, *job.photos.val))
    return sum(pixels.nbytes for pixels in found if pixels is not None)


def _compiler(device: str) -> str:
    """Return what torch.compile would compile with for a device; "" where nothing is there."""
    if device.startswith("cuda"):
        return "triton" if importlib.util.find_spec("triton") else ""
    if device != "cpu":
        return ""
    named = os.environ.get("CXX")
    return next((c for c in (named, "g++", "clang++", "cl") if c and shutil.which(c)), "")


def _limit_memory(most: int) -> None:
    """Let an allocation fail that would take more than ``most`` bytes, before anyone is killed."""
    import resource  # noqa: PLC0415 - not on every system

    # The limit counts what was asked for, touched or not.
    slack = max(0, _resident("VmData:") - _resident("VmRSS:"))
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (most + slack, hard))
    # And where the kernel has to choose a victim, let it be this process.
    Path("/proc/self/oom_score_adj").write_text("1000", encoding="utf-8")


def _resident(field: str) -> int:
    """Return a field of what the kernel says of this process's memory, in bytes."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
            if line.startswith(field):
                return int(line.split()[1]) * 1024
    return 0


class _Lines:
    """The lines of standard input; its end ends the process, whatever that is doing."""

    def __init__(self) -> None:
        self._lines: queue.Queue[str] = queue.Queue()
        # Read by another name: what is forked closes sys.stdin, whose lock the thread would hold.
        stream = os.fdopen(os.dup(0), encoding="utf-8")
        with open(os.devnull, encoding="utf-8") as nothing:
            os.dup2(nothing.fileno(), 0)
        threading.Thread(target=self._read, args=(stream,), daemon=True).start()

    def _read(self, stream: IO[str]) -> None:
        for line in stream:
            self._lines.put(line)
        os._exit(0)

    def next(self) -> Any:
        return json.loads(self._lines.get())


def _known(path: Path) -> Inventory | None:
    with contextlib.suppress(FileNotFoundError, DamagedError):
        return Inventory.from_json(path.read_bytes(), str(path))
    return None


def _serve(lines: _Lines, answer: Callable[[Any], None]) -> None:
    request = Request(**lines.next())
    wanted = recipe.resolve(recipe.from_toml(request.recipe))
    inventory = Path(request.inventory)
    known = _known(inventory)
    # What the parent has leased is taken from there, and held to its share.
    with devices.hold(decided(wanted.machine.device)) as hold:
        job = prepare(wanted, Console(), held=hold.choice(), known=known)
        if known is None:
            durable.write_text(inventory, job.photos.inventory.to_json())
        _measure(job, request, lines, answer)


def _measure(job: Job, request: Request, lines: _Lines, answer: Callable[[Any], None]) -> NoReturn:
    answer({"facts": dataclasses.asdict(_facts(job, request))})
    if job.chosen.device.value == "cpu" and request.memory is not None:
        with contextlib.suppress(ImportError, OSError, ValueError):
            _limit_memory(request.memory)
    began = time.perf_counter()
    trial = Trial(job, Path(request.scratch))
    with contextlib.closing(trial):
        peak = trial.begin()
        answer({"peak": peak, "seconds": time.perf_counter() - began})
        while True:
            answer(dataclasses.asdict(trial.measure(lines.next()["seconds"])))


def main() -> None:
    """Serve one parent."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8", buffering=1)
    os.dup2(2, 1)  # what anything prints is no answer

    def answer(value: Any) -> None:
        answers.write(json.dumps(value) + "\n")

    try:
        _serve(_Lines(), answer)
    except LuthierError as error:
        name = type(error).__name__
        answer({"error": name, "what": error.what, "cure": error.cure})
    except Exception as error:
        if not is_out_of_memory(error):
            traceback.print_exc()
            sys.stderr.flush()
            os._exit(1)
        answer({"out_of_memory": str(error).splitlines()[0] if str(error) else "MemoryError"})
    os._exit(0)  # the thread that reads would keep the interpreter's end waiting


if __name__ == "__main__":
    main()
