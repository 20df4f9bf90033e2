"""The accelerator of a job: chosen, leased for as long as it runs, and named as torch names it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass

import torch

from luthier import accelerators
from luthier.accelerators import Accelerator, Lease, Request, Survey, parse_size, parse_time
from luthier.devices import cuda
from luthier.devices.leasing import index_of, surroundings
from luthier.errors import LeasesUnavailableError
from luthier.values import Choice

Say = Callable[[str], object]
Among = Callable[[], tuple[Survey, Sequence[Accelerator]]]


@dataclass(frozen=True)
class Terms:
    """On which terms a job takes an accelerator.

    Attributes:
        wait: for so long, in turn, where others have it: ``"2h"``, or seconds.
        share: take at most so much memory of one that others share on the same terms:
            ``"8GiB"``, or bytes.
    """

    wait: str | float = 0
    share: str | int | None = None

    def request(self, count: int = 1) -> Request:
        """Return what is asked for.

        Raises:
            RecipeError: a size that is none.
        """
        return Request(
            count=count, share=None if self.share is None else parse_size("share", self.share)
        )

    @property
    def seconds(self) -> float:
        """How long to wait. RecipeError: it is no time."""
        return parse_time("wait", self.wait)


class Hold:
    """What a job holds; without an accelerator it is nothing.

    Attributes:
        lease: on an accelerator, or None.
    """

    def __init__(self, lease: Lease | None = None) -> None:
        self.lease = lease

    def choice(self) -> Choice | None:
        """Return the name of what is held in this process, such as "cuda:0"; None of nothing.

        CUDA is initialised, and held to the share.

        Raises:
            LeaseError: CUDA does not show it.
        """
        if self.lease is None:
            return None
        index = index_of(self.lease)
        if self.lease.share is not None:
            cuda.limit(index, self.lease.share)
        return Choice(f"cuda:{index}", f"leased: {self.lease.reason}")


@contextlib.contextmanager
def hold(asked: str, terms: Terms | None = None, say: Say = lambda _line: None) -> Iterator[Hold]:
    """Hold the best free NVIDIA accelerator inside, or the one that is asked for.

    Programs that are started inside see it and no other; so does this one, unless it has asked
    CUDA before. Nothing is held, and it is no error, where torch cannot use one, none is visible,
    another kind of device is asked for, or the folder of the leases cannot be used (that is said).

    Args:
        asked: "auto", "cuda", "cuda:N", or another device.
        terms: how it is taken.
        say: is told what is waited for.

    Raises:
        BusyError: others have it, for longer than is waited.
        LeaseError: it has less memory than the share.
        RecipeError: a size or time that is none.
    """
    terms = terms or Terms()
    request, wait = terms.request(), terms.seconds
    kind = asked.partition(":")[0]
    among = _among(asked) if kind in ("auto", "cuda") else _nothing
    _, found = among()
    if found and not cuda.is_built():
        say(f"this torch is built without CUDA: {found[0].name} cannot be used")
    with contextlib.ExitStack() as ends:
        can_be = bool(found) and cuda.is_built()
        yield Hold(_lease(ends, request, among, wait, say) if can_be else None)


def hold_used(
    used: Collection[torch.device], terms: Terms | None = None, say: Say = lambda _line: None
) -> contextlib.ExitStack:
    """Hold the accelerators that a program computes on already.

    Args:
        used: devices, of which those of CUDA count.
        terms: how they are taken.
        say: is told where no lease can be held.

    Returns:
        what gives them back when it is closed.

    Raises:
        BusyError, LeaseError, RecipeError: see ``hold``.
    """
    terms = terms or Terms()
    indices = {d.index or 0 for d in used if d.type == "cuda"}
    ends = contextlib.ExitStack()
    if not indices:
        return ends
    shown = cuda.shown()
    wanted = [shown[index] for index in sorted(indices)]

    def among() -> tuple[Survey, Sequence[Accelerator]]:
        survey, seen = accelerators.look()
        return survey, [a for a in seen if a.uuid in wanted]

    _, found = among()
    if len(found) != len(wanted):  # instances of cards, which CUDA shows under other names
        return ends
    lease = _lease(ends, terms.request(len(wanted)), among, terms.seconds, say)
    if lease is not None and lease.share is not None:
        for index in indices:
            cuda.limit(index, lease.share)
    return ends


class _Root:
    """A lease of this process, which all that hold a part of it keep: the last gives it back."""

    def __init__(self, lease: Lease) -> None:
        self.lease, self._holders = lease, 0
        self._ends = contextlib.ExitStack()
        self._ends.callback(lease.release)
        self._ends.enter_context(surroundings(lease))

    def holds(self, lease: Lease) -> bool:
        """Return whether a lease is a part of this one, which the kernel knows nothing of."""
        own = {accelerator.uuid for accelerator in self.lease.accelerators}
        return not lease.descriptors and {a.uuid for a in lease.accelerators} <= own

    def enter(self) -> None:
        self._holders += 1

    def leave(self) -> None:
        self._holders -= 1
        if not self._holders:
            _roots.remove(self)
            self._ends.close()


_roots: list[_Root] = []


def _lease(
    ends: contextlib.ExitStack, request: Request, among: Among, wait: float, say: Say
) -> Lease | None:
    """Lease accelerators until the end; None, which is said, where none can be kept."""
    try:
        lease = accelerators.acquire(request, among=among, wait=wait, say=say)
    except LeasesUnavailableError as error:
        say(f"no lease is held: {error.what}")
        return None
    root = next((one for one in _roots if one.holds(lease)), None)
    if root is None:
        root = _Root(lease)
        _roots.append(root)
    root.enter()
    ends.callback(root.leave)
    return lease


def _nothing() -> tuple[Survey, Sequence[Accelerator]]:
    return Survey(), ()


def _among(asked: str) -> Among:
    """Return what looks for the accelerators that may be held."""

    def look() -> tuple[Survey, Sequence[Accelerator]]:
        survey, seen = accelerators.look()
        return survey, [a for a in seen if names is None or a.uuid in names]

    names: Collection[str] | None = None
    if cuda.is_built() and cuda.is_initialised():
        shown = cuda.shown()
        names = shown if ":" not in asked else shown[_index(asked) : _index(asked) + 1]
    elif ":" in asked:
        visible = accelerators.visible(accelerators.survey().accelerators, os.environ)
        names = [a.uuid for a in visible.accelerators[_index(asked) : _index(asked) + 1]]
    return look


def _index(asked: str) -> int:
    return int(asked.partition(":")[2])
