"""Saves while training goes on: copied beside it, hashed and written behind it."""

from __future__ import annotations

import atexit
import errno
import os
import threading
import time
import weakref
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch

from luthier.checkpoint import store
from luthier.checkpoint.layout import files_of
from luthier.checkpoint.parts import Captured
from luthier.checkpoint.snapshot import Copier, Snapshot
from luthier.checkpoint.store import Checkpoint, Content, Written
from luthier.checkpoint.writers import Follower, Leader, Portion
from luthier.distributed.board import Board
from luthier.errors import CannotWriteError
from luthier.threads import computing_alone

DISK_TROUBLE = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS)
T = TypeVar("T")
_FIRST_PAUSE, _LONGEST_PAUSE = 1.0, 30.0  # seconds between two tries


@dataclass(frozen=True)
class State:
    """What is saved, as it is at one moment.

    Attributes:
        step: names the checkpoint.
        parts: by name.
        plain: the rest of ``state.json``; equal for equal states.
        facts: for the manifest: what may differ between two runs of one recipe.
        best: whether this is the best state so far.
        before: called before the checkpoint takes its name, on the writing thread, so that what
            the state refers to is on the disk first.
    """

    step: int
    parts: Mapping[str, Captured]
    plain: Mapping[str, Any]
    facts: Mapping[str, Any]
    best: bool = False
    before: Callable[[], None] = lambda: None


@dataclass
class Costs:
    """What saving has cost so far.

    Attributes:
        saves: checkpoints that are on the disk.
        blocked: seconds in which training waited.
        behind: seconds of processor time on the writing thread.
        written: bytes.
    """

    saves: int = 0
    blocked: float = 0.0
    behind: float = 0.0
    written: int = 0


_Copying = tuple[Snapshot, State, Content]


