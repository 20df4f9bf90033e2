"""Writes that are there whole or not at all, also after a power failure.

Everything is written beside its final place (a rename is atomic only inside one file
system), flushed to the disk, and then takes its final name in one rename. A name that has been
flushed stays; a power failure just after a rename may undo it, and then the old is there.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import secrets
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

from luthier.files import disk

# Bytes of one write: ext4 on Linux 6 takes eight times as much processor time for 45 MB at once.
_PIECE = 1 << 20
TEMPORARY = ".tmp-"  # beginning of every name that is not final
_NO_LINKS = (
    errno.EPERM,
    errno.EACCES,
    errno.ENOTSUP,
    errno.EOPNOTSUPP,
    errno.ENOSYS,
    errno.EXDEV,
    errno.EMLINK,
)
_filling: dict[Path, set[Path]] = {}  # what is flushed already, of each new directory


def _beside(path: Path) -> Path:
    # Not the process's number: threads share it, and in a container it comes again.
    return path.with_name(f"{TEMPORARY}{path.name}-{secrets.token_hex(8)}")


def _discard(path: Path) -> None:
    # What went wrong first is what the caller has to hear of; the next sweep finds the rest.
    with contextlib.suppress(OSError):
        disk.current().remove_tree(path)


def _sync_directory(path: Path) -> None:
    try:
        disk.current().sync_directory(path)
    except OSError as error:
        # Some network file systems flush no directories and keep names safe in their own way.
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP):
            raise


def sync(path: Path) -> None:
    """Flush a file or directory to the disk."""
    if path.is_dir():
        _sync_directory(path)
    else:
        disk.current().sync_file(path)


def make_directories(path: Path) -> None:
    """Make a directory and its parents, as far as they are missing, durably."""
    if path.is_dir():
        return
    make_directories(path.parent)
    try:
        disk.current().make_directory(path)
    except FileExistsError:
        if not path.is_dir():
            raise
    _sync_directory(path.parent)


@contextlib.contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    make_directories(path.parent)
    temporary = _beside(path)
    try:
        yield temporary
        disk.current().rename(temporary, path)
    except BaseException:
        _discard(temporary)
        raise
    _sync_directory(path.parent)


@contextlib.contextmanager
def new_file(path: Path) -> Iterator[Path]:
    """Give a temporary path to write to; on leaving, it becomes ``path`` by one rename.

    If the body raises, ``path`` is what it was before.
    """
    with _replacing(path) as temporary:
        yield temporary
        disk.current().sync_file(temporary)


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 text file, atomically and durably."""
    with _replacing(path) as temporary:
        write_bytes(temporary, text.encode())


def _write_all(to: disk.Disk, handle: int, content: memoryview) -> None:
    if content.nbytes == 0:  # which cannot be cast
        return
    left = content.cast("B")
    while left:
        left = left[to.write(handle, left[:_PIECE]) :]


def write_file(path: Path, chunks: Iterable[bytes | bytearray | memoryview]) -> None:
    """Write a file atomically and durably; one chunk is held at a time.

    Args:
        path: an old file is replaced in one step; it is what it was if anything is raised.
        chunks: the file's bytes, one after another.
    """
    with _replacing(path) as temporary:
        write_chunks(temporary, chunks)


def write_bytes(path: Path, *chunks: bytes | bytearray | memoryview) -> None:
    """Write a file inside a new directory and flush it.

    Args:
        path: there is nothing under it yet; after an error there may be a part of the file.
        chunks: the file's bytes, one after another; none is copied.
    """
    write_chunks(path, chunks)


def write_chunks(path: Path, chunks: Iterable[bytes | bytearray | memoryview]) -> None:
    """Write as ``write_bytes`` does, from chunks that may be made one by one."""
    to = disk.current()
    handle = to.create(path)
    try:
        for chunk in chunks:
            _write_all(to, handle, memoryview(chunk))
            del chunk  # before the next one is made
        to.sync(handle)
    except BaseException:
        with contextlib.suppress(OSError):
            to.close(handle)
        raise
    to.close(handle)
    _filling.get(path.parent, set()).add(path)


def link(source: Path, target: Path) -> bool:
    """Give a published file a second name inside a new directory.

    Returns:
        False where the file system cannot, and nothing was done.
    """
    try:
        disk.current().link(source, target)
    except OSError as error:
        if error.errno in _NO_LINKS:
            return False
        raise
    _filling.get(target.parent, set()).add(target)
    return True


@contextlib.contextmanager
def new_directory(path: Path) -> Iterator[Path]:
    """Give an empty directory to fill with files; on leaving, it becomes ``path`` by one rename.

    If the body raises, nothing is left.

    Raises:
        FileExistsError: ``path`` exists: a published directory is never changed.
    """
    if path.exists():
        raise FileExistsError(f"{path} exists already")
    make_directories(path.parent)
    temporary = _beside(path)
    flushed = _filling[temporary] = set()
    try:
        disk.current().make_directory(temporary)
        yield temporary
        for entry in sorted(set(temporary.iterdir()) - flushed):
            sync(entry)
        _sync_directory(temporary)
        disk.current().rename(temporary, path)
    except BaseException:
        _discard(temporary)
        raise
    finally:
        del _filling[temporary]
    _sync_directory(path.parent)


def sweep(folder: Path) -> list[Path]:
    """Remove what killed writers left in ``folder`` unfinished, and flush what they finished.

    Returns:
        what was removed.
    """
    if not folder.is_dir():
        return []
    left = sorted(folder.glob(f"{TEMPORARY}*"))
    for path in left:
        disk.current().remove_tree(path)
    _sync_directory(folder)  # a writer may have been killed between its rename and this
    return left


def remove_directory(path: Path) -> None:
    """Remove a published directory; a kill in the middle leaves no half of it under its name."""
    doomed = _beside(path)
    disk.current().rename(path, doomed)
    _sync_directory(path.parent)  # or a power failure might bring the name back, over less
    disk.current().remove_tree(doomed)


def free_bytes(folder: Path) -> int:
    """Return the bytes that this user may still write to where ``folder`` is or will be."""
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    return shutil.disk_usage(there).free


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file's bytes as 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
