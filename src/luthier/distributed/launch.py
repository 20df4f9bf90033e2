"""``--processes N``: the same command under ``torchrun``."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Sequence
from typing import NoReturn

from luthier.errors import RecipeError


def job_id() -> str | None:
    """Return a name that all starts of this process's job by ``torchrun`` have; None without it."""
    name = os.environ.get("TORCHELASTIC_RUN_ID")
    if name == "none":  # it was given none: its agent, which stays, is what the starts share
        return f"{socket.gethostname()} {os.getppid()}"
    return name


def words_of(command: Sequence[str], processes: int) -> list[str]:
    """Return the command that starts a command of luthier in so many processes on this host.

    Args:
        command: the words after ``luthier``.
        processes: how many.
    """
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    return [*torchrun, f"--nproc-per-node={processes}", "-m", "luthier", *command]


def launch(command: Sequence[str], processes: int, cores: int) -> NoReturn:
    """Become that command.

    Args:
        command: the words after ``luthier``.
        processes: how many.
        cores: that all of them have together.

    Raises:
        RecipeError: fewer than one process, or this is one of several already.
    """
    if processes < 1:
        raise RecipeError(f"--processes {processes}: expected 1 or more")
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise RecipeError("--processes is for a start without torchrun", cure="leave it out")
    # torchrun would give each process a single thread, and say so at length.
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, cores // processes)))
    words = words_of(command, processes)
    sys.stdout.flush()
    sys.stderr.flush()
    os.execv(words[0], words)  # noqa: S606 - no shell is what is wanted
