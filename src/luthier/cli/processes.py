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


def start_processes(arguments: argparse.Namespace) -> None:
    """Become ``torchrun`` with the same command, if that is asked for.

    Raises:
        RecipeError: see ``distributed.launch``.
    """
    if arguments.processes is None:
        return
    from luthier import devices, distributed  # noqa: PLC0415 - torch comes with them

    distributed.launch(_without_flag(sys.argv[1:]), arguments.processes, devices.cores_allowed())


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
