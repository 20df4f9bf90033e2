"""A program with accelerators of its own: what ``luthier run`` does."""

from __future__ import annotations

import functools
import os
import signal
import subprocess
from collections.abc import Callable, Mapping, Sequence

from luthier.accelerators import nvml
from luthier.accelerators.leases import Lease, Leases
from luthier.accelerators.picking import Held, Request, gib, pick
from luthier.accelerators.values import Accelerator, Survey
from luthier.accelerators.visible import BY_BUS, ORDER, VISIBLE, visible
from luthier.errors import LeaseError, RecipeError

LEASED = "LUTHIER_LEASED"  # UUIDs that this process holds by one that has started it
PROMISED = "LUTHIER_PROMISED"  # bytes that it may take of each; empty where it may take all
_PASSED_ON = ("SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT", "SIGUSR1", "SIGUSR2")
_BY_TERMINAL = 0x80  # SI_KERNEL: the whole foreground group has had the signal


def look() -> tuple[Survey, Sequence[Accelerator]]:
    """Return what there is now, and what of it this process's environment leaves."""
    found = nvml.survey()
    return found, visible(found.accelerators, os.environ).allowed


def acquire(
    request: Request,
    *,
    among: Callable[[], tuple[Survey, Sequence[Accelerator]]] = look,
    wait: float = 0.0,
    say: Callable[[str], object] = lambda _line: None,
) -> Lease:
    """Lease accelerators of this machine; what is leased already by a parent is taken from there.

    Args:
        request: what is wanted.
        among: returns what there is now, and what of it may be leased.
        wait: seconds to wait for it.
        say: is told what is waited for.

    Raises:
        BusyError, LeaseError: see ``Leases.acquire``.
    """
    inherited = os.environ.get(LEASED)
    if not inherited:
        return Leases().acquire(among, request, wait=wait, say=say)
    survey, shown = among()
    mine = _part([a for a in shown if a.uuid in inherited.split(",")], request.count)
    picked = pick(survey, mine, request, Held())
    if not picked.accelerators:
        raise LeaseError(
            f"of what luthier run has leased for this program: {picked.reason}",
            cure="ask luthier run for more, such as with --gpus",
        )
    return Lease(picked.accelerators, picked.reason, share=_share(request))


def _part(leased: Sequence[Accelerator], count: int) -> Sequence[Accelerator]:
    """Return what of it this process takes, where ``torchrun`` has started several of them."""
    if int(os.environ.get("LOCAL_WORLD_SIZE", "1")) == 1:
        return leased
    first = int(os.environ.get("LOCAL_RANK", "0")) * count
    return leased[first : first + count]


def _share(request: Request) -> int | None:
    """Return what one that luthier run has started may take of each accelerator."""
    promised = os.environ.get(PROMISED, "")
    if not promised.isdecimal():
        return request.share
    if (request.share or 0) > int(promised):
        raise LeaseError(
            f"{gib(request.share or 0)} asked for on a shared accelerator, and luthier run has"
            f" promised {gib(int(promised))} at most",
            cure="start it with a larger --share",
        )
    return int(promised) if request.share is None else request.share


def environment_of(lease: Lease) -> dict[str, str]:
    """Return the variables by which a program sees what is leased, and nothing else.

    By UUID, and in the order of the bus, so that its numbers are those of the monitor's list.
    """
    uuids = ",".join(a.uuid for a in lease.accelerators)
    promised = "" if lease.share is None else str(lease.share)
    return {ORDER: BY_BUS, VISIBLE: uuids, LEASED: uuids, PROMISED: promised}


def launch(
    command: Sequence[str],
    request: Request,
    *,
    wait: float = 0.0,
    say: Callable[[str], object] = lambda _line: None,
) -> int:
    """Lease accelerators, run a command with them, and give them back.

    The command inherits the lease: should this process be killed, it keeps what it computes with.

    Args:
        command: a program and its words.
        request: what it is to have.
        wait: seconds to wait for it.
        say: is told what it waits for, and what it gets.

    Returns:
        the command's exit status; 128 and the signal's number where one has ended it.

    Raises:
        BusyError, LeaseError: see ``Leases.acquire``.
        RecipeError: the command cannot be started.
    """
    lease = acquire(request, wait=wait, say=say)
    try:
        say(f"device {lease.reason}")
        return _run(command, {**os.environ, **environment_of(lease)}, lease.descriptors)
    finally:
        lease.leave()


def _run(command: Sequence[str], environment: Mapping[str, str], kept: Sequence[int]) -> int:
    watched = {signal.Signals[name] for name in (*_PASSED_ON, "SIGCHLD")}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, watched)
    try:
        try:
            child = subprocess.Popen(
                list(command),
                env=environment,
                pass_fds=kept,
                # The only thread, and a child that blocked signals would never hear of them.
                preexec_fn=functools.partial(  # noqa: PLW1509
                    signal.pthread_sigmask, signal.SIG_SETMASK, before
                ),
            )
        except OSError as error:
            raise RecipeError(f"{command[0]} cannot be started: {error.strerror}") from error
        while child.poll() is None:
            came = signal.sigwaitinfo(watched)
            if came.si_signo != signal.SIGCHLD and came.si_code != _BY_TERMINAL:
                child.send_signal(came.si_signo)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return child.returncode if child.returncode >= 0 else 128 - child.returncode
