"""Bytes of a file, given when they are asked for. No torch here.

A file is mapped once and privately: what is read costs no copy, and what is written to the memory
stays there.
"""

from __future__ import annotations

import mmap
import os
import stat
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from luthier.errors import DamagedError, UnsupportedFileError
from luthier.files.limits import Budget

_CLOSE_ON_EXEC = getattr(os, "O_CLOEXEC", 0)
_DO_NOT_WAIT = getattr(os, "O_NONBLOCK", 0)


class Blob(Protocol):
    """Bytes that tensors look at. Two tensors share memory where they have the same blob."""

    @property
    def nbytes(self) -> int:
        """Their number."""
        ...

    def view(self) -> memoryview:
        """Return them: writable, and the same memory at each call while somebody holds it.

        Raises:
            DamagedError: they are not there, or not what their checksum says.
        """
        ...


class MappedFile:
    """A file whose bytes are mapped when they are first needed.

    Args:
        path: it is opened at once, so that it cannot be exchanged for another later.

    Attributes:
        budget: for the objects that it describes, where it is one of several files or inside
            another; else None, and who reads it makes one.

    Raises:
        UnsupportedFileError: there is no such file, it may not be read, or it is a folder, a pipe
            or a device.
    """

    budget: Budget | None = None
    _handle = -1

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            # Without O_NONBLOCK, opening a named pipe would wait for somebody to write to it.
            self._handle = os.open(path, os.O_RDONLY | _CLOSE_ON_EXEC | _DO_NOT_WAIT)
            found = os.fstat(self._handle)
        except OSError as error:
            raise UnsupportedFileError(f"{path} cannot be read: {error.strerror}") from error
        if not stat.S_ISREG(found.st_mode):
            raise UnsupportedFileError(f"{path} is no file but {_what(found.st_mode)}")
        self.size = found.st_size
        self._map: mmap.mmap | None = None

    def read(self, start: int, count: int) -> bytes:
        """Return ``count`` bytes from ``start`` on, without mapping anything.

        Raises:
            DamagedError: the file is shorter.
        """
        if start < 0 or count < 0 or start + count > self.size:
            raise DamagedError(
                f"{self.path} is truncated or damaged: bytes {start} to {start + count} are asked"
                f" for, and it has {self.size}"
            )
        chunks = []
        while count:
            chunk = os.pread(self._handle, count, start)
            if not chunk:
                raise self._shorter()
            chunks.append(chunk)
            start, count = start + len(chunk), count - len(chunk)
        return b"".join(chunks)

    def view(self, start: int, count: int) -> memoryview:
        """Return ``count`` bytes from ``start`` on, mapped: writable, and private.

        Raises:
            DamagedError: the file is shorter.
        """
        if start < 0 or count < 0 or start + count > self.size:
            self.read(start, count)  # says so
        if not count:
            return memoryview(bytearray())
        if os.fstat(self._handle).st_size < self.size:  # what is behind its end would kill us
            raise self._shorter()
        if self._map is None:
            self._map = mmap.mmap(self._handle, self.size, access=mmap.ACCESS_COPY)
        return memoryview(self._map)[start : start + count]

    def _shorter(self) -> DamagedError:
        return DamagedError(f"{self.path} became shorter while it was read")

    def close(self) -> None:
        """Let go of the file; what has been mapped stays while somebody holds it."""
        handle, self._handle = self._handle, -1
        if handle >= 0:
            os.close(handle)
        self._map = None

    def __del__(self) -> None:
        self.close()


def _what(mode: int) -> str:
    if stat.S_ISDIR(mode):
        return "a folder"
    return "a named pipe" if stat.S_ISFIFO(mode) else "a device"


@dataclass(frozen=True, eq=False)
class Region:
    """A part of a file, as it lies there."""

    file: MappedFile
    start: int
    nbytes: int

    def view(self) -> memoryview:
        """See ``Blob``."""
        return self.file.view(self.start, self.nbytes)


@dataclass(frozen=True, eq=False)
class Held:
    """Bytes that are in memory already."""

    content: bytearray = field(repr=False)

    @property
    def nbytes(self) -> int:
        """See ``Blob``."""
        return len(self.content)

    def view(self) -> memoryview:
        """See ``Blob``."""
        return memoryview(self.content)
