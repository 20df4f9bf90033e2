"""Every operation with which luthier changes a disk durably, behind one small object.

Tests put another object in its place: one that kills, refuses, cuts short or loses.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path


class Disk:
    """The operations themselves, thin over ``os``; each raises ``OSError`` as it does."""

    def create(self, path: Path) -> int:
        """Make a file that is not there yet; return a handle for writing to it."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
        return os.open(path, flags, 0o666)

    def write(self, handle: int, content: memoryview) -> int:
        """Write the beginning of ``content``; return how many bytes that was."""
        return os.write(handle, content)

    def sync(self, handle: int) -> None:
        """Flush an open file."""
        os.fsync(handle)

    def close(self, handle: int) -> None:
        """Close a file; the handle is gone also if this raises."""
        os.close(handle)

    def sync_file(self, path: Path) -> None:
        """Flush a file that something else has written."""
        _sync(path)

    def sync_directory(self, path: Path) -> None:
        """Flush a directory: which names are in it."""
        _sync(path)

    def make_directory(self, path: Path) -> None:
        """Make a directory that is not there yet."""
        path.mkdir()

    def rename(self, source: Path, target: Path) -> None:
        """Give a file or directory another name in one step; a file there is replaced."""
        source.replace(target)

    def link(self, source: Path, target: Path) -> None:
        """Give a file a second name."""
        os.link(source, target)

    def unlink(self, path: Path) -> None:
        """Remove a file's name."""
        path.unlink()

    def remove_empty(self, path: Path) -> None:
        """Remove an empty directory."""
        path.rmdir()

    def remove_tree(self, path: Path) -> None:
        """Remove a file, or a directory with all that is in it; links are not followed."""
        if path.is_symlink() or not path.is_dir():
            self.unlink(path)
            return
        for entry in sorted(path.iterdir()):
            self.remove_tree(entry)
        self.remove_empty(path)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


_current = Disk()


def current() -> Disk:
    """Return the disk that is written to now."""
    return _current


@contextlib.contextmanager
def using(disk: Disk) -> Iterator[None]:
    """Let every thread write to ``disk`` inside the ``with`` block."""
    global _current  # noqa: PLW0603 - a save's own thread must see it too
    before, _current = _current, disk
    try:
        yield
    finally:
        _current = before
