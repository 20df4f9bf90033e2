"""A disk with one fault: it kills, refuses, cuts short or loses, at any operation.

Kills are real: ``Victims`` is a small process that forks one child for each of them.
"""

from __future__ import annotations

import contextlib
import errno
import importlib
import itertools
import json
import os
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from luthier.files import disk
from luthier.files.disk import Disk

# Refusals; "X after" does the operation first, as when a server's answer is lost. "full" and
# "short" befall writes only: the half is written, and then there is no space or the rest follows.
# "dead" refuses all that comes after, with another error.
ERRORS = {
    "ENOSPC": errno.ENOSPC,
    "EDQUOT": errno.EDQUOT,
    "EIO": errno.EIO,
    "EIO after": errno.EIO,
    "full": errno.ENOSPC,
    "dead": errno.ENOSPC,
    "short": None,
}
# Ends of the process. A power failure takes data or names that were not flushed: all of them, or
# those of one kind, for a file system keeps what it likes.
KILLS = ("kill", "kill in write", "power: all", "power: data", "power: renames")
_CHANGES = ("open", "os.link", "os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.truncate")


@dataclass(frozen=True)
class _Change:
    """A change of names in a directory that no flush of it has made safe yet."""

    folder: int  # directories and files go by inode: their names change
    name: str
    came_from: str | None = None  # a rename
    replaced: Path | None = None  # what had the name before, kept aside
    made: bool = True


