"""Who has which accelerator: file locks, which the kernel takes back from whoever dies.

All users of a machine share one folder. In it is a file for each accelerator, by its UUID, which
its holder has locked: exclusively, or shared with others that have promised how much memory they
take. Files of those that wait stand in a queue. Whoever looks, chooses and locks holds the guard
meanwhile, so that choosing and locking is one step for all others.

A file counts while its owner has it locked. What the dead have left, and what anybody has put there
besides, is passed over.
"""

from __future__ import annotations

import contextlib
import dataclasses
import enum
import os
import re
import secrets
import shlex
import stat
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from luthier.accelerators import holders, locks
from luthier.accelerators.holders import Holder
from luthier.accelerators.picking import Held, Picked, Request, candidates, pick
from luthier.accelerators.values import Accelerator, Survey
from luthier.errors import BusyError, LeaseError, LeasesUnavailableError

FOLDER = "LUTHIER_LEASES"
_PLACES = (Path("/run/lock"), Path("/tmp"))  # noqa: S108 - that all users have
_GUARD, _HOLDER, _TURN = "guard", "holder", "turn"
_NUMBERED = re.compile(rf"{_TURN}-([0-9]+)-")
_CURE = "wait for it with --wait 2h; luthier devices shows who has what"
_PAUSE = 0.25  # seconds between two looks of one that waits
_PATIENCE = 30.0  # seconds for the guard, which is held for milliseconds
_RETRY = 0.002  # seconds between two tries at the guard


class _State(enum.Enum):
    FREE = enum.auto()
    SHARED = enum.auto()
    ALONE = enum.auto()


def shared_folder() -> Path:
    """Return the folder that all users of this machine share; the same for each of them.

    ``LUTHIER_LEASES`` names another, such as one that several containers mount.

    Raises:
        LeasesUnavailableError: there is no place that all users have.
    """
    named = os.environ.get(FOLDER)
    if named:
        return Path(named)
    for place in _PLACES:
        if place.is_dir() and place.stat().st_mode & stat.S_IWOTH:
            return place / "luthier"
    places = " nor ".join(map(str, _PLACES))
    raise LeasesUnavailableError(
        f"leases need a folder that all users may write to: neither {places} is one here",
        cure=f"name another in {FOLDER}",
    )


class Lease:
    """Accelerators that are held until ``release``, or until this process and its heirs have ended.

    Attributes:
        accelerators: what is held.
        reason: why these.
        descriptors: of the locks; a child that inherits them holds the lease, too.
        share: bytes of each that its holder may take; None where it may take all.
    """

    def __init__(
        self,
        accelerators: Sequence[Accelerator],
        reason: str,
        descriptors: Sequence[int] = (),
        files: Sequence[Path] = (),
        share: int | None = None,
    ) -> None:
        self.accelerators, self.reason, self.share = tuple(accelerators), reason, share
        self.descriptors, self._files = tuple(descriptors), tuple(files)

    def release(self) -> None:
        """Give the accelerators back; children that have inherited the lease lose it, too."""
        for descriptor in self.descriptors:
            locks.unlock(descriptor)
        if self.descriptors:
            for file in self._files:
                with contextlib.suppress(OSError):  # whoever sees it next takes it away
                    file.unlink()
        self.leave()

    def leave(self) -> None:
        """Hold them no longer; they are free when no child holds them either."""
        descriptors, self.descriptors = self.descriptors, ()
        for descriptor in descriptors:
            os.close(descriptor)


