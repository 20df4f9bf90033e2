"""``CUDA_VISIBLE_DEVICES``: which accelerators CUDA shows to a program, and in which order. Pure.

As CUDA reads it (CUDA C++ Programming Guide, "CUDA Environment Variables"): a list of indices, or
of UUIDs that may be cut short as long as they name one device; what follows an entry that names
none is hidden, and of a list that names one twice all is.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from luthier.accelerators.values import Accelerator

VISIBLE = "CUDA_VISIBLE_DEVICES"
ORDER = "CUDA_DEVICE_ORDER"
BY_BUS = "PCI_BUS_ID"
_LEGACY_MIG = re.compile(r"MIG-(GPU-[0-9a-fA-F-]+)/(\d+)/(\d+)")
_NUMBER = re.compile(r"[+-]?\d+")


@dataclass(frozen=True)
class Visible:
    """What a program sees.

    Attributes:
        accelerators: by their logical index.
        allowed: what a program may be started with: more than CUDA shows to one program where
            there are several instances of cards (MIG).
        notes: entries that hide something, and why; an index whose card is not certain.
    """

    accelerators: tuple[Accelerator, ...]
    allowed: tuple[Accelerator, ...] = ()
    notes: tuple[str, ...] = ()

    def logical(self, accelerator: Accelerator) -> int | None:
        """Return an accelerator's logical index; None of one that is hidden."""
        uuids = [shown.uuid for shown in self.accelerators]
        return uuids.index(accelerator.uuid) if accelerator.uuid in uuids else None


def visible(accelerators: Sequence[Accelerator], environment: Mapping[str, str]) -> Visible:
    """Return what CUDA shows in an environment.

    Args:
        accelerators: of CUDA, cards in the order of the bus, each before its instances.
        environment: the variables of the process.
    """
    value = environment.get(VISIBLE)
    if value is None:
        used = [_as_used(a, accelerators) for a in accelerators if a.instance is None]
        named = [card for card in used if card is not None]
        return _enumerated(named, [a for a in accelerators if not a.is_split], [])
    entries = [entry.strip() for entry in value.split(",")]
    if entries in ([""], ["-1"]):
        return Visible((), (), (f"{VISIBLE}={value} hides every device",))
    notes: list[str] = []
    if _NUMBER.match(entries[0]):
        cards = [a for a in accelerators if a.instance is None]
        find = _by_index(accelerators, cards)
        if environment.get(ORDER) != BY_BUS and len({card.name for card in cards}) > 1:
            notes.append(
                f"{VISIBLE}={value} counts the fastest card as 0, and not in the order of the bus"
                f" as here, unless {ORDER}={BY_BUS}: which cards these are is not certain"
            )
    else:
        find = _by_name(accelerators)
    named = _named(entries, find, notes)
    return _enumerated(named, named, notes)


def _named(
    entries: Sequence[str], find: Callable[[str], Accelerator | str], notes: list[str]
) -> list[Accelerator]:
    """Return what the entries name, and add what they hide to the notes."""
    shown: list[Accelerator] = []
    for position, entry in enumerate(entries):
        found = find(entry)
        if isinstance(found, str):
            rest = ", ".join(entries[position + 1 :])
            hidden = f"; what follows is hidden: {rest}" if rest else ""
            notes.append(f"{VISIBLE}: {entry!r} {found}{hidden}")
            break
        if found in shown:
            notes.append(f"{VISIBLE}: {entry!r} names {found.uuid} again: it hides every device")
            return []
        shown.append(found)
    return shown


def _by_index(
    accelerators: Sequence[Accelerator], cards: Sequence[Accelerator]
) -> Callable[[str], Accelerator | str]:
    def find(entry: str) -> Accelerator | str:
        number = _NUMBER.match(entry)
        if number is None:
            return "is no index, as the first entry is"
        index = int(number[0])  # what follows the digits is not looked at
        if index < 0:
            return "ends the list"
        if index >= len(cards):
            return f"is no card of this machine, which has {len(cards)}"
        return _as_used(cards[index], accelerators) or "is a card that is split into no instances"

    return find


def _by_name(accelerators: Sequence[Accelerator]) -> Callable[[str], Accelerator | str]:
    def find(entry: str) -> Accelerator | str:
        legacy = _LEGACY_MIG.fullmatch(entry)
        if legacy is not None:
            named = [a for a in accelerators if a.legacy == entry]
        elif entry.startswith(("GPU-", "MIG-")) and len(entry) > len("GPU-"):
            named = [a for a in accelerators if a.uuid.lower().startswith(entry.lower())]
        else:
            return "is neither an index nor a UUID (GPU-… or MIG-…)"
        if len(named) != 1:
            return f"names {len(named) or 'no'} device{'s' if named else ''} of this machine"
        return _as_used(named[0], accelerators) or "is a card that is split into no instances"

    return find


def _as_used(accelerator: Accelerator, accelerators: Sequence[Accelerator]) -> Accelerator | None:
    """Return what CUDA uses of a card: itself, or its first instance where it is split."""
    if not accelerator.is_split:
        return accelerator
    return next((a for a in accelerators if a.card == accelerator.uuid), None)


def _enumerated(
    shown: Sequence[Accelerator], allowed: Sequence[Accelerator], notes: list[str]
) -> Visible:
    """Leave one instance: a program of CUDA sees no second one, and no whole card beside it."""
    first = next((a for a in shown if a.instance is not None), None)
    if first is not None and len(shown) > 1:
        notes = [*notes, f"CUDA shows one instance (MIG) to a program: {first.uuid}"]
        shown = [first]
    return Visible(tuple(shown), tuple(allowed), tuple(notes))
