"""The whole job: ``finetune`` and ``resume``, in Python as on the command line."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from luthier import checkpoint, devices, recipe
from luthier.data import Inventory
from luthier.devices import Terms
from luthier.errors import (
    CannotWriteError,
    DamagedError,
    OutOfMemoryError,
    RunFolderError,
    is_out_of_memory,
)
from luthier.files import durable
from luthier.recipe import Recipe, decided
from luthier.report import Console
from luthier.run import conditions, results
from luthier.run.folder import RunFolder, existing_run, held, new_run
from luthier.run.job import Job, prepare
from luthier.run.probing import Probing
from luthier.run.session import Session
from luthier.run.stopping import listening
from luthier.run.tuning import tuned
from luthier.values import Choice, Score


@dataclass(frozen=True)
class Result:
    """What a run came to.

    Attributes:
        run: its folder.
        model: the best model by validation, which explains itself.
        best: its validation.
        last: the validation of the last epoch.
        before: the validation before the first step, with a head by name (epoch 0).
        seconds: of training and validation, all sessions together.
        summary: the content of ``summary.json``.
    """

    run: Path
    model: Path
    best: Score
    last: Score
    before: Score | None
    seconds: float
    summary: dict[str, Any]


def finetune(
    data: str | Path,
    *,
    out: str | Path | None = None,
    recipe_file: str | Path | None = None,
    tune: bool = False,
    wait: str | float = 0,
    share: str | int | None = None,
    console: Console | None = None,
    **knobs: Any,
) -> Result:
    """Fine-tune an image classifier on a folder of photos.

    On a machine with NVIDIA accelerators the best free one is leased for as long as it takes.

    Args:
        data: a folder with ``train/`` and ``val/``, one folder of class folders, or a CSV/TSV.
        out: the run's folder; it must be new or empty. ``runs/NAME`` by default.
        recipe_file: a recipe; ``knobs`` go on top.
        tune: measure first which settings are the fastest here; see ``luthier.tune``.
        wait: for an accelerator, in turn, where others have them all: ``"2h"``, or seconds.
        share: take at most so much of the accelerator's memory, beside others on the same terms:
            ``"8GiB"``, or bytes.
        console: where to say things; standard error by default.
        **knobs: any field of the recipe, by the name of its flag with underscores.

    Raises:
        LuthierError: see its subclasses; ``InterruptedRunError`` after a signal and a safe save.
    """
    console = console or Console()
    base = recipe.read(Path(recipe_file)) if recipe_file is not None else Recipe()
    given = recipe.overlay(base, **knobs, data=str(data))
    wanted = recipe.resolve(given)
    folder = new_run(Path(out) if out is not None else None, str(data))
    asked, terms = decided(wanted.machine.device), Terms(wait, share)
    with devices.hold(asked, terms, console.say) as hold:
        if tune:
            found = tuned(given, console, hold)
            console.say(str(found))
            wanted = recipe.resolve(found.recipe)
        job = prepare(wanted, console, held=hold.choice())
        with held(folder), _naming_trouble(folder):
            folder.sweep()
            durable.write_text(folder.recipe, recipe.to_toml(job.recipe))
            console.log_to(folder.log)
            _note_images(folder, job)
            console.say(f"run {folder.path}")
            return _run_to_end(_session(job, folder, console), console)


def resume(
    run: str | Path,
    *,
    device: str | None = None,
    workers: int | None = None,
    wait: str | float = 0,
    share: str | int | None = None,
    console: Console | None = None,
) -> Result:
    """Continue a run at its newest sound checkpoint, to the same bits.

    Args:
        run: its folder.
        device: another device than before.
        workers: another number of workers than before; it changes no bit.
        wait: as in ``finetune``.
        share: likewise.
        console: where to say things; standard error by default.

    Raises:
        RunFolderError: there is no run. LuthierError: as ``finetune``.
    """
    console = console or Console()
    folder = existing_run(Path(run))
    if folder.summary.exists():
        console.say(f"run {folder.path} is finished; nothing to resume")
        return _result(folder, json.loads(folder.summary.read_text(encoding="utf-8")))
    changes = {"device": device, "workers": workers}
    given = recipe.replace(
        recipe.read(folder.recipe), **{k: v for k, v in changes.items() if v is not None}
    )
    wanted = recipe.resolve(given)
    asked, terms = decided(wanted.machine.device), Terms(wait, share)
    with held(folder), devices.hold(asked, terms, console.say) as hold, _naming_trouble(folder):
        return _continue(wanted, folder, console, hold.choice())


def _continue(wanted: Recipe, folder: RunFolder, console: Console, device: Choice | None) -> Result:
    folder.sweep()
    found = checkpoint.newest(folder.checkpoints)
    known = _known_images(folder, console)
    job = prepare(wanted, console, held=device, resumed=found is not None, known=known)
    console.log_to(folder.log)
    if found is None:
        _note_images(folder, job)
        if job.recipe.strategy.strategy != "probe":  # which goes by files of its own
            console.say(f"run {folder.path} has no checkpoint yet: it starts from the beginning")
        return _run_to_end(_session(job, folder, console), console)
    with found.reading():
        then = {n: found.manifest[n] for n in ("data", "recipe", "environment", "start")}
    notices = [
        *conditions.changed_images(known, job.photos.inventory, then["data"]),
        *conditions.changed_recipe(then["recipe"], recipe.values(job.recipe)),
        *conditions.differences(then["environment"], results.environment(job)),
    ]
    job = dataclasses.replace(job, start=then["start"])
    session = _session(job, folder, console)
    session.restore(found)
    _note_images(folder, job)
    for damaged in found.passed_over:
        console.say(f"passed over: {damaged}")
    console.say(f"run {folder.path} continues at {session.progress.at}")
    for notice in notices:
        console.say(f"  {notice}")
    return _run_to_end(session, console)


def _note_images(folder: RunFolder, job: Job) -> None:
    durable.write_text(folder.data, job.photos.inventory.to_json())


def _known_images(folder: RunFolder, console: Console) -> Inventory | None:
    try:
        return Inventory.from_json(folder.data.read_bytes(), str(folder.data))
    except FileNotFoundError:
        return None
    except DamagedError as error:  # the checkpoint has a hash of all images to go by
        console.say(f"{error.what}; every image is read again")
        return None


@contextlib.contextmanager
def _naming_trouble(folder: RunFolder) -> Iterator[None]:
    """Say what became of a run whose disk or memory gives no more."""
    then = f"luthier resume {folder.path}"
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
        raise OutOfMemoryError(
            f"run {folder.path} ran out of memory, and not by the size of its batches: {said}",
            cure=f"its checkpoints are as they were; make room, or start anew with a smaller"
            f" --model or --image-size; to go on: {then}",
        ) from error


def _session(job: Job, folder: RunFolder, console: Console) -> Session | Probing:
    if job.recipe.strategy.strategy == "probe":
        return Probing(job, folder, console)
    return Session(job, folder, console)


def _run_to_end(session: Session | Probing, console: Console) -> Result:
    with listening() as stop:
        session.run(stop)
    summary = session.finish()
    result = _result(session.folder, summary)
    if result.before is not None:
        console.say(f"start epoch 0: {result.before.accuracy}")
    console.say(f"best  epoch {result.best.epoch}: {result.best.accuracy}")
    console.say(f"last  epoch {result.last.epoch}: {result.last.accuracy}")
    console.say(f"model {result.model}")
    return result


def _result(folder: RunFolder, summary: dict[str, Any]) -> Result:
    if not summary.get("best") or not summary.get("last"):
        raise RunFolderError(f"{folder.summary} names no best epoch", cure="start a new run")
    return Result(
        run=folder.path,
        model=folder.model,
        best=Score.from_dict(summary["best"]),
        last=Score.from_dict(summary["last"]),
        before=Score.from_dict(summary["before"]) if summary.get("before") else None,
        seconds=summary["seconds"],
        summary=summary,
    )
