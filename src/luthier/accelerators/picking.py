"""Which accelerators a job is given, and why. Pure."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from luthier.accelerators.values import Accelerator, Survey

_ALL_SETS = 20_000  # sets of cards that are compared; where there are more, they are built up
_IDLE = 5  # percent of utilisation below which a card counts as idle


@dataclass(frozen=True)
class Request:
    """What a job wants.

    Attributes:
        count: accelerators.
        min_free: bytes of memory that must be free on each.
        like: a part of the product's name, such as "H100"; case does not matter.
        capability: the least compute capability, (major, minor).
        share: bytes of memory that the job will take at most, on a card that it shares with others
            that have said the same; None takes the card alone.
    """

    count: int = 1
    min_free: int = 0
    like: str | None = None
    capability: tuple[int, int] | None = None
    share: int | None = None

    @property
    def needed(self) -> int:
        """Bytes that must be free."""
        return max(self.min_free, self.share or 0)


@dataclass(frozen=True)
class Held:
    """Leases at one moment.

    Attributes:
        alone: UUIDs of accelerators that somebody has alone.
        shares: bytes that were promised on those that are shared, by UUID.
        awaited: UUIDs of what somebody waits for who came before.
    """

    alone: Collection[str] = frozenset()
    shares: Mapping[str, int] = field(default_factory=dict)
    awaited: Collection[str] = frozenset()


@dataclass(frozen=True)
class Picked:
    """What a job gets.

    Attributes:
        accelerators: as many as were asked for; none where there are not enough.
        reason: one line: why these, or why none.
        can_come: none is free now, but there are enough that others may give back.
    """

    accelerators: tuple[Accelerator, ...]
    reason: str
    can_come: bool = False


def pick(survey: Survey, shown: Sequence[Accelerator], request: Request, held: Held) -> Picked:
    """Choose among the accelerators that may be used.

    Those that compute least go first, in three steps (idle, unknown, busy), and of those the ones
    with most free memory; of equals the first on the bus. Where several are asked for, of equally
    idle cards those that are near each other go first: NVLink, then PCIe.

    Args:
        survey: for the distances.
        shown: what may be used, such as what ``CUDA_VISIBLE_DEVICES`` leaves.
        request: what is wanted.
        held: what others have leased.
    """
    reasons = {a.uuid: _unfit(a, request) for a in shown}
    fit = candidates(shown, request)
    if len(fit) < request.count:
        return Picked((), _too_few(shown, fit, reasons, request))
    taken = {a.uuid: _taken(a, request, held) for a in fit}
    open_now = [a for a in fit if taken[a.uuid] is None]
    if len(open_now) < request.count:
        return Picked((), _too_few(fit, open_now, taken, request), can_come=True)
    ranked = sorted(open_now, key=_rank)
    chosen = tuple(ranked[:1]) if request.count == 1 else _near(survey, ranked, request.count)
    return Picked(chosen, _why(chosen, shown, survey))


def candidates(shown: Sequence[Accelerator], request: Request) -> list[Accelerator]:
    """Return the accelerators that can serve a request, once nobody else has them."""
    return [a for a in shown if _unfit(a, request) is None]


def _unfit(accelerator: Accelerator, request: Request) -> str | None:
    """Return why an accelerator can never serve a request, or None."""
    if request.count > 1 and accelerator.instance is not None:
        return "is an instance, of which CUDA shows one to a program"
    if request.like is not None and request.like.lower() not in accelerator.name.lower():
        return f"is no {request.like}"
    if request.capability is not None:
        if accelerator.capability is None:
            return "does not say its compute capability"
        if accelerator.capability < request.capability:
            return f"has compute capability {_version(accelerator.capability)}"
    if request.needed and accelerator.total is None:
        return "does not say its memory"
    if accelerator.total is not None and accelerator.total < request.needed:
        return f"has {gib(accelerator.total)} in all"
    return None


def _taken(accelerator: Accelerator, request: Request, held: Held) -> str | None:
    """Return why an accelerator cannot be had now, or None."""
    if accelerator.uuid in held.alone:
        return "is leased"
    if accelerator.uuid in held.awaited:
        return "is waited for by others"
    shares = held.shares.get(accelerator.uuid)
    if shares is not None and request.share is None:
        return "is shared by others"
    if shares is not None and accelerator.total is not None:
        left = accelerator.total - shares
        if left < request.needed:
            return f"has {gib(max(0, left))} that nobody was promised"
    if request.needed and (accelerator.free or 0) < request.needed:
        return f"has {gib(accelerator.free or 0)} free"
    return None


def _rank(accelerator: Accelerator) -> tuple[int, float, int, int]:
    free = -math.inf if accelerator.free is None else accelerator.free
    return _step(accelerator), -free, accelerator.index, accelerator.instance or 0


def _step(accelerator: Accelerator) -> int:
    """Return 0 for idle, 1 for unknown, 2 for busy."""
    use = accelerator.utilisation
    return 1 if use is None else 0 if use < _IDLE else 2


_Cost = tuple[int, float, float, int]


def _near(survey: Survey, ranked: Sequence[Accelerator], count: int) -> tuple[Accelerator, ...]:
    """Return the idlest set whose members are nearest to each other; of equal ones the best."""
    places = {a.uuid: place for place, a in enumerate(ranked)}

    def cost(some: Iterable[Accelerator]) -> _Cost:
        members = list(some)
        busiest = max(_step(a) for a in members)
        apart = [distance(survey, a, b) for a, b in itertools.combinations(members, 2)]
        return busiest, max(apart, default=0), sum(apart), sum(places[a.uuid] for a in members)

    if math.comb(len(ranked), count) <= _ALL_SETS:
        best = min(itertools.combinations(ranked, count), key=cost)
    else:
        best = min((_grown(first, ranked, count, cost) for first in ranked), key=cost)
    return tuple(sorted(best, key=lambda a: (a.index, a.instance or 0)))


def _grown(
    first: Accelerator,
    ranked: Sequence[Accelerator],
    count: int,
    cost: Callable[[Iterable[Accelerator]], _Cost],
) -> tuple[Accelerator, ...]:
    members: tuple[Accelerator, ...] = (first,)
    while len(members) < count:
        rest = [a for a in ranked if a not in members]
        members = min(((*members, a) for a in rest), key=cost)
    return members


def distance(survey: Survey, one: Accelerator, other: Accelerator) -> float:
    """Return how far two accelerators are from each other; 0 within one card."""
    first, second = sorted((one.card or one.uuid, other.card or other.uuid))
    if first == second:
        return 0
    return survey.distances.get((first, second), math.inf)


# --- words ------------------------------------------------------------------------------------


def gib(size: int) -> str:
    """Return bytes as GiB."""
    return f"{size / 2**30:.1f} GiB"


def _version(capability: tuple[int, int]) -> str:
    return ".".join(map(str, capability))


def _are(count: int) -> str:
    return "is" if count == 1 else "are"


def _told(accelerator: Accelerator) -> str:
    memory = "" if accelerator.free is None else f", {gib(accelerator.free)} free"
    use = "" if accelerator.utilisation is None else f", {accelerator.utilisation} % busy"
    return f"{accelerator.place} ({accelerator.name}{memory}{use})"


def _why(chosen: Sequence[Accelerator], shown: Sequence[Accelerator], survey: Survey) -> str:
    told = ", ".join(map(_told, chosen))
    if len(shown) == len(chosen):
        return f"{told}: {'the only one' if len(shown) == 1 else 'all'} there {_are(len(shown))}"
    if len(chosen) == 1:
        return f"{told}: the idlest with most free memory of {len(shown)}"
    apart = [distance(survey, a, b) for a, b in itertools.combinations(chosen, 2)]
    how = "joined by NVLink" if max(apart) == 0 else "nearest to each other"
    return f"{told}: {how} of {len(shown)}"


def _too_few(
    among: Sequence[Accelerator],
    left: Sequence[Accelerator],
    reasons: Mapping[str, str | None],
    request: Request,
) -> str:
    noun = "accelerator" if request.count == 1 else "accelerators"
    if not among:
        return f"{request.count} {noun} asked for, and there is none"
    told = "; ".join(f"{a.place} {reasons[a.uuid]}" for a in among if reasons[a.uuid])
    if not told:
        return f"{request.count} {noun} asked for, and there {_are(len(among))} {len(among)}"
    return f"{request.count} {noun} asked for, {len(left)} of {len(among)} can be had: {told}"
