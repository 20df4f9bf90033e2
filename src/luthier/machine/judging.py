"""All facts about a machine → all findings, in the order in which they are told. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from luthier.accelerators import Visible, visible
from luthier.machine import judging_folder as folder
from luthier.machine import judging_software as software
from luthier.machine import judging_system as system
from luthier.machine.facts import (
    Clock,
    Cpus,
    Gpus,
    LeaseFolder,
    Limit,
    Memory,
    Package,
    Ports,
    Processes,
    Python,
    Space,
    Variables,
    Vision,
)
from luthier.machine.findings import Finding, Level
from luthier.machine.probes import Compiled, Folder, Group, Host, Torch, Unknown

TOPICS = {
    "software": (
        *("python", "torch", "torchvision", "torchvision_operators", "image_decoders"),
        *("packages", "extras"),
    ),
    "gpu": ("driver", "visible_cards", "cuda", "kernels", "nccl", "leases"),
    "system": (
        *("cpus", "memory", "shared_memory", "open_files", "processes", "temporary", "clock"),
    ),
    "folder": (
        *("folder", "free_space", "write_speed", "rename", "file_locks", "hard_links"),
        *("folder_sync", "file_times"),
    ),
    "network": ("hostname", "ports", "gloo"),
    "environment": (
        *("environment", "thread_variables", "debug_variables", "rank_variables"),
        *("allocator_variables", "preload"),
    ),
}


@dataclass(frozen=True)
class Facts:
    """What was found out about a machine; None is what this system has not, or was not asked."""

    python: Python | Unknown
    torch: Torch | Unknown
    vision: Vision | Unknown
    compiled: Compiled | Unknown
    packages: tuple[Package, ...] | Unknown
    gpus: Gpus | Unknown
    nccl: Group | Unknown | None
    leases: LeaseFolder | Unknown
    cpus: Cpus | Unknown
    memory: Memory | Unknown
    shared_memory: Space | Unknown | None
    open_files: Limit | Unknown | None
    processes: Processes | Unknown
    temporary: Space | Unknown | None
    clock: Clock | Unknown
    folder: Folder | Unknown
    host: Host | Unknown
    ports: Ports | Unknown
    gloo: Group | Unknown
    variables: Variables | Unknown


def judge(facts: Facts) -> tuple[Finding, ...]:
    """Return what is found about each thing that was checked."""
    torch = Torch() if isinstance(facts.torch, Unknown) else facts.torch
    asked = () if isinstance(facts.packages, Unknown) else facts.packages
    shown = _shown(facts)
    found = [
        _checked("python", software.judge_python, facts.python),
        _torch(facts.torch, asked),
        _checked("torchvision", software.judge_pair, torch, facts.vision),
        *_compiled(facts, torch),
        _checked("packages", software.judge_packages, facts.packages),
        _checked("driver", software.judge_driver, torch, facts.gpus),
        _checked("visible_cards", system.judge_visible, facts.gpus, shown, facts.variables),
        _checked("cuda", software.judge_cuda, torch, facts.gpus, shown.accelerators),
        _nccl(torch, facts.nccl) if shown.accelerators else (),
        _checked("leases", system.judge_leases, facts.leases),
        _checked("cpus", system.judge_cpus, facts.cpus, torch),
        _checked("memory", system.judge_memory, facts.memory),
        _checked("shared_memory", system.judge_shared_memory, facts.shared_memory),
        _checked("open_files", system.judge_open_files, facts.open_files),
        _checked("processes", system.judge_processes, facts.processes),
        _checked("temporary", system.judge_temporary, facts.temporary),
        _checked("clock", system.judge_clock, facts.clock),
        _folder(facts.folder),
        _checked("hostname", system.judge_host, facts.host),
        _checked("ports", system.judge_ports, facts.ports),
        _gloo(torch, facts.gloo),
        _checked("environment", system.judge_variables, facts.variables, torch),
    ]
    return tuple(finding for findings in found for finding in findings)


def _checked(
    name: str, judge_it: Callable[..., Iterator[Finding]], *given: Any
) -> Iterable[Finding]:
    """Return what is found; of what could not be found out, or makes no sense, that."""
    unknown = next((fact for fact in given if isinstance(fact, Unknown)), None)
    if unknown is None:
        try:
            return list(judge_it(*given))
        except Exception as error:  # facts that nobody has thought of end no checkup
            unknown = Unknown("error", {"error": f"{type(error).__name__}: {error}"})
    return [unchecked(name, unknown)]


def unchecked(name: str, unknown: Unknown, level: Level = "warning") -> Finding:
    """Return that something could not be checked, and why."""
    return Finding(name, level, unknown.kind, unknown.facts)


def _torch(found: Torch | Unknown, asked: tuple[Package, ...]) -> Iterable[Finding]:
    if isinstance(found, Unknown):  # without torch there is no run
        return [unchecked("torch", found, "fault")]
    return _checked("torch", software.judge_torch, found, asked)


def _compiled(facts: Facts, torch: Torch) -> Iterator[Iterable[Finding]]:
    if torch.version is None:  # that no part of it loads beside torch goes without saying
        return
    names = ("torchvision_operators", "image_decoders")
    if isinstance(facts.compiled, Unknown):
        yield [unchecked(name, facts.compiled) for name in names]
    elif not isinstance(facts.vision, Unknown):
        vision, compiled = facts.vision, facts.compiled
        yield _checked(names[0], software.judge_compiled, torch, vision, compiled)


def _gloo(torch: Torch, found: Group | Unknown) -> Iterable[Finding]:
    if torch.version is None:
        return ()
    return _stuck("gloo", found) or _checked("gloo", system.judge_gloo, found)


def _nccl(torch: Torch, found: Group | Unknown | None) -> Iterable[Finding]:
    if torch.cuda is None or not torch.available:
        return ()
    return _stuck("nccl", found) or _checked("nccl", software.judge_nccl, found)


def _folder(found: Folder | Unknown) -> Iterable[Finding]:
    return _stuck("folder", found) or _checked("folder", folder.judge_folder, found)


def _stuck(name: str, found: object) -> list[Finding]:
    """Return that a try which hung or crashed is the fault itself: a run would do the same."""
    if isinstance(found, Unknown) and found.kind in ("timeout", "signal"):
        return [unchecked(name, found, "fault")]
    return []


def _shown(facts: Facts) -> Visible:
    """Return which cards CUDA shows; none where that is not known."""
    if isinstance(facts.gpus, Unknown) or isinstance(facts.variables, Unknown):
        return Visible(())
    return visible(facts.gpus.survey.accelerators, facts.variables.values)
