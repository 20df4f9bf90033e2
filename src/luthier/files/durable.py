"""Writes that are there whole or not at all, also after a power failure.

Everything is written beside its final place (a rename is atomic only inside one file
system), flushed to the disk, and then takes its final name in one rename.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

TEMPORARY = ".tmp-"  # beginning of every name that is not final


def _beside(path: Path) -> Path:
    return path.with_name(f"{TEMPORARY}{path.name}-{os.getpid()}")


def sync(path: Path) -> None:
    """Flush a file or directory to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextlib.contextmanager
def new_file(path: Path) -> Iterator[Path]:
    """Give a temporary path to write to; on leaving, it becomes ``path`` by one rename.

    If the body raises, ``path`` is what it was before.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _beside(path)
    try:
        yield temporary
        sync(temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    sync(path.parent)


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 text file, atomically and durably."""
    with new_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


@contextlib.contextmanager
def new_directory(path: Path) -> Iterator[Path]:
    """Give an empty directory to fill; on leaving, it becomes ``path`` by one rename.

    If the body raises, nothing is left.

    Raises:
        FileExistsError: ``path`` exists: a published directory is never changed.
    """
    if path.exists():
        raise FileExistsError(f"{path} exists already")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _beside(path)
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    try:
        yield temporary
        for entry in temporary.iterdir():
            sync(entry)
        sync(temporary)
        temporary.rename(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    sync(path.parent)


def sweep(folder: Path) -> list[Path]:
    """Remove what killed writers left in ``folder``; return what was removed."""
    left = sorted(folder.glob(f"{TEMPORARY}*")) if folder.is_dir() else []
    for path in left:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
    return left


def remove_directory(path: Path) -> None:
    """Remove a published directory; a kill in the middle leaves no half of it under its name."""
    doomed = _beside(path)
    shutil.rmtree(doomed, ignore_errors=True)
    path.rename(doomed)
    shutil.rmtree(doomed)


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file's bytes as 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