class FaultyDisk(Disk):
    """A disk on which one operation goes wrong.

    Flushes are only noted, never done: the power fails when this object says so.

    Args:
        fault: of ``ERRORS`` or ``KILLS``, or None.
        at: which operation, from 0.
        root: all that is on this disk.
        aside: an empty directory beside it, for what a power failure would bring back.
    """

    def __init__(
        self,
        fault: str | None = None,
        at: int = -1,
        root: Path | None = None,
        aside: Path | None = None,
    ) -> None:
        self.fault, self.at, self.root, self.aside = fault, at, root, aside
        self.log: list[tuple[str, str]] = []
        self.fired = False
        self.handles: dict[int, Path] = {}
        self.inside = False
        self._full = False
        self._changes: list[_Change] = []
        self._numbers = itertools.count()
        files = root.rglob("*") if root is not None else ()
        self._safe = {path.stat().st_ino for path in files if path.is_file()}

    @contextlib.contextmanager
    def _step(self, name: str, path: Path) -> Iterator[bool]:
        """One operation; gives whether a write is to be cut short."""
        self.inside = True
        try:
            befalls = self._befall(name, path)
            yield befalls and self.fault in ("full", "short", "kill in write")
            if befalls and self.fault == "EIO after":
                raise _error(errno.EIO, name)
        finally:
            self.inside = False

    def _befall(self, name: str, path: Path) -> bool:
        here = len(self.log) == self.at
        later = len(self.log) > self.at >= 0
        self.log.append((name, path.name))
        befalls = here and (name == "write" or self.fault not in ("full", "short", "kill in write"))
        self.fired |= befalls
        if befalls and self.fault == "kill":
            die()
        if befalls and self.fault is not None and self.fault.startswith("power"):
            self._power_failure()
        if befalls and self.fault in ("ENOSPC", "EDQUOT", "EIO", "dead"):
            raise _error(ERRORS[self.fault], name)
        if later and self.fault == "dead":
            raise _error(errno.EIO, name)
        if self._full and name == "write":
            raise _error(errno.ENOSPC, name)
        return befalls

    def end(self) -> None:
        """Count what comes after all that was done, so that the power may fail then."""
        with self._step("end", Path()):
            pass

    def create(self, path: Path) -> int:
        with self._step("create", path):
            handle = super().create(path)
            self._safe.discard(os.fstat(handle).st_ino)
            self.handles[handle] = path
            self._note(path)
            if self.fault == "EIO after" and len(self.log) - 1 == self.at:
                self.close(handle)
            return handle

    def write(self, handle: int, content: memoryview) -> int:
        with self._step("write", self.handles[handle]) as cut:
            self._safe.discard(os.fstat(handle).st_ino)
            count = super().write(handle, content[: len(content) // 2] if cut else content)
            if cut and self.fault == "kill in write":
                die()
            self._full = cut and self.fault == "full"
            return count

    def sync(self, handle: int) -> None:
        with self._step("sync", self.handles[handle]):
            self._safe.add(os.fstat(handle).st_ino)

    def close(self, handle: int) -> None:
        path = self.handles.pop(handle)
        super().close(handle)
        with self._step("close", path):
            pass

    def sync_file(self, path: Path) -> None:
        with self._step("sync_file", path):
            self._safe.add(path.stat().st_ino)

    def sync_directory(self, path: Path) -> None:
        with self._step("sync_directory", path):
            folder = path.stat().st_ino
            self._changes = [change for change in self._changes if change.folder != folder]

    def make_directory(self, path: Path) -> None:
        with self._step("make_directory", path):
            super().make_directory(path)
            self._note(path)

    def rename(self, source: Path, target: Path) -> None:
        assert source.parent == target.parent, "only then is one flush enough"
        with self._step("rename", target):
            replaced = self._keep(target) if target.is_file() else None
            super().rename(source, target)
            self._note(target, came_from=source.name, replaced=replaced)

    def link(self, source: Path, target: Path) -> None:
        with self._step("link", target):
            super().link(source, target)
            self._note(target)

    def unlink(self, path: Path) -> None:
        with self._step("unlink", path):
            kept = self._keep(path)
            if kept is None:
                super().unlink(path)
            self._note(path, replaced=kept, made=False)

    def remove_empty(self, path: Path) -> None:
        with self._step("remove_empty", path):
            kept = None if any(path.iterdir()) else self._keep(path)
            if kept is None:
                super().remove_empty(path)
            self._note(path, replaced=kept, made=False)

    def _keep(self, path: Path) -> Path | None:
        if self.aside is None:
            return None
        return path.rename(self.aside / str(next(self._numbers)))

    def _note(self, path: Path, **facts: Any) -> None:
        self._changes.append(_Change(path.parent.stat().st_ino, path.name, **facts))

    def _power_failure(self) -> NoReturn:
        if self.fault != "power: data":
            for change in reversed(self._changes):
                if self.fault == "power: all" or change.came_from is not None:
                    self._undo(change)
        if self.fault != "power: renames":
            assert self.root is not None
            for path in self.root.rglob("*"):
                if path.is_file() and path.stat().st_ino not in self._safe:
                    os.truncate(path, 0)
        die()

    def _undo(self, change: _Change) -> None:
        assert self.root is not None
        assert self.aside is not None
        places = itertools.chain([self.root], self.root.rglob("*"), self.aside.rglob("*"))
        path = next(p for p in places if p.stat().st_ino == change.folder) / change.name
        if change.came_from is not None and path.exists():
            path.rename(path.with_name(change.came_from))
        elif change.made and path.exists():
            Disk().remove_tree(path)
        if change.replaced is not None:
            change.replaced.rename(path)


def refused(disk_of_one_fault: FaultyDisk, act: Callable[[Path], object], root: Path) -> int | None:
    """Do something on a faulty disk; give the number of the error that it raised."""
    with disk.using(disk_of_one_fault):
        try:
            act(root)
        except OSError as error:
            return error.errno
    return None


def die() -> NoReturn:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("unreachable")


def _error(number: int | None, name: str) -> OSError:
    assert number is not None
    return OSError(number, f"{os.strerror(number)} ({name})")


class Victims:
    """Runs functions of a test module in processes that a fault ends.

    Args:
        module: the test module's name; it is imported once, and then forked. Where it says
            ``ONLY_BY_DISK``, a change that goes past the disk is an error.
    """

    def __init__(self, module: str) -> None:
        self._parent = subprocess.Popen(
            [sys.executable, __file__, module],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def run(self, function: str, root: Path, aside: Path, fault: str, at: int) -> bool:
        """Call ``function(root)`` on a faulty disk; return whether it was killed.

        Raises:
            AssertionError: it raised; its traceback is on the standard error.
        """
        assert self._parent.stdin is not None
        assert self._parent.stdout is not None
        request = [function, str(root), str(aside), fault, at]
        print(json.dumps(request), file=self._parent.stdin, flush=True)
        status = int(self._parent.stdout.readline())
        assert status in (0, -signal.SIGKILL), f"{request}: {status}"
        return status != 0

    def close(self) -> None:
        """End the process."""
        self._parent.communicate()
        assert self._parent.returncode == 0


def _serve(module: str) -> None:
    functions = importlib.import_module(module)
    for line in sys.stdin:
        function, root, aside, fault, at = json.loads(line)
        child = os.fork()
        if child == 0:
            only = getattr(functions, "ONLY_BY_DISK", False)
            _be_victim(getattr(functions, function), Path(root), Path(aside), fault, at, only)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


def _refuse_other_ways(root: Path, faulty: FaultyDisk) -> None:
    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        if faulty.inside or event not in _CHANGES or not str(arguments[0]).startswith(str(root)):
            return
        if event != "open" or arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC):
            raise AssertionError(f"{event} {arguments[0]} goes past the disk")

    sys.addaudithook(watch)


def _be_victim(
    function: Any, root: Path, aside: Path, fault: str, at: int, only_by_disk: bool
) -> NoReturn:
    faulty = FaultyDisk(fault, at, root, aside)
    if only_by_disk:
        _refuse_other_ways(root, faulty)
    try:
        with disk.using(faulty):
            function(root)
            faulty.end()
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


if __name__ == "__main__":
    _serve(sys.argv[1])
