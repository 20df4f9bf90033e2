"""Who has which accelerator: file locks, which the kernel takes back from whoever dies.

All users of a machine share one folder. In it is a file for each accelerator, by its UUID, which
its holder has locked: exclusively, or shared with others that have promised how much memory they
take. Files of those that wait stand in a queue. Whoever looks, chooses and locks holds the guard
meanwhile, so that choosing and locking is one step for all others.
"""

from __future__ import annotations

import contextlib
import dataclasses
import enum
import fcntl
import getpass
import json
import os
import secrets
import shlex
import stat
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from luthier.accelerators.picking import Held, Picked, Request, candidates, pick
from luthier.accelerators.values import Accelerator, Survey
from luthier.errors import BusyError, LeaseError

FOLDER = "LUTHIER_LEASES"
_PLACES = (Path("/run/lock"), Path("/tmp"))  # noqa: S108 - that all users have
_GUARD, _HOLDER, _TURN = "guard", "holder", "turn"
_CURE = "wait for it with --wait 2h; luthier devices shows who has what"
_PAUSE = 0.25  # seconds between two looks of one that waits
_OPEN = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC


class _State(enum.Enum):
    FREE = enum.auto()
    SHARED = enum.auto()
    ALONE = enum.auto()


@dataclass(frozen=True)
class Holder:
    """Who has a lease, as it says itself.

    Attributes:
        uuid: of the accelerator.
        pid: of the process that took it.
        user: whose it is.
        command: what runs.
        since: seconds since 1970.
        share: bytes that it promised to take at most; None where it has the accelerator alone.
    """

    uuid: str
    pid: int
    user: str
    command: str
    since: float
    share: int | None = None


def shared_folder() -> Path:
    """Return the folder that all users of this machine share; the same for each of them.

    ``LUTHIER_LEASES`` names another, such as one that several containers mount.
    """
    named = os.environ.get(FOLDER)
    if named:
        return Path(named)
    return next(p for p in _PLACES if p.is_dir() and os.stat(p).st_mode & stat.S_IWOTH) / "luthier"


