"""``--processes N``: the same command under ``torchrun``."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence

from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.run import parse_args, run

from luthier.errors import RecipeError


def words_of(command: Sequence[str], processes: int) -> list[str]:
    """Return the words after ``torchrun`` by which so many processes of this host do a command.

    Args:
        command: the words after ``luthier``.
        processes: how many.
    """
    return ["--standalone", f"--nproc-per-node={processes}", "-m", "luthier", *command]


def launch(command: Sequence[str], processes: int, cores: int) -> int:
    """Be ``torchrun`` with a command of luthier, and return the exit status of that.

    What ``torchrun`` itself has to say of an end is left out: the processes have said why.

    Args:
        command: the words after ``luthier``.
        processes: how many.
        cores: that all of them have together.

    Returns:
        that of the process which failed first; 130 after a signal.

    Raises:
        RecipeError: fewer than one process, or this is one of several already.
    """
    if processes < 1:
        raise RecipeError(f"--processes {processes}: expected 1 or more")
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise RecipeError("--processes is for a start without torchrun", cure="leave it out")
    # torchrun would give each process a single thread, and say so at length.
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, cores // processes)))
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    try:
        run(parse_args(words_of(command, processes)))  # type: ignore[no-untyped-call]
    except SignalException:
        return 130
    except ChildFailedError as error:
        status = error.get_first_failure()[1].exitcode
        return status if status >= 0 else 128 - status
    return 0
