"""What the kernel lets this process use, which may be less than the machine has."""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Iterator
from pathlib import Path

_ROOT = Path("/sys/fs/cgroup")
_OWN = Path("/proc/self/cgroup")
_MEMINFO = Path("/proc/meminfo")
_NO_LIMIT = 2**60  # cgroup v1 writes a number near 2**63 for "none"


def cores_allowed(root: Path = _ROOT, own: Path = _OWN) -> int:
    """Return the cores that this process may use: by its affinity and its groups' CPU quota.

    Args:
        root: where the control groups (v1 or v2) are mounted.
        own: which of them this process is in.
    """
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    else:
        cores = os.cpu_count() or 1
    quota = cpu_quota(root, own)
    return cores if quota is None else max(1, min(cores, math.floor(quota)))


def cpu_quota(root: Path = _ROOT, own: Path = _OWN) -> float | None:
    """Return the cores' worth of time that the groups allow; None where they set no limit."""
    quotas = [_quota(group) for group in _groups(root, own, "cpu")]
    return min((quota for quota in quotas if quota is not None), default=None)


def memory_allowed(root: Path = _ROOT, own: Path = _OWN, meminfo: Path = _MEMINFO) -> int | None:
    """Return the bytes that this process may still take; None where the system does not say.

    That is what is available on the machine, or what is left to one of its control groups.
    What a group keeps of files only to read them faster counts as free.
    """
    rooms: list[int | None] = [most - used + kept for most, used, kept in _memory_limits(root, own)]
    kibibytes = _field(meminfo, "MemAvailable:")
    if kibibytes is not None:
        rooms.append(kibibytes * 1024)
    known = [room for room in rooms if room is not None]
    return max(0, min(known)) if known else None


def memory_limit(root: Path = _ROOT, own: Path = _OWN) -> int | None:
    """Return the bytes that the groups allow in all; None where they set no limit."""
    return min((most for most, _used, _kept in _memory_limits(root, own)), default=None)


def processes_left(root: Path = _ROOT, own: Path = _OWN) -> int | None:
    """Return the processes and threads that the groups still allow; None for no limit."""
    rooms = []
    for group in _groups(root, own, "pids"):
        most, used = _number(group / "pids.max"), _number(group / "pids.current")
        if most is not None and used is not None:
            rooms.append(max(0, most - used))
    return min(rooms, default=None)


def _groups(root: Path, own: Path, controller: str) -> Iterator[Path]:
    """Yield the folders of this process's groups and of those around them.

    In a container the path that the kernel names may not be there: then what is mounted as the
    root is the container's own group.
    """
    with contextlib.suppress(OSError):
        for line in own.read_text(encoding="utf-8").splitlines():
            number, names, path = line.split(":", 2)
            if number == "0":
                top = root
            elif controller in names.split(","):
                top = root / controller
            else:
                continue
            place = top / path.lstrip("/")
            while True:
                yield place
                if place in (top, place.parent):
                    break
                place = place.parent


def _quota(group: Path) -> float | None:
    with contextlib.suppress(OSError, ValueError):
        quota, period = (group / "cpu.max").read_text(encoding="utf-8").split()
        return None if quota == "max" else int(quota) / int(period)
    quota_us = _number(group / "cpu.cfs_quota_us")
    period_us = _number(group / "cpu.cfs_period_us")
    if quota_us is None or not period_us or quota_us <= 0:
        return None
    return quota_us / period_us


def _memory_limits(root: Path, own: Path) -> Iterator[tuple[int, int, int]]:
    """Yield each group's limit, what of it is used, and what of that is only kept of files."""
    for group in _groups(root, own, "memory"):
        for limit, usage, cached in (
            ("memory.max", "memory.current", "inactive_file"),
            ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
        ):
            most, used = _number(group / limit), _number(group / usage)
            if most is not None and used is not None and most < _NO_LIMIT:
                yield most, used, _field(group / "memory.stat", cached) or 0
                break


def _number(path: Path) -> int | None:
    with contextlib.suppress(OSError, ValueError):
        return int(path.read_text(encoding="utf-8"))
    return None


def _field(path: Path, name: str) -> int | None:
    with contextlib.suppress(OSError, ValueError):
        for line in path.read_text(encoding="utf-8").splitlines():
            first, *rest = line.split()
            if first == name:
                return int(rest[0])
    return None
