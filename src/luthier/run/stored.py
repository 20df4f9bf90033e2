"""A run whose home is an object store: its place there, and its working folder on this machine.

A run works in its folder as every other does; ``mirror`` brings what is there to the store.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from luthier import checkpoint, distributed
from luthier.checkpoint.store import read_manifest
from luthier.distributed import World
from luthier.errors import CannotWriteError, DamagedError, RunFolderError
from luthier.files import durable
from luthier.run.folder import RunFolder
from luthier.storage import Bucket, Claim, claim

MANIFEST = "manifest.json"  # the last object of a checkpoint to come, the first to go
CHECKPOINTS = "checkpoints"
Say = Callable[[str], object]


@contextlib.contextmanager
def claimed(
    url: str, world: World, say: Say, check: Callable[[Bucket], None] = lambda _bucket: None
) -> Iterator[tuple[RunFolder, Claim | None]]:
    """Claim a run's place in a store.

    Args:
        url: of the place.
        world: of which the first process claims.
        say: is told what is waited for.
        check: raises where nothing is to be claimed.

    Returns:
        the working folder, and in the first process the claim.

    Raises:
        RunFolderError: another machine is at work there.
        StorageError, MissingExtraError, RecipeError: the store cannot be used.
    """
    with contextlib.ExitStack() as ends:
        mine = None
        with world.together():
            if world.is_first:
                bucket, job = Bucket(url), distributed.job_id()
                check(bucket)
                mine = ends.enter_context(claim.held(bucket, distributed.grace(), job, say))
        run = world.share(mine.run if mine is not None else None)
        yield RunFolder(_working_folder(url, run), url.rstrip("/")), mine


def _working_folder(url: str, run: str) -> Path:
    # By the run's own name, so that what an earlier run of this URL has left is never taken for it.
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache").absolute()
    name = re.sub(r"[^\w.-]", "", url.rstrip("/").rpartition("/")[2]) or "run"
    return cache / "luthier" / "runs" / f"{name}-{run}"


def check_new(bucket: Bucket) -> None:
    """Look whether a new run may have its home in a store, or go on there after a restart.

    Raises:
        RunFolderError: it holds another run, or something else.
    """
    names = bucket.names().keys() - {claim.NAME}
    if names and "recipe.toml" not in names:
        raise RunFolderError(f"--out {bucket.url} is not empty", cure="give a new place")
    if names and not _is_of_this_job(bucket):
        raise RunFolderError(
            f"--out {bucket.url} holds a run already",
            cure=f"continue it with: luthier resume {bucket.url}; or give another --out",
        )


def _is_of_this_job(bucket: Bucket) -> bool:
    job, found = distributed.job_id(), claim.read(bucket)
    return job is not None and found is not None and found.job == job


def check_begun(bucket: Bucket) -> None:
    """Look whether there is a run in a store.

    Raises:
        RunFolderError: there is none.
    """
    if "recipe.toml" not in bucket.names():
        raise RunFolderError(
            f"{bucket.url} has no recipe.toml, so there is no run to resume",
            cure=f"start one: luthier finetune DATA --out {bucket.url}",
        )


def check_own_loop(bucket: Bucket) -> None:
    """Look whether a loop of one's own may have its home in a store.

    Raises:
        RunFolderError: it holds another kind of run.
    """
    if "recipe.toml" in bucket.names():
        raise RunFolderError(
            f"{bucket.url} holds a run of luthier finetune",
            cure="give another place, or: luthier resume",
        )


def fetch(folder: RunFolder, world: World, say: Say, *, again: bool = False) -> None:
    """Bring a run from its store to this machine, as far as it is not here; once on each host.

    Args:
        folder: that it works in.
        world: all processes.
        say: is told what was passed over.
        again: the first has all of it.

    Raises:
        DamagedError: there are checkpoints in the store, and none is sound.
        StorageError: the store refuses. CannotWriteError: the disk does.
    """
    if folder.url is None:
        return
    for firsts in (False,) if again else (True, False):  # hosts may share a disk: one by one
        with world.together(), _naming_the_disk(folder):
            if world.local_rank == 0 and world.is_first is firsts:
                _fetch(Bucket(folder.url), folder, say, world.local_size == world.size)


@contextlib.contextmanager
def _naming_the_disk(folder: RunFolder) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise CannotWriteError(
            f"run {folder.url} cannot be brought to {folder.path}: {error.strerror or error}",
            cure="make room there, or let XDG_CACHE_HOME name a folder that has it",
        ) from error


def _fetch(bucket: Bucket, folder: RunFolder, say: Say, keep_ahead: bool) -> None:
    names = bucket.names()
    steps = _steps(checkpoints_in(names))
    newest = _newest_here(folder, say)
    if newest is not None and newest > max(steps, default=-1) and not keep_ahead:
        # Other hosts have only what is stored.
        durable.remove_directory(checkpoint.directory_of(folder.checkpoints, newest))
        _fetch(bucket, folder, say, keep_ahead)
        return
    came = _fetch_newest(bucket, folder, [s for s in steps if newest is None or s > newest], say)
    if steps and newest is None and not came:
        raise DamagedError(f"no checkpoint in {bucket.url} is sound", cure="start a new run")
    for name in (n for n in names if "/" not in n and n != claim.NAME):
        # What goes with a newer checkpoint that is here is not in the store yet.
        if came or newest is None or not (folder.path / name).exists():
            with durable.new_file(folder.path / name) as temporary:
                bucket.download(name, temporary)


def _fetch_newest(bucket: Bucket, folder: RunFolder, steps: Iterable[int], say: Say) -> bool:
    for step in steps:
        try:
            _fetch_checkpoint(bucket, checkpoint.directory_of(folder.checkpoints, step))
        except DamagedError as error:
            say(f"passed over: {error.what}")
        else:
            return True
    return False


def _fetch_checkpoint(bucket: Bucket, path: Path) -> None:
    there = f"{CHECKPOINTS}/{path.name}"
    with durable.new_directory(path) as place:
        try:
            bucket.download(f"{there}/{MANIFEST}", place / MANIFEST)
            for name in read_manifest(place)["files"]:
                with contextlib.suppress(FileNotFoundError):  # which is damage, and named below
                    bucket.download(f"{there}/{name}", place / name)
            checkpoint.verify(place)
        except DamagedError as error:
            raise DamagedError(error.what.replace(str(place), f"{bucket.url}/{there}")) from error


def _newest_here(folder: RunFolder, say: Say) -> int | None:
    """Return the newest step whose checkpoint is sound here; what is damaged is removed."""
    for step in reversed(checkpoint.steps_in(folder.checkpoints)):
        path = checkpoint.directory_of(folder.checkpoints, step)
        try:
            checkpoint.verify(path)
        except DamagedError as error:
            say(f"passed over: {error.what}")
            durable.remove_directory(path)
        else:
            return step
    return None


def checkpoints_in(names: Iterable[str]) -> list[str]:
    """Return the names of the checkpoints that are whole, by their manifests."""
    found = [name.split("/") for name in names]
    return sorted(p[1] for p in found if p[0] == CHECKPOINTS and p[2:] == [MANIFEST])


def _steps(names: Iterable[str]) -> list[int]:
    digits = [name.removeprefix("step-") for name in names]
    return sorted((int(text) for text in digits if text.isdecimal()), reverse=True)
