"""Files that all users of a machine lock and write, in one folder that anybody may litter.

Whatever lies there under a name that is used is opened without following a link and without
waiting for a FIFO's other end, and is no more than a file of a few lines. Locks are ``flock``'s:
they belong to the open file, so a child that inherits it holds the lock, too.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import secrets
import stat
from pathlib import Path
from typing import Any

from luthier.errors import LeasesUnavailableError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

_MOST = 1 << 16  # bytes of a file that is read


def check_system() -> None:
    """See that this system has such locks.

    Raises:
        LeasesUnavailableError: it has not.
    """
    if fcntl is None:
        raise LeasesUnavailableError(
            "leases need file locks of a POSIX system, and this one has none",
            cure="choose a device yourself: --device cuda:0, CUDA_VISIBLE_DEVICES",
        )


def take(descriptor: int, *, shared: bool = False) -> bool:
    """Lock an open file, or return False where others hold it."""
    try:
        fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def unlock(descriptor: int) -> None:
    """Unlock an open file for all that have inherited it."""
    fcntl.flock(descriptor, fcntl.LOCK_UN)


def let_go(descriptor: int) -> None:
    """Unlock a file and close it: a child that was forked meanwhile has it open, too."""
    unlock(descriptor)
    os.close(descriptor)


def make_folder(folder: Path) -> None:
    """Make a folder in which everybody makes files, and nobody removes another's."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    # It has its mode before it has its name: whoever dies between the two shuts nobody out.
    made = folder.with_name(f".{folder.name}-{secrets.token_hex(8)}")
    made.mkdir()
    made.chmod(0o1777)
    try:
        made.rename(folder)
    except OSError:  # another was faster
        made.rmdir()
        if not folder.is_dir():
            raise


def open_common(path: Path) -> int:
    """Open a file that all users lock; make it where it is missing.

    Raises:
        OSError: it is no plain file, or is not open to this user.
    """
    # Opened before it is made: a system that protects sticky folders lets nobody ask for another
    # user's file to be made.
    try:
        return _open(path, os.O_RDWR)
    except FileNotFoundError:
        _make_common(path)
        return _open(path, os.O_RDWR)


def _make_common(path: Path) -> None:
    # As of the folder: first its mode, whatever the umask, then its name.
    fresh = path.with_name(f".new-{secrets.token_hex(8)}")
    os.close(make(fresh, mode=0o666))
    with contextlib.suppress(FileExistsError):  # another was faster
        try:
            os.link(fresh, path)
        except FileExistsError:
            raise
        except OSError:  # a file system without links
            os.close(make(path, mode=0o666))
        finally:
            fresh.unlink()


def open_told(path: Path) -> int:
    """Open a file that its owner has written.

    Raises:
        OSError: as of ``open_common``.
    """
    return _open(path, os.O_RDONLY)


def make(path: Path, *, mode: int) -> int:
    """Make a file, locked, with a mode that the umask does not change."""
    descriptor = _open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL)
    try:
        take(descriptor)
        os.fchmod(descriptor, mode)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def write(descriptor: int, value: Any) -> None:
    """Write a value into a new file, as JSON.

    Raises:
        OSError: there is no space left.
    """
    text = json.dumps(value).encode()
    if os.write(descriptor, text) < len(text):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def read(descriptor: int) -> Any:
    """Return what ``write`` has written; None of anything else."""
    text = os.pread(descriptor, _MOST + 1, 0)
    with contextlib.suppress(ValueError, RecursionError):
        return json.loads(text) if len(text) <= _MOST else None
    return None


def names(descriptor: int, path: Path) -> bool:
    """Return whether a path still names an open file."""
    with contextlib.suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(descriptor), os.stat(path, follow_symlinks=False))
    return False


def _open(path: Path, flags: int) -> int:
    descriptor = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o600)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "is no plain file", str(path))
    return descriptor