class Leases:
    """The leases of a machine.

    Args:
        folder: that all share; it is made where it is missing.

    Raises:
        LeaseError: it cannot be used.
    """

    def __init__(self, folder: Path | None = None) -> None:
        locks.check_system()
        self.folder = shared_folder() if folder is None else folder
        with self._trouble():
            if not self.folder.is_dir():
                locks.make_folder(self.folder)

    def acquire(
        self,
        look: Callable[[], tuple[Survey, Sequence[Accelerator]]],
        request: Request,
        *,
        wait: float = 0.0,
        say: Callable[[str], object] = lambda _line: None,
    ) -> Lease:
        """Choose accelerators and hold them; wait for them in turn.

        Whoever came first is served first: nobody is given what one that has waited longer could
        use.

        Args:
            look: returns what there is now, and what of it may be used.
            request: what is wanted.
            wait: seconds to wait for it.
            say: is told once that it waits, and for what.

        Raises:
            BusyError: others have what is wanted, for longer than ``wait``.
            LeaseError: there is not as much, whoever gives back; or the folder cannot be used.
        """
        until = time.monotonic() + wait
        turn: Turn | None = None
        try:
            while True:
                survey, shown = look()
                news = None
                with self._trouble(), self._guard(until):
                    others = self._turns()
                    ahead = [t for t in others if turn is None or t.number < turn.number]
                    awaited = {uuid for other in ahead for uuid in other.wanted}
                    held = self._held([a.uuid for a in shown])
                    picked = pick(survey, shown, request, replace(held, awaited=awaited))
                    if picked.accelerators:
                        lease = self._lock(picked, request)
                        if turn is not None:  # or whoever comes now would wait for its end
                            turn.close()
                        return lease
                    if not picked.can_come:
                        raise LeaseError(picked.reason)
                    behind = f"; {len(ahead)} came before" if ahead else ""
                    if time.monotonic() >= until:
                        raise BusyError(picked.reason + behind, cure=_CURE)
                    if turn is None:
                        number = max((other.number for other in others), default=0) + 1
                        turn = self._line_up(number, candidates(shown, request))
                        news = f"waiting: {picked.reason}{behind}"
                if news is not None:  # without the guard: it may be long in telling
                    say(news)
                time.sleep(max(0.0, min(_PAUSE, until - time.monotonic())))
        finally:
            if turn is not None:
                turn.close()

    def holders(self, uuids: Sequence[str]) -> list[Holder]:
        """Return who holds these accelerators.

        Raises:
            BusyError: somebody has stopped in the middle of choosing.
            LeaseError: the folder cannot be used.
        """
        with self._trouble(), self._guard():
            return [holder for uuid in uuids for holder in self._told(uuid)]

    def check(self) -> None:
        """See that files of the folder can be locked; nobody is waited for.

        Raises:
            LeaseError: they cannot.
        """
        with self._trouble():
            descriptor = locks.open_common(self.folder / _GUARD)
            try:
                locks.take(descriptor)
            finally:
                locks.let_go(descriptor)

    # --- under the guard ----------------------------------------------------------------------

    @contextlib.contextmanager
    def _guard(self, until: float = 0.0) -> Iterator[None]:
        path = self.folder / _GUARD
        # Never for ever: a program may be stopped, such as by Ctrl-Z, while it has the guard.
        until = max(until, time.monotonic() + _PATIENCE)
        while True:
            descriptor = locks.open_common(path)
            try:
                if locks.take(descriptor):
                    if locks.names(descriptor, path):  # nobody has taken the file away meanwhile
                        yield
                        return
                elif time.monotonic() >= until:
                    raise BusyError(
                        "another program holds the lock under which accelerators are chosen, and"
                        " goes no further",
                        cure=f"it may be stopped; fuser {shlex.quote(str(path))} names it",
                    )
            finally:
                locks.let_go(descriptor)
            time.sleep(_RETRY)

    def _held(self, uuids: Sequence[str]) -> Held:
        alone, shares = set(), {}
        for uuid in uuids:
            state = self._state(uuid)
            told = self._told(uuid) if state is _State.SHARED else []
            if told:
                shares[uuid] = sum(holder.share or 0 for holder in told)
            elif state is not _State.FREE:
                alone.add(uuid)  # also what is shared by somebody who does not say how
        return Held(alone=alone, shares=shares)

    def _state(self, uuid: str) -> _State:
        descriptor = locks.open_common(self.folder / uuid)
        try:
            if locks.take(descriptor):
                return _State.FREE
            return _State.SHARED if locks.take(descriptor, shared=True) else _State.ALONE
        finally:
            locks.let_go(descriptor)

    def _told(self, uuid: str) -> list[Holder]:
        found = [holders.of(uuid, told) for _, told in self._live(f"{_HOLDER}-{uuid}-*")]
        return [holder for holder in found if holder is not None]

    def _live(self, pattern: str) -> list[tuple[str, Any]]:
        """Return names and contents of the files of a kind whose owners live, by their names."""
        alive = []
        for path in sorted(self.folder.glob(pattern)):
            with contextlib.suppress(OSError):
                descriptor = locks.open_told(path)
                try:
                    # Shared: a file system that asks for a writer's lock on a writer's file.
                    if not locks.take(descriptor, shared=True):
                        alive.append((path.name, locks.read(descriptor)))
                        continue
                    # Another user's file is left to its owner: the folder is sticky.
                    path.unlink()
                finally:
                    locks.let_go(descriptor)
        return alive

    def _lock(self, picked: Picked, request: Request) -> Lease:
        with contextlib.ExitStack() as undo:
            descriptors, files = [], []
            for accelerator in picked.accelerators:
                path = self.folder / accelerator.uuid
                descriptor = locks.open_common(path)
                undo.callback(os.close, descriptor)
                if not locks.take(descriptor, shared=request.share is not None):
                    raise BusyError(f"{accelerator.place} was locked past the guard", cure=_CURE)
                about = f"{_HOLDER}-{accelerator.uuid}"
                self._live(f"{about}-*")  # what the dead have said of it goes
                me = dataclasses.asdict(holders.myself(accelerator.uuid, request.share))
                told, file = self._tell(about, me)
                undo.callback(os.close, told)
                descriptors += [descriptor, told]
                files.append(file)
            undo.pop_all()
        return Lease(picked.accelerators, picked.reason, descriptors, files, request.share)

    def _tell(self, name: str, what: Any) -> tuple[int, Path]:
        """Make a file that only this process locks, with something in it."""
        path = self.folder / f"{name}-{secrets.token_hex(8)}"
        descriptor = locks.make(path, mode=0o644)
        try:
            locks.write(descriptor, what)
        except BaseException:
            path.unlink()
            os.close(descriptor)
            raise
        return descriptor, path

    # --- the queue ----------------------------------------------------------------------------

    def _line_up(self, number: int, wanted: Sequence[Accelerator]) -> Turn:
        uuids = [a.uuid for a in wanted]
        return Turn(number, *self._tell(f"{_TURN}-{number:012d}", uuids))

    def _turns(self) -> list[_Other]:
        """Return who waits."""
        found = []
        for name, told in self._live(f"{_TURN}-*"):
            numbered = _NUMBERED.match(name)
            if numbered is not None and isinstance(told, list):
                found.append(_Other(int(numbered[1]), [u for u in told if isinstance(u, str)]))
        return found

    @contextlib.contextmanager
    def _trouble(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            what = f": {Path(error.filename).name}" if error.filename else ""
            raise LeasesUnavailableError(
                f"leases cannot be kept in {self.folder}{what}: {error.strerror or error}",
                cure=f"name a folder that all users may write to in {FOLDER}",
            ) from error


@dataclass(frozen=True)
class _Other:
    """The turn of one that waits: its number, and the UUIDs of what it could use."""

    number: int
    wanted: Sequence[str]


class Turn:
    """A place in the queue, which is lost with the process.

    Attributes:
        number: lower ones come first.
    """

    def __init__(self, number: int, descriptor: int, path: Path) -> None:
        self.number, self._path = number, path
        self._descriptor: int | None = descriptor

    def close(self) -> None:
        """Leave the queue, if that was not done before."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is None:
            return
        with contextlib.suppress(OSError):
            self._path.unlink()
        locks.let_go(descriptor)
