"""How many cores this process may use: affinity, and the quota of its control group."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path

import torch

_CGROUPS = Path("/sys/fs/cgroup")


def usable_cores() -> int:
    """Return the number of cores that this process may keep busy, not the machine's.

    It is the smaller of the scheduler's affinity and the control group's quota, rounded up, which
    is how a container's or a cluster's limit is set; both versions of control groups are read.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return max(1, min([cores or 1, *map(math.ceil, _quotas())]))


def fit_threads(cores: int) -> int | None:
    """Let torch use no more threads than cores, and return their number if that changed it.

    torch counts the machine's cores: under a quota, its threads would wait for each other.
    """
    if "OMP_NUM_THREADS" in os.environ or torch.get_num_threads() <= cores:
        return None
    torch.set_num_threads(cores)
    return cores


def _quotas() -> Iterator[float]:
    for group in _own_groups():
        for folder in (group, *group.parents):
            if folder == _CGROUPS.parent:
                break
            quota = quota_of(folder)
            if quota is not None:
                yield quota


def _own_groups() -> Iterator[Path]:
    try:
        lines = Path("/proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if not controllers or "cpu" in controllers.split(","):
            # Inside a container the path may be the host's; the group's own files are at the top.
            yield _CGROUPS / controllers / path.lstrip("/")


def quota_of(folder: Path) -> float | None:
    """Return the cores that a control group's folder allows, or None where it sets no limit."""
    try:
        if (folder / "cpu.max").exists():
            quota, period = (folder / "cpu.max").read_text(encoding="utf-8").split()
        else:
            names = ("cpu.cfs_quota_us", "cpu.cfs_period_us")
            quota, period = ((folder / n).read_text(encoding="utf-8").strip() for n in names)
    except (OSError, ValueError):
        return None
    if quota in ("max", "-1") or not period.isdigit() or not int(period):
        return None
    return int(quota) / int(period)
