"""Photos that are decoded once and kept: in memory, then on the disk."""

from __future__ import annotations

import hashlib
import os
import tempfile
import threading
from collections.abc import Hashable
from pathlib import Path

import numpy as np

from luthier.data.images import DECODE_ERRORS, Inspection, decode_quietly, describe
from luthier.data.rendering import Pixels
from luthier.errors import DataError

_Kept = Pixels | tuple[int, tuple[int, ...]]  # in memory, or (offset, shape) in the file


class Decoded:
    """What was decoded, or made of it, by any hashable name; shared by threads.

    Nothing is ever put out for something newer: epochs ask for every photo in turn, and so
    whatever was kept first serves them best. What no longer fits is decoded each time.

    Args:
        shortest: photos are reduced as far as their shorter edge is no shorter; see ``decode``.
        memory: bytes to keep in memory.
        disk: bytes to keep on the disk, once ``spill_to`` has said where.

    Attributes:
        decodes: photos that were decoded.
    """

    def __init__(self, shortest: int, *, memory: int, disk: int = 0) -> None:
        self.shortest = shortest
        self.decodes = 0
        self._memory, self._disk = memory, disk
        self._lock = threading.Lock()
        self._kept: dict[Hashable, _Kept] = {}
        self._file: int | None = None
        self._end = 0

    def photo(self, path: Path, found: Inspection | None = None, *, keep: bool = True) -> Pixels:
        """Return a photo, decoded now if it is not kept.

        Args:
            path: of its file.
            found: what was found in the file; other content is refused. None accepts any.
            keep: for the next time, where there is room.

        Raises:
            DataError: the file cannot be read, is no image, or not the one that was found.
        """
        pixels = self.find(path)
        if pixels is not None:
            return pixels
        content = _content(path, found)
        try:
            return self.decode(path, content, keep=keep)
        except DECODE_ERRORS as error:
            reason = describe(error, content)
            raise DataError(f"{path} is no longer an image: {reason}", cure=_CURE) from error

    def decode(self, path: Path, content: bytes, *, keep: bool = True) -> Pixels:
        """Decode the bytes of a file, inside of ``images.quiet``, and keep them if asked.

        Raises:
            DECODE_ERRORS: they are no image.
        """
        pixels = np.asarray(decode_quietly(content, self.shortest))
        with self._lock:
            self.decodes += 1
        if keep:
            self.keep(path, pixels)
        return pixels

    def find(self, name: Hashable) -> Pixels | None:
        """Return what is kept under a name, to be read only; or None."""
        with self._lock:
            kept = self._kept.get(name)
            file = self._file
        if kept is None or isinstance(kept, np.ndarray):
            return kept
        return _read(file, *kept) if file is not None else None

    def keep(self, name: Hashable, pixels: Pixels) -> None:
        """Keep an array under a name, unless there is no room or one is there."""
        with self._lock:
            if name in self._kept:
                return
            if pixels.nbytes <= self._memory:
                self._memory -= pixels.nbytes
                self._kept[name] = pixels
                return
            if self._file is None or pixels.nbytes > self._disk:
                return
            file, offset = self._file, self._end
            self._disk -= pixels.nbytes
            self._end += pixels.nbytes
        if _write(file, offset, pixels):
            with self._lock:
                self._kept.setdefault(name, (offset, pixels.shape))
        else:
            with self._lock:
                self._disk = 0

    def drop(self, name: Hashable) -> None:
        """Forget what is kept under a name; its memory can be used again."""
        with self._lock:
            kept = self._kept.pop(name, None)
            if isinstance(kept, np.ndarray):
                self._memory += kept.nbytes

    def spill_to(self, folder: Path, disk: int | None = None) -> None:
        """Keep on the disk of a folder what memory cannot hold.

        Args:
            folder: on the disk.
            disk: bytes to keep there, in place of those given before.

        The file has no name, so that it is gone with the process, however that ends. Where none
        can be made nothing is kept on the disk.
        """
        if disk is not None:
            self._disk = disk
        if self._file is not None or self._disk <= 0:
            return
        try:
            with tempfile.TemporaryFile(dir=folder) as file:
                self._file = os.dup(file.fileno())
        except OSError:
            self._disk = 0

    def close(self) -> None:
        """Let go of everything that is kept."""
        with self._lock:
            self._kept.clear()
            file, self._file = self._file, None
        if file is not None:
            os.close(file)


_CURE = "bring the image back as it was, or start a new run"


def _content(path: Path, found: Inspection | None) -> bytes:
    try:
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            content = file.read()
    except OSError as error:
        reason = error.strerror or str(error)
        raise DataError(f"{path} can no longer be read: {reason}", cure=_CURE) from error
    if found is None or (found.size, found.mtime_ns) == (status.st_size, status.st_mtime_ns):
        return content
    if hashlib.sha256(content).hexdigest() != found.sha256:
        raise DataError(f"{path} has other content than when the run began", cure=_CURE)
    return content


def _write(file: int, offset: int, pixels: Pixels) -> bool:
    # Written and not mapped: a full disk is an error here, and would be a SIGBUS there.
    remaining = np.ascontiguousarray(pixels).data.cast("B")
    try:
        while remaining:
            done = os.pwrite(file, remaining, offset)
            remaining, offset = remaining[done:], offset + done
    except OSError:
        return False
    return True


def _read(file: int, offset: int, shape: tuple[int, ...]) -> Pixels | None:
    pixels = np.empty(shape, np.uint8)
    remaining = pixels.data.cast("B")
    try:
        while remaining:
            done = os.preadv(file, [remaining], offset)
            if not done:
                return None
            remaining, offset = remaining[done:], offset + done
    except OSError:
        return None
    return pixels
