"""Facts about memory, limits, clocks, the network and the environment → findings. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime

from luthier.accelerators import Visible
from luthier.machine.facts import (
    TORCHRUN_PORT,
    Clock,
    Cpus,
    Gpus,
    LeaseFolder,
    Limit,
    Memory,
    Ports,
    Processes,
    Space,
    Variables,
)
from luthier.machine.findings import Finding, fault, ok, warning
from luthier.machine.probes import Group, Host, Torch

MIB, GIB = 2**20, 2**30
LITTLE_MEMORY, NO_MEMORY = 2 * GIB, GIB // 2  # torch alone takes a good part of the second
WORTH_TELLING = GIB // 4  # of what is swapped out
SMALL_SHARED = GIB  # what Docker gives is 64 MiB
FEW_FILES, NO_FILES = 1024, 64
GOOD_FILES = 4096
FEW_PROCESSES, NO_PROCESSES = 256, 32
LITTLE_TEMPORARY, NO_TEMPORARY = GIB, 16 * MIB
JUMP = 0.5  # seconds
_DAY = 86_400
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")
_RANKS = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
_BY_TORCHRUN = "TORCHELASTIC_RUN_ID"
_ALLOCATOR = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_HIP_ALLOC_CONF")
_SETTING = re.compile(r"\s*\w+\s*:\s*(\[[^\]]*\]|[^,:\[\]]+)\s*")
_OFF = ("", "0", "OFF", "INFO", "WARN", "VERSION")
_DEBUGGING = (
    "CUDA_LAUNCH_BLOCKING",
    "PYTORCH_NO_CUDA_MEMORY_CACHING",
    "TORCH_DISTRIBUTED_DEBUG",
    "HIP_LAUNCH_BLOCKING",
)


def judge_cpus(found: Cpus, torch: Torch) -> Iterator[Finding]:
    """Judge whether torch computes with more threads than there are cores for it."""
    facts = {"allowed": found.allowed, "machine": found.machine, "threads": torch.threads}
    if torch.threads is not None and torch.threads > found.allowed:
        quota = None if found.quota is None else f"{found.quota:g}"
        yield warning("cpus", "crowded", **facts, quota=quota)
    else:
        yield ok("cpus", **facts)


def judge_memory(found: Memory) -> Iterator[Finding]:
    """Judge how much memory is left."""
    if found.available is None:
        return
    limit = found.limit if found.total is None or (found.limit or 0) < found.total else None
    swapped = found.swapped if (found.swapped or 0) >= WORTH_TELLING else None
    facts = {
        "available_bytes": found.available,
        "total_bytes": found.total,
        "limit_bytes": limit,
        "swapped_bytes": swapped,
    }
    if found.available < NO_MEMORY:
        yield fault("memory", "none", **facts)
    elif found.available < LITTLE_MEMORY:
        yield warning("memory", "little", **facts)
    else:
        yield ok("memory", **facts)


def judge_shared_memory(found: Space | None) -> Iterator[Finding]:
    """Judge the shared memory in which workers of a DataLoader hand batches over."""
    if found is None:
        return
    facts = {"path": found.path, "size_bytes": found.size, "free_bytes": found.free}
    if not found.writable:
        yield fault("shared_memory", "absent", path=found.path)
    elif found.size < SMALL_SHARED:
        yield warning("shared_memory", "small", **facts)
    elif found.free < SMALL_SHARED // 4:
        yield warning("shared_memory", "full", **facts)
    else:
        yield ok("shared_memory", **facts)


def judge_open_files(found: Limit | None) -> Iterator[Finding]:
    """Judge how many files may be open."""
    if found is None:
        return
    if found.soft is None or found.soft >= FEW_FILES:
        yield ok("open_files", limit=found.soft)
        return
    build = fault if found.soft < NO_FILES else warning
    if found.hard is not None and found.hard < FEW_FILES:
        yield build("open_files", "capped", limit=found.soft, hard=found.hard)
    else:
        wanted = GOOD_FILES if found.hard is None else min(GOOD_FILES, found.hard)
        yield build("open_files", "few", limit=found.soft, wanted=wanted)


def judge_processes(found: Processes) -> Iterator[Finding]:
    """Judge how many processes and threads may still begin."""
    facts = {"left": found.left, "by": found.by}
    if found.left is None or found.left >= FEW_PROCESSES:
        yield ok("processes", **facts)
    elif found.left < NO_PROCESSES:
        yield fault("processes", "few", **facts)
    else:
        yield warning("processes", "few", **facts)


def judge_temporary(found: Space | None) -> Iterator[Finding]:
    """Judge the folder of temporary files."""
    if found is None:
        yield fault("temporary", "absent")
        return
    facts = {"path": found.path, "free_bytes": found.free}
    if found.free < NO_TEMPORARY:
        yield fault("temporary", "full", **facts)
    elif found.free < LITTLE_TEMPORARY:
        yield warning("temporary", "full", **facts)
    else:
        yield ok("temporary", **facts)


def judge_leases(found: LeaseFolder) -> Iterator[Finding]:
    """Judge whether accelerators can be held against other programs."""
    if found.error is not None:
        yield warning("leases", "broken", error=found.error)
    else:
        yield ok("leases", path=found.path)


def judge_host(found: Host) -> Iterator[Finding]:
    """Judge whether this machine's own name has an address."""
    if found.error is not None or not found.addresses:
        yield warning("hostname", "unresolved", name=found.name, error=found.error)
    else:
        yield ok("hostname", name=found.name, addresses=found.addresses)


