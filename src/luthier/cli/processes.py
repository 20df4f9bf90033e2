"""``--processes N``: a command that is started anew under ``torchrun``."""

from __future__ import annotations

import argparse
import os
import sys


def add_processes_flag(parser: argparse.ArgumentParser) -> None:
    """Declare the flag."""
    parser.add_argument(
        "--processes",
        type=int,
        metavar="N",
        help="share each step among so many processes of this machine, by torchrun [1]",
    )


def in_processes(arguments: argparse.Namespace) -> int | None:
    """Do the same command by ``torchrun``, if that is asked for, and return its exit status.

    Raises:
        RecipeError: see ``distributed.launch``.
    """
    if arguments.processes is None:
        return None
    from luthier.devices import cores_allowed  # noqa: PLC0415 - torch comes with them
    from luthier.distributed.launch import launch  # noqa: PLC0415

    return launch(_without_flag(sys.argv[1:]), arguments.processes, cores_allowed())


def _without_flag(words: list[str]) -> list[str]:
    kept, skip = [], False
    for word in words:
        if skip:
            skip = False
        elif word == "--processes":
            skip = True
        elif not word.startswith("--processes="):
            kept.append(word)
    return kept


def is_first() -> bool:
    """Tell whether this process is the one that prints."""
    return os.environ.get("RANK", "0") == "0"
