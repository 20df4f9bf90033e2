"""``luthier compare DATA --strategies … | RUN RUN …``."""

from __future__ import annotations

import argparse

from luthier.cli.finetune import add_recipe_flags, given_fields
from luthier.cli.requests import add_wait_flag
from luthier.cli.studies import add_repeat_flags, run_study


def add(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments: beside its own, every field of the recipe is a flag."""
    parser.usage = (
        "luthier compare DATA --strategies NAME,NAME [--seeds N] [--folds N] [--out FOLDER]"
        " [--FLAG VALUE ...]\n       luthier compare RUN RUN ... [--json]"
    )
    parser.add_argument(
        "what", nargs="+", metavar="DATA|RUN", help="images to learn from, or runs to be shown"
    )
    parser.add_argument(
        "--strategies",
        metavar="NAME,NAME",
        help="strategies, or recipes (.toml), that are run on the same images",
    )
    add_repeat_flags(parser)
    parser.add_argument("--out", metavar="FOLDER", help="new folder [runs/NAME-compared]")
    parser.add_argument("--recipe", metavar="FILE", help="a recipe.toml; flags go on top of it")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    add_wait_flag(parser)
    add_recipe_flags(parser)


def run(arguments: argparse.Namespace) -> int:
    """Run what is not finished, and print the comparison."""
    names = (arguments.strategies or "").split(",")
    given = {"strategies": [name.strip() for name in names if name.strip()]}
    return run_study(arguments, arguments.what, given | given_fields(arguments))
