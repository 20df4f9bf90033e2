"""Print what a folder can do, as JSON; a dead file system keeps whoever asks it for ever.

The word of the process: the folder, absolute; where it is not there yet, the nearest above it is
looked at. All that is made in it is taken away again.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

_PIECE = bytes(range(256)) * (4 << 12)  # 4 MiB
_PIECES = 8
_LONGEST = 2.0  # seconds of writing, after which no further piece is begun


def look(folder: Path) -> dict[str, Any]:
    """Return what can be done; ``error`` where nothing can be written."""
    found: dict[str, Any] = {"path": str(folder), "free": 0}
    try:
        folder = next(path for path in (folder, *folder.parents) if path.exists()).resolve()
        found |= {"path": str(folder), **_space(folder)}
        with tempfile.TemporaryDirectory(prefix=".tmp-doctor-", dir=folder) as inside:
            return found | _tried(Path(inside))
    except OSError as error:
        return found | {"error": error.strerror or str(error)}


def _space(folder: Path) -> dict[str, int | None]:
    if not hasattr(os, "statvfs"):
        return {"free": shutil.disk_usage(folder).free, "files": None}
    told = os.statvfs(folder)
    free = told.f_bavail * told.f_frsize
    return {"free": free, "files": told.f_favail if told.f_files else None}


def _tried(folder: Path) -> dict[str, Any]:
    first, second = folder / "first", folder / "second"
    speed = _write(first)
    skew = _skew(folder / "now")
    second.touch()
    return {
        "speed": speed,
        "skew": skew,
        "links": _can(lambda: os.link(first, folder / "link")),
        "renames": _can(lambda: os.replace(second, first)),
        "syncs": _can(lambda: _sync(folder)),
        "locks": _can(lambda: _lock(first)),
    }


def _write(path: Path) -> float:
    """Write pieces, each flushed to the disk; return bytes a second."""
    start = time.monotonic()
    written = 0
    with path.open("wb", buffering=0) as file:
        for _ in range(_PIECES):
            left = memoryview(_PIECE)
            while left:
                left = left[file.write(left) :]
            os.fsync(file.fileno())
            written += len(_PIECE)
            if time.monotonic() - start > _LONGEST:
                break
    return written / max(time.monotonic() - start, 1e-6)


def _skew(path: Path) -> float:
    """Return the seconds by which a new file's time is ahead of this machine's clock, or behind."""
    before = time.time()
    path.write_bytes(b"now")
    stamp, after = path.stat().st_mtime, time.time()
    return max(0.0, stamp - after) or min(0.0, stamp - before)


def _can(act: Callable[[], object]) -> bool:
    try:
        act()
    except OSError:
        return False
    return True


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _lock(path: Path) -> None:
    try:
        import fcntl  # noqa: PLC0415 - not on Windows, where luthier locks nothing
    except ImportError:
        return
    with path.open("ab") as file:
        for lock in (fcntl.flock, fcntl.lockf):
            lock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            lock(file, fcntl.LOCK_UN)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda _number, _frame: sys.exit(1))  # what was made goes
    print(json.dumps(look(Path(sys.argv[1]))), flush=True)