class Saver:
    """Keeps the checkpoints of one run. At most one save is under way at any time.

    An optimizer that is watched waits, before it steps, for the copy that is under way. What a
    save raises behind is raised by ``check`` at the next step. Where the interpreter exits before
    any of that, as after an error in the training, what is under way is completed.

    Args:
        folder: of the checkpoints.
        keep: how many of the newest stay, beside the best.
        patience: seconds to go on trying when the disk is full or refuses.
        say: takes a line when the disk is in trouble.
        at_once: copy everything before training goes on.
        writes: that is what it is for; else it does nothing, as where another process writes.
        board: of all processes that write each checkpoint together; each has a saver of the same
            folder, and saves at the same steps.
    """

    def __init__(
        self,
        folder: Path,
        *,
        keep: int = 2,
        patience: float = 600.0,
        say: Callable[[str], object] = lambda _line: None,
        at_once: bool = False,
        writes: bool = True,
        board: Board | None = None,
    ) -> None:
        self.folder, self.keep, self.patience, self.say = folder, keep, patience, say
        self.at_once, self.writes = at_once, writes
        self.costs = Costs()
        self.last: Written | None = None
        self._thread = computing_alone(1, "luthier-save")
        self._board, self._leader = board, Leader(board)
        self._follower = Follower(board) if board is not None and board.rank else None
        self._copier = Copier(self._thread, board.rank if board is not None else 0)
        self._copying: _Copying | None = None
        self._writing: Future[None] | None = None
        self._torn: list[str] = []
        self._given_up = threading.Event()
        self._owner = os.getpid()  # a forked child that exits has nothing to complete
        self._hooks: list[Any] = []

    def continue_from(self, found: Checkpoint) -> None:
        """Take a checkpoint that was read for the last good one: its files are linked to."""
        self.last = Written(found.path, found.manifest, 0)

    def watch(self, optimizer: torch.optim.Optimizer) -> None:
        """Let an optimizer's steps wait for the copy that is under way."""
        me = weakref.ref(self)

        def settle_first(*_facts: object) -> None:
            saver = me()
            if saver is not None and saver._copying is not None:
                saver.settle()

        self._hooks.append(optimizer.register_step_pre_hook(settle_first))

    def save(self, state: State) -> None:
        """Begin to save; training goes on as soon as this returns.

        A save that is still under way is waited for.

        Raises:
            CannotWriteError, LuthierError: the save before this one failed.
            UnsupportedStateError: something cannot be saved; it is named.
        """
        if not self.writes:
            return
        files = files_of(state.parts, self._board.size if self._board is not None else 1)
        flat = {name: file for named in files.values() for name, file in named.items()}
        self.wait()
        started = time.perf_counter()
        plain = {name: captured.plain for name, captured in state.parts.items()}
        text = store.to_json({**state.plain, "parts": plain})
        snapshot = self._copier.begin(flat, at_once=self.at_once)
        parts = {
            part: {name: file.sizes for name, file in named.items()}
            for part, named in files.items()
            if named
        }
        content = Content(snapshot.images, parts, text, state.facts, state.best)
        self._copying = snapshot, state, content
        atexit.register(self._complete)
        self.costs.blocked += time.perf_counter() - started
        if self.at_once:
            self.settle()

    def settle(self) -> None:
        """End the copy that is under way; to be called before anything of it changes."""
        if self._copying is None:
            return
        started = time.perf_counter()
        snapshot, state, content = self._end_copying(self._copying)
        self._torn = snapshot.settle()
        if not self._torn:
            self._writing = self._thread.submit(self._write, snapshot, state, content)
        self.costs.blocked += time.perf_counter() - started

    def _end_copying(self, copying: _Copying) -> _Copying:
        self._copying = None
        # Nothing else holds it until the exit: a saver whose run is forgotten is to be freed.
        atexit.unregister(self._complete)
        return copying

    def _complete(self) -> None:
        """Write what was still being copied when the interpreter began to exit.

        What had been given to the thread is written by then: Python waits for it first, and gives
        it nothing new.
        """
        if self._copying is None or self._given_up.is_set() or os.getpid() != self._owner:
            return
        snapshot, state, content = self._end_copying(self._copying)
        if not snapshot.settle():
            self._write(snapshot, state, content)

    def was_torn(self) -> bool:
        """Tell, once, that the last copy was of no use: tensors had changed outside of a step.

        Every later copy is made at once, and the caller should save again.
        """
        if self._torn:
            names, self._torn = self._torn, []
            self.at_once = True
            self.say(
                f"{names[0]} changed outside of an optimizer's step: from now on training waits"
                " while a state is copied"
            )
            return True
        return False

    def check(self) -> None:
        """Raise what a save behind has raised.

        Raises:
            CannotWriteError: the disk refused for longer than the patience.
            LuthierError: the state must not be kept.
        """
        if self._writing is not None and self._writing.done():
            done, self._writing = self._writing, None
            done.result()

    def wait(self) -> None:
        """Wait until what was saved is on the disk.

        Raises:
            CannotWriteError, LuthierError: see ``check``.
        """
        self.settle()
        if self._writing is not None:
            started = time.perf_counter()
            writing, self._writing = self._writing, None
            try:
                writing.result()
            finally:
                self.costs.blocked += time.perf_counter() - started

    def close(self, *, at_once: bool = False) -> None:
        """End the writing thread.

        Args:
            at_once: give up a save that is under way; else it is completed.

        Raises:
            CannotWriteError, LuthierError: what was to be completed has failed; see ``check``.
        """
        if at_once:
            self._writing = None
            if self._copying is not None:
                self._end_copying(self._copying)
            self.give_up()
        try:
            self.wait()
        finally:
            for hook in self._hooks:
                hook.remove()
            self._thread.shutdown(wait=not at_once, cancel_futures=at_once)

    def give_up(self) -> None:
        """Try no longer to write where the disk refuses; a signal handler may call this."""
        self._given_up.set()
        self.lose_others()

    def lose_others(self) -> None:
        """Wait no longer for what other writers have not written yet: one of them is gone."""
        if self._board is not None:
            self._board.give_up()

    def _write(self, snapshot: Snapshot, state: State, content: Content) -> None:
        started = time.thread_time()
        snapshot.arrived()
        if self._follower is None:
            with self._leader.ending():
                self._publish(state, content)
        else:
            self._follow(self._follower, state, content)
        self.costs.saves += 1
        self.costs.behind += time.thread_time() - started

    def _publish(self, state: State, content: Content) -> None:
        """Write a checkpoint; where several do, say when, and all but the files of the others."""
        _check(state, content)
        self.patiently("what the checkpoint refers to", state.before)
        self.last = self.patiently(
            f"checkpoint {state.step}",
            lambda: store.save(
                self.folder, state.step, content, self.keep, self.last, self._leader
            ),
        )
        self.costs.written += self.last.written

    def _follow(self, follower: Follower, state: State, content: Content) -> None:
        """Write the files of this process, when the first says so."""

        def write(directory: str) -> Portion:
            _check(state, content)
            return store.write_portion(self.folder / directory, content.files, self.last)

        portion = follower.serve(write)
        if portion is not None:
            path = store.directory_of(self.folder, state.step)
            self.last = Written(path, {"files": portion.files}, portion.written)
            self.costs.written += portion.written

    def patiently(self, what: str, write: Callable[[], T]) -> T:
        """Write something of the run, and try again for as long as the patience lasts.

        Args:
            what: names it in messages.
            write: may be called again after it has raised.

        Raises:
            CannotWriteError: the disk refused for longer than the patience.
            OSError: another kind of trouble than a full or failing disk.
        """
        until = time.monotonic() + self.patience
        pause, told = _FIRST_PAUSE, False
        while True:
            try:
                return write()
            except OSError as error:
                if error.errno not in DISK_TROUBLE:
                    raise
                left = until - time.monotonic()
                if left <= 0 or self._given_up.is_set():
                    raise self._cannot_write(what, error) from error
                if not told:
                    self.say(
                        f"{what} cannot be written to {self.folder.parent}: {error.strerror};"
                        f" trying again for {left:.0f} s"
                    )
                    told = True
                self._given_up.wait(min(pause, left))
                pause = min(2 * pause, _LONGEST_PAUSE)

    def _cannot_write(self, what: str, error: OSError) -> CannotWriteError:
        last = f"the last good checkpoint is {self.last.path}" if self.last else "nothing is saved"
        return CannotWriteError(
            f"{what} cannot be written to {self.folder.parent}: {error.strerror}; {last}",
            cure="make room or mend the disk; the run then continues where it was last saved",
        )


def _check(state: State, content: Content) -> None:
    """Look at the copied tensors of this process."""
    for part, captured in state.parts.items():
        own = [content.files[n] for n in content.parts.get(part, ()) if n in content.files]
        captured.check({key: t for image in own for key, t in image.tensors.items()})
