"""What there is to compute with, who has it, and what this process sees of it."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import platform
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from luthier import accelerators, devices
from luthier.accelerators import Accelerator, Holder, Leases, Survey, Visible, gib
from luthier.accelerators.holders import plain
from luthier.errors import BusyError, LeaseError
from luthier.report import table

_HEADER = ("GPU", "here", "name", "free", "used", "total", "busy", "°C")
_UNKNOWN = "?"
_VECTORS = ("avx", "amx", "fma", "neon", "sve", "sme", "bf16", "dot", "vsx", "zvec")


@dataclass(frozen=True)
class Cpu:
    """The processor.

    Attributes:
        name: of the product.
        cores: of the machine.
        allowed: cores that this process may use, by its affinity and its quota.
        threads: with which torch computes.
        instructions: sets of instructions for vectors and matrices.
        memory: bytes that this process may still take; None where the system does not say.
    """

    name: str
    cores: int
    allowed: int
    threads: int
    instructions: tuple[str, ...]
    memory: int | None

    def __str__(self) -> str:
        vectors = [name for name in self.instructions if name.startswith(_VECTORS)]
        of = "" if self.allowed == self.cores else f" of {self.cores}"
        memory = "" if self.memory is None else f", {gib(self.memory)} of memory to be had"
        return (
            f"CPU {self.name}: {self.allowed}{of} cores, {self.threads} threads{memory}\n"
            f"     {' '.join(vectors) or 'no vector instructions known'}"
        )


@dataclass(frozen=True)
class Overview:
    """A machine at one moment; ``str`` shows it."""

    accelerators: tuple[Accelerator, ...]
    visible: Visible
    holders: tuple[Holder, ...]
    cpu: Cpu
    notes: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """Return plain JSON values; sizes in bytes."""
        return {
            "accelerators": [
                dataclasses.asdict(a)
                | {"logical": self.visible.logical(a), "leases": self._leases(a)}
                for a in self.accelerators
            ],
            "cpu": dataclasses.asdict(self.cpu),
            "notes": list(self.notes),
        }

    def _leases(self, accelerator: Accelerator) -> list[dict[str, Any]]:
        return [dataclasses.asdict(h) for h in self.holders if h.uuid == accelerator.uuid]

    def __str__(self) -> str:
        lines = []
        if self.accelerators:
            head, rule, *rows = table(_HEADER, [*map(self._row, self.accelerators)], left=3).split(
                "\n"
            )
            lines += [head, rule]
            for row, accelerator in zip(rows, self.accelerators, strict=True):
                lines += [row, *(f"     {line}" for line in self._details(accelerator))]
        lines += [*self.notes, str(self.cpu)]
        return "\n".join(lines)

    def _row(self, a: Accelerator) -> list[str]:
        logical = self.visible.logical(a)
        here = "-" if logical is None else f"{a.kind}:{logical}"
        sizes = [_UNKNOWN if n is None else gib(n) for n in (a.free, a.used, a.total)]
        busy = _UNKNOWN if a.utilisation is None else f"{a.utilisation} %"
        degrees = _UNKNOWN if a.temperature is None else str(a.temperature)
        return [a.place, here, a.name, *sizes, busy, degrees]

    def _details(self, a: Accelerator) -> list[str]:
        capability = (
            "" if a.capability is None else f", capability {a.capability[0]}.{a.capability[1]}"
        )
        lines = [f"{a.uuid}, bus {a.bus_id or _UNKNOWN}{capability}"]
        if a.is_split:
            return [*lines, "split: its instances can be had, and not the card"]
        for holder in self.holders:
            if holder.uuid == a.uuid:
                share = "" if holder.share is None else f" up to {gib(holder.share)}"
                since = time.strftime("%Y-%m-%d %H:%M", time.localtime(holder.since))
                lines.append(
                    f"leased{share} by {holder.user}, process {holder.pid}, since {since}:"
                    f" {holder.command}"
                )
        if a.processes is None:
            lines.append("processes are not known")
        for process in a.processes or ():
            used = "" if process.used is None else f", {gib(process.used)}"
            who = process.user or "of a user that is not known here"
            name = f", {plain(process.name)}" if process.name else ""
            lines.append(f"process {process.pid} ({who}{name}){used}")
        return lines


def overview(environment: Mapping[str, str] = os.environ) -> Overview:
    """Look at this machine."""
    found = accelerators.survey()
    others = _others()
    notes = [*found.notes, *others.notes]
    shown = accelerators.visible(found.accelerators, environment)
    if others.accelerators:
        shown = Visible((*shown.accelerators, *others.accelerators))
    if found.accelerators:
        notes += shown.notes
    holders: Sequence[Holder] = ()
    try:
        holders = Leases().holders([a.uuid for a in found.usable]) if found.usable else ()
    except (BusyError, LeaseError) as error:
        notes.append(f"leases are not known: {error.what}")
    every = (*found.accelerators, *others.accelerators)
    return Overview(every, shown, tuple(holders), _cpu(), tuple(notes))


def _others() -> Survey:
    """Return what torch knows of accelerators that are not NVIDIA's; it says less of them."""
    if not torch.accelerator.is_available():
        return Survey()
    current = torch.accelerator.current_accelerator()
    kind = "" if current is None else current.type
    if not kind or (kind == "cuda" and torch.version.hip is None):
        return Survey()
    module = torch.get_device_module(kind)
    listed = [_of_torch(module, kind, i) for i in range(torch.accelerator.device_count())]
    note = f"torch.{kind} does not say what is shown as {_UNKNOWN}; leases are for NVIDIA's cards"
    return Survey(tuple(listed), (note,))


def _of_torch(module: Any, kind: str, index: int) -> Accelerator:
    name = uuid = bus = free = total = None
    with contextlib.suppress(Exception):  # each backend lacks something else
        properties = module.get_device_properties(index)
        name, total = properties.name, properties.total_memory
        uuid = str(properties.uuid)
        bus = f"{properties.pci_domain_id:08x}:{properties.pci_bus_id:02x}:00.0"
    with contextlib.suppress(Exception):
        free, total = module.mem_get_info(index)
    return Accelerator(
        index=index,
        uuid=uuid or f"{kind}:{index}",
        name=name or {"mps": "Apple GPU"}.get(kind, kind),
        kind=kind,
        bus_id=bus,
        total=total,
        free=free,
    )


def _cpu() -> Cpu:
    known: dict[str, str] = {}
    with contextlib.suppress(OSError), open("/proc/cpuinfo", encoding="utf-8") as file:
        pairs = [line.partition(":")[::2] for line in file]
        known = {name.strip(): value.strip() for name, value in reversed(pairs)}
    name = known.get("model name") or platform.processor() or platform.machine()
    has = torch.cpu.get_capabilities()
    return Cpu(
        name=name,
        cores=os.cpu_count() or 1,
        allowed=devices.cores_allowed(),
        threads=torch.get_num_threads(),
        instructions=tuple(sorted(name for name, there in has.items() if there is True)),
        memory=devices.memory_allowed(),
    )
