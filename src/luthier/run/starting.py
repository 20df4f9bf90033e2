"""What stands before a run: its folder, its device, and which of several processes does what."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from luthier import checkpoint, devices, distributed
from luthier.devices import Hold, Terms
from luthier.distributed import World
from luthier.errors import (
    CannotWriteError,
    OutOfMemoryError,
    RecipeError,
    RunFolderError,
    is_out_of_memory,
)
from luthier.files import durable
from luthier.recipe import Recipe, decided
from luthier.report import Console
from luthier.run.failures import recording
from luthier.run.folder import RunFolder, held, new_run, run_of_job

T = TypeVar("T")


def check_alone(world: World, *, tune: bool) -> None:
    """Raise RecipeError where what is asked for is not done by several processes."""
    if world.size > 1 and tune:
        raise RecipeError(
            f"--tune is done by one process, and there are {world.size}",
            cure="start it without torchrun and --processes",
        )


def check_several(wanted: Recipe, world: World) -> None:
    """Raise RecipeError where what is asked for takes several processes."""
    # Those of an elastic job may be one for a while, and then more.
    if world.size > 1 or distributed.job_id() is not None:
        return
    why = {
        "--shard": wanted.machine.shard and "which holds the whole model",
        "--sync-batchnorm": wanted.machine.sync_batchnorm and "which sees whole batches",
    }
    for flag, reason in why.items():
        if reason:
            raise RecipeError(
                f"{flag} has no effect with one process, {reason}",
                cure="start several with --processes or torchrun, or leave it out",
            )


def agreed_folder(world: World, out: Path | None, data: str) -> RunFolder:
    """Return the folder that the first process chooses; all of them see the same file system.

    It is a new run's, or that of the run which this very job began before a restart.

    Raises:
        RunFolderError: see ``new_run``.
    """

    def choose() -> RunFolder:
        job = distributed.job_id()
        return (run_of_job(out, data, job) if job else None) or new_run(out, data)

    chosen = by_first(world, lambda: str(choose().path))
    return RunFolder(Path(world.share(chosen)))


@contextlib.contextmanager
def device_of(wanted: Recipe, terms: Terms, world: World, console: Console) -> Iterator[Hold]:
    """Hold the device that a recipe asks for; each process one of its own.

    Raises:
        BusyError, LeaseError, RecipeError: see ``devices.hold``.
    """
    with contextlib.ExitStack() as ends:
        with world.together():
            asked = decided(wanted.machine.device)
            hold = ends.enter_context(devices.hold(asked, terms, console.say))
        yield hold


@contextlib.contextmanager
def at_work(folder: RunFolder, world: World) -> Iterator[None]:
    """Keep everyone else out of a run's folder, and say what became of the run in trouble.

    Raises:
        RunFolderError: see ``held``.
        CannotWriteError, OutOfMemoryError: in the inside a disk or memory gave no more.
    """
    with contextlib.ExitStack() as ends:
        with world.together():
            if world.is_first:
                _hold(folder, ends)
                folder.sweep()
        with recording(folder), _naming_trouble(folder, world):
            yield


def _hold(folder: RunFolder, ends: contextlib.ExitStack) -> None:
    """Hold a run's folder, once an earlier start of this job on a host that is cut off lets go."""
    own = _is_own(folder)
    until = time.monotonic() + (distributed.grace() if own else 0)
    while True:
        try:
            ends.enter_context(held(folder))
            break
        except RunFolderError:
            if time.monotonic() >= until:
                raise
        time.sleep(0.1)
    job = distributed.job_id()
    if job is not None and not own and folder.recipe.exists():  # it is resumed by another job
        durable.write_text(folder.job, job)


def _is_own(folder: RunFolder) -> bool:
    with contextlib.suppress(OSError):
        return folder.job.read_text(encoding="utf-8") == distributed.job_id()
    return False


def by_first(world: World, do: Callable[[], T]) -> T | None:
    """Return what the first process does, and None in the others, who wait for it."""
    with world.together():
        return do() if world.is_first else None


def by_others(world: World, first: T | None, do: Callable[[], T]) -> T:
    """Return what the first has done, and in the others what they do now."""
    with world.together():
        return do() if first is None else first


@contextlib.contextmanager
def _naming_trouble(folder: RunFolder, world: World) -> Iterator[None]:
    """Say what became of a run whose disk or memory gives no more."""
    then = f"luthier resume {folder.name}"
    try:
        yield
    except OSError as error:
        if error.errno not in checkpoint.DISK_TROUBLE:
            raise
        then = then if folder.recipe.exists() else "start it again"
        raise CannotWriteError(
            f"run {folder.path} cannot be written: {error.strerror}",
            cure=f"its checkpoints are as they were; mend that, then: {then}",
        ) from error
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        said = next(iter(str(error).splitlines()), "no more was given")
        if world.size > 1:  # one that began its step anew would leave the others in an exchange
            raise OutOfMemoryError(
                f"run {folder.path} ran out of memory in rank {world.rank} of {world.size}: {said}",
                cure="its checkpoints are as they were; start anew with a smaller --batch-size and"
                " so much more --accumulate, or with --checkpoint-activations",
            ) from error
        raise OutOfMemoryError(
            f"run {folder.path} ran out of memory, and not by the size of its batches: {said}",
            cure=f"its checkpoints are as they were; make room, or start anew with a smaller"
            f" --model or --image-size; to go on: {then}",
        ) from error
