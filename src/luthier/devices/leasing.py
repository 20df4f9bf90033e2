"""Accelerators of one's own in a Python program: leased, and made the only ones that it sees."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch

from luthier import accelerators
from luthier.accelerators import Lease, Request, parse_size, parse_time
from luthier.devices import cuda
from luthier.errors import LeaseError


@dataclass(frozen=True)
class Leased:
    """What a program holds.

    Attributes:
        devices: as torch names them in this process.
        reason: one line: which accelerators they are, and why these.
    """

    devices: tuple[torch.device, ...]
    reason: str

    @property
    def device(self) -> torch.device:
        """The first of them."""
        return self.devices[0]


@contextlib.contextmanager
def lease(
    gpus: int = 1,
    *,
    min_free: str | int = 0,
    model_like: str | None = None,
    capability: tuple[int, int] | None = None,
    share: str | int | None = None,
    wait: str | float = 0,
    say: Callable[[str], object] = lambda _line: None,
) -> Iterator[Leased]:
    """Hold NVIDIA accelerators inside, and be shown no others.

    To be called before anything asks CUDA: it reads once which devices it may show. Which those
    are is chosen, and locked for all users of the machine, in one step; see ``luthier run`` for a
    program that is not in Python.

    Args:
        gpus: how many.
        min_free: memory that must be free on each: ``"20GiB"``, or bytes.
        model_like: a part of the product's name, such as ``"H100"``.
        capability: the least compute capability, (major, minor).
        share: take at most so much memory of a card that others share on the same terms; torch is
            held to it.
        wait: for so long, in turn: ``"2h"``, or seconds.
        say: is told what is waited for.

    Yields:
        the devices, ``cuda:0`` and on.

    Raises:
        BusyError: others have what is wanted, for longer than ``wait``.
        LeaseError: there is not as much here, or CUDA has been asked before.
        RecipeError: a size or time that is none.
    """
    if cuda.is_initialised():
        raise LeaseError(
            "luthier.lease comes too late: CUDA is initialised, and goes on to show the devices"
            " that it showed then",
            cure="move it above the first use of CUDA: .cuda(), .to('cuda'), torch.cuda.…",
        )
    request = Request(
        count=gpus,
        min_free=parse_size("min_free", min_free),
        like=model_like,
        capability=capability,
        share=None if share is None else parse_size("share", share),
    )
    held = accelerators.acquire(request, wait=parse_time("wait", wait), say=say)
    with contextlib.ExitStack() as ends:
        ends.callback(held.release)
        ends.enter_context(surroundings(held))
        _check_shown(held)
        devices = tuple(torch.device("cuda", index) for index in range(gpus))
        if held.share is not None:
            for device in devices:
                cuda.limit(device.index, held.share)
        yield Leased(devices, held.reason)


_for_good = contextlib.ExitStack()


def pick_device(**wanted: object) -> torch.device:
    """Return the best device of this machine, and hold it until this process ends.

    An NVIDIA accelerator that nobody has, else another kind that torch can compute with, else the
    CPU.

    Args:
        **wanted: as of ``lease``, but for ``gpus``.

    Raises:
        BusyError, LeaseError, RecipeError: see ``lease``: there are NVIDIA accelerators, and none
            can be had.
    """
    _, shown = accelerators.look()
    if shown:
        return _for_good.enter_context(lease(**wanted)).device  # type: ignore[arg-type]
    found = torch.accelerator.current_accelerator(check_available=True)
    return torch.device("cpu") if found is None else torch.device(found.type, 0)


@contextlib.contextmanager
def surroundings(held: Lease) -> Iterator[None]:
    """Let CUDA, here and in programs that are started inside, show what is held and no more."""
    variables = accelerators.environment_of(held)
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def index_of(held: Lease) -> int:
    """Return the index by which CUDA shows the one accelerator that is held; see ``shown``.

    Raises:
        LeaseError: it shows others.
    """
    (accelerator,) = held.accelerators
    found = _shown(held)
    if accelerator.instance is not None and len(found) == 1:
        return 0  # an instance goes by another name there
    if accelerator.uuid not in found:
        raise _too_late(held, found)
    return found.index(accelerator.uuid)


def _check_shown(held: Lease) -> None:
    """See that CUDA shows what is held: it may have read the variables without being initialised.

    Raises:
        LeaseError: it shows something else.
    """
    found = _shown(held)
    if found != [a.uuid for a in held.accelerators] and held.accelerators[0].instance is None:
        raise _too_late(held, found)


def _shown(held: Lease) -> list[str]:
    try:
        return cuda.shown()
    except (RuntimeError, AssertionError) as error:
        raise LeaseError(f"torch cannot use {held.reason}: {error}") from error


def _too_late(held: Lease, found: Sequence[str]) -> LeaseError:
    wanted = ", ".join(a.uuid for a in held.accelerators)
    return LeaseError(
        f"a lease comes too late: CUDA shows {', '.join(found) or 'nothing'}, and what is leased is"
        f" {wanted}",
        cure="take it above the first question to CUDA, such as torch.cuda.is_available()",
    )
