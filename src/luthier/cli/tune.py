"""``luthier tune DATA``."""

from __future__ import annotations

import argparse
import json

from luthier.cli.finetune import add_recipe_flags, given_fields
from luthier.cli.requests import add_wait_flag
from luthier.recipe import ENTRIES


def add(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments: those of ``finetune``, of which what is given stays as it is."""
    parser.usage = (
        "luthier tune DATA [--out RECIPE] [--recipe FILE] [--json] [--largest-batch]"
        " [--FLAG VALUE ...]"
    )
    parser.add_argument("data", metavar="DATA", help=ENTRIES["data"].knob.help)
    parser.add_argument("--out", metavar="RECIPE", help="new file for the recipe that was found")
    parser.add_argument("--recipe", metavar="FILE", help="a recipe.toml; flags go on top of it")
    parser.add_argument("--json", action="store_true", help="print what was found as JSON")
    parser.add_argument(
        "--largest-batch", action="store_true", help="say too what batch memory would take"
    )
    parser.add_argument(
        "--round-seconds",
        type=float,
        default=2.0,
        metavar="X",
        help="of training that make one measurement, at least [2]",
    )
    parser.add_argument(
        "--trial-seconds",
        type=float,
        default=600.0,
        metavar="X",
        help="until a trial that gives no answer is ended [600]",
    )
    add_wait_flag(parser)
    add_recipe_flags(parser)


def run(arguments: argparse.Namespace) -> int:
    """Tune, and print what was tried and what is best."""
    from luthier.run.tuning import tune  # noqa: PLC0415 - it would slow down --help

    found = tune(
        arguments.data,
        out=arguments.out,
        recipe_file=arguments.recipe,
        largest_batch=arguments.largest_batch,
        round_seconds=arguments.round_seconds,
        trial_seconds=arguments.trial_seconds,
        wait=arguments.wait,
        **given_fields(arguments),
    )
    print(json.dumps(found.as_dict()) if arguments.json else found)
    if arguments.out is not None and not arguments.json:
        print(f"recipe: luthier finetune {arguments.data} --recipe {arguments.out}")
    return 0
