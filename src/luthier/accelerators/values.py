"""Accelerators as they are found: plain values. No torch here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Process:
    """A program that has memory on an accelerator.

    Attributes:
        pid: its number.
        user: whose it is; None where the system does not say.
        name: of the program; likewise.
        used: bytes of the accelerator's memory; likewise.
    """

    pid: int
    user: str | None = None
    name: str | None = None
    used: int | None = None


@dataclass(frozen=True)
class Accelerator:
    """A card, or an instance of one that is split (MIG). None is unknown.

    Attributes:
        index: of the card, as the vendor's monitor shows it: in the order of the bus.
        uuid: names it for good; an instance has one of its own.
        name: of the product.
        kind: torch's name of such devices: "cuda", "xpu", "mps".
        bus_id: PCI address, ``domain:bus:device.function``.
        total: bytes of memory.
        free: bytes that nobody has.
        utilisation: percent of the last moments in which something was computed.
        temperature: in degrees Celsius.
        capability: compute capability, (major, minor).
        processes: that have memory on it.
        instance: number of the instance in its card; None of a whole card.
        card: UUID of the card that an instance is part of; None of a whole card.
        legacy: another name of an instance, as drivers before 470 gave.
        is_split: a whole card whose instances are what can be used.
    """

    index: int
    uuid: str
    name: str
    kind: str = "cuda"
    bus_id: str | None = None
    total: int | None = None
    free: int | None = None
    utilisation: int | None = None
    temperature: int | None = None
    capability: tuple[int, int] | None = None
    processes: tuple[Process, ...] | None = None
    instance: int | None = None
    card: str | None = None
    legacy: str | None = None
    is_split: bool = False

    @property
    def used(self) -> int | None:
        """Bytes that somebody has."""
        return None if self.total is None or self.free is None else self.total - self.free

    @property
    def place(self) -> str:
        """The index, and the instance's after a colon."""
        return f"{self.index}" if self.instance is None else f"{self.index}:{self.instance}"


@dataclass(frozen=True)
class Driver:
    """A vendor's driver. None is unknown.

    Attributes:
        version: as the vendor counts, such as ``"580.65.06"``.
        cuda: the newest CUDA that it knows, (major, minor).
        error: why it does not answer, where its library is there and it does not.
    """

    version: str | None = None
    cuda: tuple[int, int] | None = None
    error: str | None = None


@dataclass(frozen=True)
class Survey:
    """What was found on a machine.

    Attributes:
        accelerators: cards in the order of the bus, each before its instances.
        notes: what could not be found out, and why.
        distances: between two cards by their UUIDs, in alphabetical order: 0 is NVLink, then ever
            more of the machine lies between. A pair that is not there is as far as can be.
        driver: NVIDIA's; None where its library is not there.
    """

    accelerators: tuple[Accelerator, ...] = ()
    notes: tuple[str, ...] = ()
    distances: Mapping[tuple[str, str], int] = field(default_factory=dict)
    driver: Driver | None = None

    @property
    def usable(self) -> tuple[Accelerator, ...]:
        """What a program can be given: whole cards that are not split, and instances."""
        return tuple(a for a in self.accelerators if not a.is_split)