def judge_ports(found: Ports) -> Iterator[Finding]:
    """Judge whether processes can listen to each other."""
    if found.error is not None:
        yield fault("ports", "none", error=found.error)
    elif not found.torchrun_free:
        yield warning("ports", "taken", port=TORCHRUN_PORT)
    else:
        yield ok("ports", port=TORCHRUN_PORT)


def judge_gloo(found: Group) -> Iterator[Finding]:
    """Judge whether two processes meet."""
    if found.absent:
        yield warning("gloo", "absent")
    elif found.error is not None or found.sum != 3.0:
        yield fault("gloo", "broken", error=found.error)
    else:
        yield ok("gloo")


def judge_clock(found: Clock) -> Iterator[Finding]:
    """Judge the time, and whether it jumps."""
    now = datetime.fromtimestamp(found.now, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    if found.now < found.built - _DAY:
        yield fault("clock", "early", now=now)
    elif abs(found.jump) > JUMP:
        yield warning("clock", "jump", seconds=f"{found.jump:+.1f}")
    else:
        yield ok("clock", now=now)


def judge_visible(found: Gpus, shown: Visible, environment: Variables) -> Iterator[Finding]:
    """Judge which cards ``CUDA_VISIBLE_DEVICES`` leaves."""
    value = environment.values.get("CUDA_VISIBLE_DEVICES")
    if value is None:
        return
    cards, seen = len(found.survey.usable), len(shown.accelerators)
    named = len(value.split(","))
    if value.strip() in ("", "-1"):
        yield ok("visible_cards", "hidden", value=value)
    elif not seen:
        yield warning("visible_cards", "nothing", value=value, cards=cards)
    elif seen < named:
        yield warning("visible_cards", "fewer", value=value, seen=seen, named=named)
    else:
        yield ok("visible_cards", value=value, seen=seen, cards=cards)


def judge_variables(found: Variables, torch: Torch) -> Iterator[Finding]:
    """Judge the variables that torch and its libraries read."""
    wrong = [*_threads(found), *_debugging(found), *_ranks(found), *_allocator(found, torch)]
    if found.not_there:
        wrong.append(warning("preload", "absent", libraries=found.not_there))
    if not wrong:
        yield ok("environment")
    yield from wrong


def _threads(found: Variables) -> Iterator[Finding]:
    for name in _THREADS:
        value = found.values.get(name)
        # OpenMP takes a list, of which each number is for a level of nesting.
        if value is not None and not re.fullmatch(r"\s*0*[1-9]\d*(\s*,\s*0*[1-9]\d*)*\s*", value):
            yield warning("thread_variables", "wrong", name=name, value=value)


def _debugging(found: Variables) -> Iterator[Finding]:
    on = [name for name in _DEBUGGING if found.values.get(name, "").upper() not in _OFF]
    if on:
        yield warning("debug_variables", "on", names=tuple(on))


def _ranks(found: Variables) -> Iterator[Finding]:
    left = [name for name in _RANKS if name in found.values]
    if left and _BY_TORCHRUN not in found.values:
        yield warning("rank_variables", "left", names=tuple(left))


def _allocator(found: Variables, torch: Torch) -> Iterator[Finding]:
    for name in _ALLOCATOR:
        value = found.values.get(name)
        if value and not _well_formed(value):
            yield warning("allocator_variables", "malformed", name=name, value=value)
            return
    set_here = [name for name in _ALLOCATOR if found.values.get(name)]
    if torch.allocator is not None and set_here:
        name = set_here[0]
        facts = {"name": name, "value": found.values[name], "error": torch.allocator}
        yield warning("allocator_variables", "refused", **facts)


def _well_formed(value: str) -> bool:
    """Tell whether it is ``name:value,name:[a,b]``."""
    parts = re.split(r",(?![^\[]*\])", value.strip().rstrip(","))
    return all(_SETTING.fullmatch(part) for part in parts)
