"""The whole job: ``finetune`` and ``resume``, in Python as on the command line."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from luthier import distributed, recipe
from luthier.data import Inventory
from luthier.devices import Hold, Terms
from luthier.distributed import World
from luthier.errors import DamagedError, RunFolderError
from luthier.files import durable
from luthier.recipe import Recipe, decided
from luthier.report import Console
from luthier.run import conditions, results, stored
from luthier.run.folder import RunFolder, existing_run
from luthier.run.job import Job, prepare
from luthier.run.mirror import Mirror
from luthier.run.peers import newest
from luthier.run.probing import Probing
from luthier.run.session import Session
from luthier.run.starting import (
    agreed_folder,
    at_work,
    by_first,
    by_others,
    check_alone,
    check_several,
    device_of,
)
from luthier.run.stopping import listening
from luthier.run.tuning import tuned
from luthier.storage import Claim, is_url
from luthier.values import Score


@dataclass(frozen=True)
class Result:
    """What a run came to.

    Attributes:
        run: its folder; of a run in a store the one that it worked in.
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
        out: the run's folder, or its URL in a store; it must be new or empty. ``runs/NAME`` by
            default.
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
    base = recipe.read(Path(recipe_file)) if recipe_file is not None else Recipe()
    given = recipe.overlay(base, **knobs, data=str(data))
    wanted = recipe.resolve(given)
    with distributed.joined() as world, contextlib.ExitStack() as ends:
        console = console or Console(quiet=not world.is_first)
        check_alone(world, tune=tune)
        check_several(wanted, world)
        claim = None
        if is_url(out):
            place = stored.claimed(str(out), world, console.say, stored.check_new)
            folder, claim = ends.enter_context(place)
            stored.fetch(folder, world, console.say)
        else:
            folder = agreed_folder(world, None if out is None else Path(out), str(data))
        if folder.recipe.exists():
            return _resumed(folder, {}, Terms(wait, share), world, console, claim)
        with device_of(wanted, Terms(wait, share), world, console) as hold:
            if tune:
                found = tuned(given, console, hold)
                console.say(str(found))
                wanted = recipe.resolve(found.recipe)
            begun = by_first(
                world, lambda: prepare(wanted, console, held=hold.choice(), world=world)
            )
            with at_work(folder, world):
                by_first(world, lambda: _write_start(folder, begun, console))
                mirror = _mirror(folder, claim, wanted, console)
                by_first(world, mirror.store if mirror is not None else lambda: None)
                stored.fetch(folder, world, console.say, again=True)
                job = by_others(world, begun, lambda: _joining(folder, console, hold, world))
                console.say(f"run {folder.name}")
                return _run_to_end(_session(job, folder, console), console, mirror)


def _write_start(folder: RunFolder, job: Job | None, console: Console) -> None:
    assert job is not None  # noqa: S101 - the first process has prepared it
    job_id = distributed.job_id()
    if job_id is not None:
        durable.write_text(folder.job, job_id)
    durable.write_text(folder.recipe, recipe.to_toml(job.recipe))
    console.log_to(folder.log)
    _note_images(folder, job)


def _joining(folder: RunFolder, console: Console, hold: Hold, world: World) -> Job:
    """Return the job of a process that is not the first, which has measured and decided."""
    wanted = recipe.resolve(recipe.read(folder.recipe))
    known = _known_images(folder, console)
    return prepare(wanted, console, held=hold.choice(), known=known, world=world)


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
        run: its folder, or its URL in a store.
        device: another device than before.
        workers: another number of workers than before; it changes no bit.
        wait: as in ``finetune``.
        share: likewise.
        console: where to say things; standard error by default.

    Raises:
        RunFolderError: there is no run. LuthierError: as ``finetune``.
    """
    local = None if is_url(run) else existing_run(Path(run))
    changes = {"device": device, "workers": workers}
    with distributed.joined() as world, contextlib.ExitStack() as ends:
        console = console or Console(quiet=not world.is_first)
        folder, claim = local, None
        if folder is None:
            place = stored.claimed(str(run), world, console.say, stored.check_begun)
            folder, claim = ends.enter_context(place)
            stored.fetch(folder, world, console.say)
        return _resumed(folder, changes, Terms(wait, share), world, console, claim)


def _resumed(
    folder: RunFolder,
    changes: dict[str, Any],
    terms: Terms,
    world: World,
    console: Console,
    claim: Claim | None,
) -> Result:
    if folder.summary.exists():
        console.say(f"run {folder.name} is finished; nothing to resume")
        wanted = recipe.resolve(recipe.read(folder.recipe))
        mirror = _mirror(folder, claim, wanted, console)
        by_first(world, mirror.complete if mirror is not None else lambda: None)
        return _result(folder, json.loads(folder.summary.read_text(encoding="utf-8")))
    given = recipe.replace(
        recipe.read(folder.recipe), **{k: v for k, v in changes.items() if v is not None}
    )
    wanted = recipe.resolve(given)
    with device_of(wanted, terms, world, console) as hold, at_work(folder, world):
        mirror = _mirror(folder, claim, wanted, console)
        return _continue(wanted, folder, console, hold, world, mirror)


def _continue(
    wanted: Recipe,
    folder: RunFolder,
    console: Console,
    hold: Hold,
    world: World,
    mirror: Mirror | None,
) -> Result:
    found = newest(folder, world)
    known = _known_images(folder, console)

    def begin() -> Job:
        return prepare(
            wanted,
            console,
            held=hold.choice(),
            resumed=found is not None,
            known=known,
            world=world,
        )

    job = by_others(world, by_first(world, begin), begin)
    if world.is_first:
        console.log_to(folder.log)
    if found is None:
        _note_images(folder, job)
        if job.recipe.strategy.strategy != "probe":  # which goes by files of its own
            console.say(f"run {folder.name} has no checkpoint yet: it starts from the beginning")
        return _run_to_end(_session(job, folder, console), console, mirror)
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
    console.say(f"run {folder.name} continues at {session.progress.at}")
    for notice in notices:
        console.say(f"  {notice}")
    return _run_to_end(session, console, mirror)


def _mirror(
    folder: RunFolder, claim: Claim | None, wanted: Recipe, console: Console
) -> Mirror | None:
    if claim is None:
        return None
    how = wanted.training
    patience = 60 * decided(how.disk_patience)
    return Mirror(folder, claim, keep=how.keep or 1, patience=patience, say=console.say)


def _note_images(folder: RunFolder, job: Job) -> None:
    if job.world.is_first:
        durable.write_text(folder.data, job.photos.inventory.to_json())


def _known_images(folder: RunFolder, console: Console) -> Inventory | None:
    try:
        return Inventory.from_json(folder.data.read_bytes(), str(folder.data))
    except FileNotFoundError:
        return None
    except DamagedError as error:  # the checkpoint has a hash of all images to go by
        console.say(f"{error.what}; every image is read again")
        return None


def _session(job: Job, folder: RunFolder, console: Console) -> Session | Probing:
    if job.recipe.strategy.strategy == "probe":
        return Probing(job, folder, console)
    return Session(job, folder, console)


def _run_to_end(session: Session | Probing, console: Console, mirror: Mirror | None) -> Result:
    # A signal is heard until the last of it is stored, too.
    with listening() as stop, mirror.following(stop) if mirror else contextlib.nullcontext():
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
