"""``luthier doctor``."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

from luthier.errors import LuthierError

if TYPE_CHECKING:
    from luthier.machine.doctor import Checkup

_COLOURS = {"ok": 32, "warning": 33, "fault": 31}  # of terminals: green, yellow, red


def add(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("--out", default="runs", metavar="FOLDER", help="where runs will be [runs]")
    parser.add_argument(
        "--timeout", default="60s", metavar="TIME", help="that one check may take [60s]"
    )
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--json", action="store_true", help="print one JSON object")
    how.add_argument(
        "--fix",
        action="store_true",
        help="print shell commands that would cure what is found; none is run",
    )


def run(arguments: argparse.Namespace) -> int:
    """Print what is found; 1 if there is a fault.

    Raises:
        LuthierError: a package is not installed that the checkup itself needs.
    """
    try:
        from luthier.machine.doctor import doctor  # noqa: PLC0415 - only for this command
    except ModuleNotFoundError as error:
        raise LuthierError(
            f"doctor itself needs the package {error.name!r}, which is not installed",
            cure="install luthier again, with what it depends on: pip install luthier",
        ) from error
    found = doctor(arguments.out, timeout=arguments.timeout)
    if arguments.json:
        print(json.dumps(found.as_dict()))
    elif arguments.fix:
        print("\n".join(found.fixes()))
    else:
        print("\n".join(_for_terminal(found) if sys.stdout.isatty() else found.lines()))
    return 0 if found.sound else 1


def _for_terminal(found: Checkup) -> Iterator[str]:
    width = shutil.get_terminal_size().columns
    return found.lines(width=width) if os.environ.get("NO_COLOR") else found.lines(_painted, width)


def _painted(level: str, word: str) -> str:
    return f"\033[{_COLOURS[level]}m{word}\033[0m"
