"""What a run writes into its folder, brought to its store behind the training.

Whatever is in the store is true at any moment: a checkpoint's manifest comes after all that it
speaks of, and goes before; the summary is the last object of a run.
"""

from __future__ import annotations

import contextlib
import json
import secrets
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

from luthier import checkpoint
from luthier.checkpoint.store import read_manifest
from luthier.errors import DamagedError, InterruptedRunError, StorageError
from luthier.files import disk, durable
from luthier.run.folder import RunFolder
from luthier.run.stored import CHECKPOINTS, MANIFEST, checkpoints_in
from luthier.storage import Claim

_EVERY = 0.5  # seconds between two looks at the folder
_FIRST_PAUSE, _LONGEST_PAUSE = 1.0, 30.0  # seconds between two tries
_SOON = 2.0  # seconds in which the last upload ends without a word


class Stoppable(Protocol):
    """May be asked to stop."""

    asked: bool


class Mirror:
    """Follows a run's folder into its store.

    Args:
        folder: of the run, before it goes on: what is there is as old as what it goes on from.
        claim: of its store.
        keep: how many of the newest checkpoints stay there, beside the best.
        patience: seconds to go on trying when the store refuses.
        say: takes a line when it does.
    """

    def __init__(
        self,
        folder: RunFolder,
        claim: Claim,
        *,
        keep: int,
        patience: float,
        say: Callable[[str], object],
    ) -> None:
        self.folder, self.keep, self.patience, self.say = folder, keep, patience, say
        self._claim, self._bucket = claim, claim.bucket
        self._from = max(checkpoint.steps_in(folder.checkpoints), default=-1)
        self._there: dict[int, Mapping[str, Any]] | None = None  # manifests, by step
        self._is_tidy = True  # nothing is there that is to be removed
        self._stored: dict[str, tuple[int, ...]] = {}  # what a file was when it was stored
        self._failed: Exception | None = None
        self._ending, self._given_up = threading.Event(), threading.Event()

    # --- beside the training ----------------------------------------------------------------

    @contextlib.contextmanager
    def following(self, stop: Stoppable) -> Iterator[None]:
        """Store what comes into the folder while the inside is at work, and then the rest of it.

        Args:
            stop: is asked to when the run cannot be stored any more, so that it is saved here.

        Raises:
            StorageError: the store refused for longer than the patience.
            RunFolderError: another machine has taken the run over.
        """
        # No daemon: a program that ends without a word still waits for what is to be stored.
        thread = threading.Thread(target=self._follow, args=(stop,), name="luthier-store")
        thread.start()
        try:
            yield
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                self._given_up.set()
            self._end(thread)
            if self._failed is not None and isinstance(error, InterruptedRunError):
                raise self._failed from error
            raise
        self._end(thread)
        if self._failed is not None:
            raise self._failed

    def _end(self, thread: threading.Thread) -> None:
        self._ending.set()
        try:
            thread.join(_SOON)
            if thread.is_alive() and not self._given_up.is_set():
                self.say(f"storing the rest at {self.folder.name}")
            thread.join()
        except KeyboardInterrupt:
            self._given_up.set()
            raise

    def _follow(self, stop: Stoppable) -> None:
        ends = False
        try:
            while not ends and not self._given_up.is_set():
                self._ending.wait(_EVERY)
                ends = self._ending.is_set() or not threading.main_thread().is_alive()
                self._patiently(ends)
        except Exception as error:  # it is raised where the run ends
            self._failed = error
            stop.asked = True
            self.say(f"the run is stored no more and stops: {error}")

    def _patiently(self, ends: bool) -> None:
        """Store what is due, and try again for as long as the patience lasts."""
        until, pause = 0.0, _FIRST_PAUSE
        while True:
            try:
                self.store(to_the_end=ends)
                break
            except (StorageError, OSError) as error:
                if not until:
                    until = time.monotonic() + self.patience
                    self.say(f"{_what(error)}; trying again for {self.patience:.0f} s")
                left = until - time.monotonic()
                if left <= 0 or self._given_up.is_set():
                    raise self._cannot_store(error) from error
                self._given_up.wait(min(pause, left))
                pause = min(2 * pause, _LONGEST_PAUSE)
        if until:
            self.say(f"{self.folder.name} can be written to again")

    def _cannot_store(self, error: StorageError | OSError) -> StorageError:
        last = f"step {max(self._there)}" if self._there else "none"
        return StorageError(
            f"{_what(error)}; the newest checkpoint there: {last};"
            f" all that was saved is in {self.folder.path}",
            cure=f"once it can be reached: luthier resume {self.folder.name}, on this machine; or"
            f" without it: luthier resume {self.folder.path}",
        )

    def complete(self) -> None:
        """Store what a run that is finished here could not store, if there is any of it.

        Raises:
            StorageError: the store refused for longer than the patience.
            RunFolderError: another machine has taken the run over.
        """
        if self.folder.summary.name not in self._bucket.names():  # the last object of a run
            self._patiently(ends=True)

    # --- what is due ------------------------------------------------------------------------

    def store(self, *, to_the_end: bool = False) -> None:
        """Store what is in the folder and not in the store; where it raises, do it again.

        Args:
            to_the_end: also what changes with every step, and the summary.

        Raises:
            StorageError: the store refuses. RunFolderError: the claim is lost.
            OSError: the disk of this machine refuses.
        """
        self._claim.check()
        begins = self._there is None
        if self._there is None:
            self._there = self._known_there()
        due = self._due(max(self._there, default=-1))
        if self._is_tidy and not (begins or due or to_the_end):
            return
        self._claim.check(now=True)
        if begins or to_the_end:
            self._store_files()
        for step in due:
            self._store_checkpoint(step, self._there)
        if not self._is_tidy:
            self._prune(self._there)
        if to_the_end and self.folder.summary.exists():
            self._store_file(self.folder.summary)

    def _known_there(self) -> dict[int, Mapping[str, Any]]:
        """Return the manifests in the store, but those that were passed over."""
        found = {}
        for name in checkpoints_in(self._bucket.names(CHECKPOINTS)):
            with contextlib.suppress(ValueError, KeyError, TypeError, FileNotFoundError):
                manifest = json.loads(self._bucket.read(f"{CHECKPOINTS}/{name}/{MANIFEST}"))
                if (
                    manifest["step"] <= self._from
                    and manifest["files"].keys()
                    and "best" in manifest
                ):
                    found[int(manifest["step"])] = manifest
        return found

    def _due(self, there: int) -> list[int]:
        """Return the steps to store: the newest, and the best where it is newer than all there."""
        steps = [s for s in checkpoint.steps_in(self.folder.checkpoints) if s > there]
        best = [s for s in steps[:-1] if self._is_best(s)]
        return [*best[-1:], *steps[-1:]]

    def _is_best(self, step: int) -> bool:
        path = checkpoint.directory_of(self.folder.checkpoints, step)
        with contextlib.suppress(DamagedError):  # it was removed just now
            return bool(read_manifest(path)["best"])
        return False

    def _store_checkpoint(self, step: int, known: dict[int, Mapping[str, Any]]) -> None:
        path = checkpoint.directory_of(self.folder.checkpoints, step)
        there = f"{CHECKPOINTS}/{path.name}"
        with contextlib.ExitStack() as ends:
            try:
                pinned = ends.enter_context(self._pinned(*path.iterdir()))
            except FileNotFoundError:  # it was removed just now: a newer is due
                return
            manifest = read_manifest(pinned)
            self._bucket.remove_folder(there, MANIFEST)  # what a kill has left
            for name in manifest["files"]:
                if not self._copied(name, manifest, there, known):
                    self._bucket.upload(pinned / name, f"{there}/{name}")
            self._store_files()
            self._claim.check(now=True)
            self._bucket.upload(pinned / MANIFEST, f"{there}/{MANIFEST}")
        known[step], self._is_tidy = manifest, False

    def _copied(
        self,
        name: str,
        manifest: Mapping[str, Any],
        there: str,
        known: Mapping[int, Mapping[str, Any]],
    ) -> bool:
        """Copy a file that has not changed inside the store, if that can be done."""
        before = max(known, default=None)
        if before is None or known[before]["files"].get(name) != manifest["files"][name]:
            return False
        source = checkpoint.directory_of(Path(CHECKPOINTS), before).as_posix()
        return self._bucket.copy(f"{source}/{name}", f"{there}/{name}")

    def _prune(self, known: dict[int, Mapping[str, Any]]) -> None:
        """Remove what is older than what stays, and what is no whole checkpoint."""
        steps = sorted(known)
        best = [s for s in steps if known[s]["best"]]
        stay = {*steps[-self.keep :], *best[-1:]}
        kept = {checkpoint.directory_of(Path(), s).name for s in stay}
        newest = checkpoint.directory_of(Path(), steps[-1]).name
        for folder in {n.split("/")[1] for n in self._bucket.names(CHECKPOINTS)} - kept:
            if folder <= newest:  # later ones were passed over, and are replaced
                self._bucket.remove_folder(f"{CHECKPOINTS}/{folder}", MANIFEST)
        for old in set(steps) - stay:
            del known[old]
        self._is_tidy = True

    # --- files beside the checkpoints -------------------------------------------------------

    def _store_files(self) -> None:
        folder = self.folder
        results = folder.model, folder.predictions, folder.curves, folder.page
        for path in (folder.recipe, folder.data, *results):
            self._store_file(path)
        for path in (folder.metrics, folder.log):
            with contextlib.suppress(FileNotFoundError):
                content = path.read_bytes()  # they grow while they are read: whole lines of them
                self._bucket.write(path.name, content[: content.rfind(b"\n") + 1])

    def _store_file(self, path: Path) -> None:
        with contextlib.suppress(FileNotFoundError), self._pinned(path) as pinned:
            facts = (pinned / path.name).stat()
            now = facts.st_ino, facts.st_size, facts.st_mtime_ns
            if self._stored.get(path.name) != now:
                self._bucket.upload(pinned / path.name, path.name)
                self._stored[path.name] = now

    @contextlib.contextmanager
    def _pinned(self, *paths: Path) -> Iterator[Path]:
        """Give a directory with files as they are now, whatever becomes of their names."""
        place = self.folder.path / f"{durable.TEMPORARY}store-{secrets.token_hex(8)}"
        disk.current().make_directory(place)
        try:
            for path in paths:
                if not durable.link(path, place / path.name):
                    shutil.copyfile(path, place / path.name)
            yield place
        finally:
            disk.current().remove_tree(place)


def _what(error: StorageError | OSError) -> str:
    return error.what if isinstance(error, StorageError) else str(error)
