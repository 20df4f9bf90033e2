"""Who has an accelerator, as it says itself, and what of that can be believed."""

from __future__ import annotations

import os
import shlex
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

_HUGE = 1 << 50  # no number that a holder tells is as large


@dataclass(frozen=True)
class Holder:
    """Who has a lease, as it says itself.

    Attributes:
        uuid: of the accelerator.
        pid: of the process that took it.
        user: whose it is.
        command: what runs.
        since: seconds since 1970.
        share: bytes that it promised to take at most; None where it has the accelerator alone.
    """

    uuid: str
    pid: int
    user: str
    command: str
    since: float
    share: int | None = None


def myself(uuid: str, share: int | None) -> Holder:
    """Return what this process says of itself."""
    program = Path(sys.argv[0]) if sys.argv else Path()
    name = program.parent.name if program.name == "__main__.py" else program.name  # python -m
    command = shlex.join([name, *sys.argv[1:]])[:200]
    return Holder(uuid, os.getpid(), _user(), command, time.time(), share)


def _user() -> str:
    import pwd  # noqa: PLC0415 - not on every system

    number = os.getuid()
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:  # a container's users need no names
        return str(number)


def of(uuid: str, told: Any) -> Holder | None:
    """Return what a holder says; None where it is not what luthier writes."""
    try:
        holder = Holder(**told)
    except TypeError:
        return None
    numbers = holder.pid, holder.since, 0 if holder.share is None else holder.share
    words = holder.user, holder.command
    if holder.uuid != uuid or not all(isinstance(word, str) for word in words):
        return None
    if not all(isinstance(n, int | float) and 0 <= n < _HUGE for n in numbers):
        return None
    return replace(holder, user=plain(holder.user), command=plain(holder.command))


def plain(text: str) -> str:
    """Return text that does nothing to a terminal."""
    return "".join(c if c.isprintable() else "?" for c in text)