class Lease:
    """Accelerators that are held until ``release``, or until this process and its heirs have ended.

    Attributes:
        accelerators: what is held.
        reason: why these.
        descriptors: of the locks; a child that inherits them holds the lease, too.
    """

    def __init__(
        self,
        accelerators: Sequence[Accelerator],
        reason: str,
        descriptors: Sequence[int] = (),
        files: Sequence[Path] = (),
    ) -> None:
        self.accelerators, self.reason = tuple(accelerators), reason
        self.descriptors, self._files = tuple(descriptors), tuple(files)

    def release(self) -> None:
        """Give the accelerators back; children that have inherited the lease lose it, too."""
        for descriptor in self.descriptors:
            fcntl.flock(descriptor, fcntl.LOCK_UN)
        if self.descriptors:
            for file in self._files:
                file.unlink(missing_ok=True)
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
        self.folder = shared_folder() if folder is None else folder
        with self._trouble():
            if not self.folder.is_dir():
                with contextlib.suppress(FileExistsError):
                    self.folder.mkdir(parents=True)
                    # Everybody makes files in it, and nobody removes another's.
                    self.folder.chmod(0o1777)

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
                with self._trouble(), self._guard():
                    ahead = self._ahead(turn)
                    awaited = {uuid for wanted in ahead for uuid in wanted}
                    held = self._held([a.uuid for a in shown])
                    picked = pick(survey, shown, request, replace(held, awaited=awaited))
                    if picked.accelerators:
                        return self._lock(picked, request)
                    if not picked.can_come:
                        raise LeaseError(picked.reason)
                    behind = f"; {len(ahead)} came before" if ahead else ""
                    if time.monotonic() >= until:
                        raise BusyError(picked.reason + behind, cure=_CURE)
                    if turn is None:
                        turn = self._line_up(shown, request)
                        say(f"waiting: {picked.reason}{behind}")
                time.sleep(max(0.0, min(_PAUSE, until - time.monotonic())))
        finally:
            if turn is not None:
                turn.close()

    def holders(self, uuids: Sequence[str]) -> list[Holder]:
        """Return who holds these accelerators."""
        with self._trouble(), self._guard():
            return [holder for uuid in uuids for holder in self._told(uuid)]

    # --- under the guard ----------------------------------------------------------------------

    @contextlib.contextmanager
    def _guard(self) -> Iterator[None]:
        descriptor = self._open(_GUARD)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            _let_go(descriptor)

    def _open(self, name: str) -> int:
        """Open a file that all users lock; make it where it is missing."""
        path = self.folder / name
        # Opened before it is made: a system that protects sticky folders lets nobody ask for
        # another user's file to be made.
        with contextlib.suppress(FileNotFoundError):
            return os.open(path, _OPEN)
        with contextlib.suppress(FileExistsError):
            descriptor = os.open(path, _OPEN | os.O_CREAT | os.O_EXCL, 0o666)
            os.fchmod(descriptor, 0o666)  # whatever the umask took away
            return descriptor
        return os.open(path, _OPEN)

    def _held(self, uuids: Sequence[str]) -> Held:
        states = {uuid: self._state(uuid) for uuid in uuids}
        shared = [uuid for uuid, state in states.items() if state is _State.SHARED]
        return Held(
            alone={uuid for uuid, state in states.items() if state is _State.ALONE},
            shares={uuid: sum(h.share or 0 for h in self._told(uuid)) for uuid in shared},
        )

    def _state(self, uuid: str) -> _State:
        descriptor = self._open(uuid)
        try:
            if _locks(descriptor, fcntl.LOCK_EX):
                return _State.FREE
            return _State.SHARED if _locks(descriptor, fcntl.LOCK_SH) else _State.ALONE
        finally:
            _let_go(descriptor)

    def _told(self, uuid: str) -> list[Holder]:
        found = [_read(path) for path in self._live(f"{_HOLDER}-{uuid}-*")]
        return [holder for holder in found if holder is not None]

    def _live(self, pattern: str) -> list[Path]:
        """Return the files of a kind whose owners live, in the order of their names."""
        alive = []
        for path in sorted(self.folder.glob(pattern)):
            with contextlib.suppress(OSError):
                descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
                try:
                    if not _locks(descriptor, fcntl.LOCK_EX):
                        alive.append(path)
                        continue
                    # Another user's file is left to its owner: the folder is sticky.
                    path.unlink()
                finally:
                    _let_go(descriptor)
        return alive

    def _lock(self, picked: Picked, request: Request) -> Lease:
        kind = fcntl.LOCK_EX if request.share is None else fcntl.LOCK_SH
        with contextlib.ExitStack() as undo:
            descriptors, files = [], []
            for accelerator in picked.accelerators:
                descriptor = self._open(accelerator.uuid)
                undo.callback(os.close, descriptor)
                fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
                me = _me(accelerator.uuid, request)
                told, file = self._tell(f"{_HOLDER}-{accelerator.uuid}", me)
                undo.callback(os.close, told)
                descriptors += [descriptor, told]
                files.append(file)
            undo.pop_all()
        return Lease(picked.accelerators, picked.reason, descriptors, files)

    def _tell(self, name: str, what: Any) -> tuple[int, Path]:
        """Make a file that only this process locks, with something in it."""
        path = self.folder / f"{name}-{secrets.token_hex(8)}"
        descriptor = os.open(path, _OPEN | os.O_CREAT | os.O_EXCL, 0o644)
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.fchmod(descriptor, 0o644)
        os.write(descriptor, json.dumps(what).encode())
        return descriptor, path

    # --- the queue ----------------------------------------------------------------------------

    def _line_up(self, shown: Sequence[Accelerator], request: Request) -> Turn:
        last = max((_number(path) for path in self.folder.glob(f"{_TURN}-*")), default=0)
        number = last + 1
        wanted = [a.uuid for a in candidates(shown, request)]
        return Turn(number, *self._tell(f"{_TURN}-{number:012d}", wanted))

    def _ahead(self, turn: Turn | None) -> list[list[str]]:
        """Return what those wait for who came before."""
        ahead = []
        for path in self._live(f"{_TURN}-*"):
            if turn is None or _number(path) < turn.number:
                with contextlib.suppress(OSError, ValueError):
                    ahead.append(json.loads(path.read_bytes()))
        return ahead

    @contextlib.contextmanager
    def _trouble(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise LeaseError(
                f"leases cannot be kept in {self.folder}: {error.strerror or error}",
                cure=f"name a folder that all users may write to in {FOLDER}",
            ) from error


class Turn:
    """A place in the queue, which is lost with the process.

    Attributes:
        number: lower ones come first.
    """

    def __init__(self, number: int, descriptor: int, path: Path) -> None:
        self.number, self._descriptor, self._path = number, descriptor, path

    def close(self) -> None:
        """Leave the queue."""
        with contextlib.suppress(OSError):
            self._path.unlink()
        _let_go(self._descriptor)


def _locks(descriptor: int, kind: int) -> bool:
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _let_go(descriptor: int) -> None:
    # Unlocked as well as closed: a child that was forked meanwhile has the file open, too.
    fcntl.flock(descriptor, fcntl.LOCK_UN)
    os.close(descriptor)


def _number(path: Path) -> int:
    return int(path.name.split("-")[1])


def _me(uuid: str, request: Request) -> dict[str, Any]:
    command = shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]) if sys.argv else ""
    me = Holder(uuid, os.getpid(), getpass.getuser(), command[:200], time.time(), request.share)
    return dataclasses.asdict(me)


def _read(path: Path) -> Holder | None:
    with contextlib.suppress(OSError, ValueError, TypeError):
        return Holder(**json.loads(path.read_bytes()))
    return None
