"""What commands that make several runs have in common."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from typing import Any

from luthier.errors import RecipeError


def add_repeat_flags(parser: argparse.ArgumentParser) -> None:
    """Declare ``--seeds``, ``--folds`` and ``--at-once``."""
    parser.add_argument(
        "--seeds", type=int, default=1, metavar="N", help="runs with other seeds [1]"
    )
    parser.add_argument(
        "--folds",
        type=int,
        default=1,
        metavar="N",
        help="parts of all images, each validated on in turn (cross-validation)",
    )
    add_at_once_flag(parser)


def add_at_once_flag(parser: argparse.ArgumentParser) -> None:
    """Declare ``--at-once``."""
    parser.add_argument(
        "--at-once",
        type=int,
        metavar="N",
        help="runs beside each other, each a process [as many as there are accelerators]",
    )


def refuse_of_one_run(arguments: argparse.Namespace, flags: Sequence[str], why: str) -> None:
    """Raise RecipeError if a flag is given that has no meaning for several runs."""
    for flag in flags:
        value = getattr(arguments, flag)
        if value is not None and value is not False:
            raise RecipeError(f"--{flag} is for one run, and {why}", cure=f"leave --{flag} out")


def run_study(arguments: argparse.Namespace, what: list[str], given: dict[str, Any]) -> int:
    """Compare, with the flags of a command, and print the comparison."""
    from luthier.run.compare import compare  # noqa: PLC0415 - torch comes with it

    found = compare(
        *what,
        seeds=arguments.seeds,
        folds=arguments.folds,
        out=arguments.out,
        recipe_file=arguments.recipe,
        wait=arguments.wait,
        at_once=arguments.at_once,
        **given,
    )
    print(json.dumps(found.as_dict()) if arguments.json else found)
    return 0
