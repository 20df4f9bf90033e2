"""Several runs beside each other, each a process of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from luthier import recipe
from luthier.devices import cores_allowed
from luthier.errors import InterruptedRunError, LuthierError
from luthier.recipe import Recipe
from luthier.run.folder import RunFolder
from luthier.run.stopping import listening

_LOOK = 0.2  # seconds between two looks at whether to stop
_INTERRUPTED = 130
_OWN = "luthier: "


@dataclass(frozen=True)
class Planned:
    """A run to be made or continued.

    Attributes:
        name: said of it.
        folder: of the run.
        recipe: as a user would have given it; not looked at where the run has begun.
    """

    name: str
    folder: RunFolder
    recipe: Recipe


def run_beside(
    planned: Sequence[Planned], count: int, waits: str | float, done: Callable[[Planned], object]
) -> None:
    """Make runs, so many at once, each by a ``luthier`` of its own with its part of the cores.

    Args:
        planned: the runs.
        count: how many at once.
        waits: for an accelerator; see ``finetune``.
        done: is told of each that has ended well, in this thread.

    Raises:
        InterruptedRunError: this process was asked to stop; all that were at work have saved.
        LuthierError: one failed; those beside it have saved and stopped, and no other was begun.
    """
    cores = max(1, cores_allowed() // count)
    at_work: set[subprocess.Popen[str]] = set()
    with ExitStack() as ends:
        stop = ends.enter_context(listening())
        pool = ends.enter_context(ThreadPoolExecutor(count))

        def one(plan: Planned) -> None:
            if not stop.asked:
                _one(plan, cores, waits, at_work)

        under_way = {pool.submit(one, plan): plan for plan in planned}
        while under_way:
            ended, _ = wait(under_way, timeout=_LOOK, return_when=FIRST_COMPLETED)
            failed = [future for future in ended if future.exception() is not None]
            if stop.asked or failed:
                stop.asked = True  # no other is begun
                _end(at_work, list(under_way))
            for future in failed:
                future.result()
            if stop.asked:
                raise InterruptedRunError("stopped", cure="continue it")
            for future in ended:
                done(under_way.pop(future))


def _end(at_work: set[subprocess.Popen[str]], under_way: Sequence[Future[None]]) -> None:
    while any(not future.done() for future in under_way):
        for process in list(at_work):
            process.send_signal(signal.SIGTERM)
        wait(under_way, timeout=_LOOK * 10)


def _one(
    plan: Planned, cores: int, waits: str | float, at_work: set[subprocess.Popen[str]]
) -> None:
    with _command(plan, waits) as command, _started(command, cores) as process:
        at_work.add(process)
        try:
            _, said = process.communicate()
        finally:
            at_work.discard(process)
    if process.returncode == _INTERRUPTED:
        raise InterruptedRunError(f"{plan.name} was stopped, and saved", cure="continue it")
    if process.returncode != 0:
        raise LuthierError(f"{plan.name} failed: {_reason(said, process.returncode)}")


def _reason(said: str, status: int) -> str:
    """Return what a process said last: luthier's error, or the end of something else."""
    lines = [line for line in said.splitlines() if line.strip()]
    first = next((i for i, line in enumerate(lines) if line.startswith(_OWN)), len(lines) - 5)
    last = "\n".join(lines[max(0, first) :]).removeprefix(_OWN)
    return last or f"it ended with status {status}"


@contextmanager
def _command(plan: Planned, waits: str | float) -> Iterator[list[str]]:
    """Give the words that make or continue a run."""
    luthier = [sys.executable, "-m", "luthier"]
    if plan.folder.recipe.exists():
        yield [*luthier, "resume", str(plan.folder.path), "--wait", str(waits)]
        return
    with tempfile.TemporaryDirectory() as place:
        file = Path(place) / "recipe.toml"
        file.write_text(recipe.to_toml(plan.recipe), encoding="utf-8")
        words = ["finetune", str(plan.recipe.data.data), "--recipe", str(file)]
        yield [*luthier, *words, "--out", str(plan.folder.path), "--wait", str(waits)]


def _started(command: Sequence[str], cores: int) -> subprocess.Popen[str]:
    # A session of its own: Ctrl-C is handed on once, and not by the terminal, too.
    return subprocess.Popen(
        command,
        env={"OMP_NUM_THREADS": str(cores), **os.environ},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        errors="replace",
        start_new_session=True,
    )
