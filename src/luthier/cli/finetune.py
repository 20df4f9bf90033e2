"""``luthier finetune DATA``."""

from __future__ import annotations

import argparse
import json
from typing import Any

from luthier.cli.processes import add_processes_flag, in_processes, is_first
from luthier.cli.requests import add_share_flag, add_wait_flag
from luthier.cli.studies import add_repeat_flags, refuse_of_one_run, run_study
from luthier.errors import RecipeError
from luthier.recipe import ENTRIES, Entry


def add(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments: every field of the recipe is a flag."""
    parser.usage = (
        "luthier finetune DATA [--out RUN] [--recipe FILE] [--tune] [--json] [--FLAG VALUE ...]"
    )
    parser.add_argument("data", metavar="DATA", help=ENTRIES["data"].knob.help)
    parser.add_argument(
        "--out", metavar="RUN", help="new folder of the run, or a URL such as s3://… [runs/NAME]"
    )
    parser.add_argument("--recipe", metavar="FILE", help="a recipe.toml; flags go on top of it")
    parser.add_argument("--tune", action="store_true", help="find the fastest settings here first")
    parser.add_argument("--json", action="store_true", help="print the summary as one JSON object")
    add_repeat_flags(parser)
    add_processes_flag(parser)
    add_share_flag(parser)
    add_wait_flag(parser)
    add_recipe_flags(parser)


def add_recipe_flags(parser: argparse.ArgumentParser) -> None:
    """Declare every field of the recipe but DATA as a flag, by section."""
    sections = dict.fromkeys(entry.section for entry in ENTRIES.values())
    groups = {name: parser.add_argument_group(name) for name in sections}
    for entry in ENTRIES.values():
        if entry.name != "data":
            _add_flag(groups[entry.section], entry)


def given_fields(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the fields of the recipe that were given as flags."""
    found = {name: getattr(arguments, name) for name in ENTRIES if name != "data"}
    return {name: value for name, value in found.items() if value is not None}


def _add_flag(group: argparse._ArgumentGroup, entry: Entry) -> None:
    text = _help(entry)
    if entry.type is bool:
        action = argparse.BooleanOptionalAction
        group.add_argument(entry.flag, action=action, default=None, help=text)
    elif entry.type is tuple:
        group.add_argument(entry.flag, nargs=3, type=float, metavar=("R", "G", "B"), help=text)
    else:
        metavar = "|".join(entry.knob.choices) or {int: "N", float: "X"}.get(entry.type, "NAME")
        group.add_argument(entry.flag, type=entry.type, metavar=metavar, help=text)


def _help(entry: Entry) -> str:
    knob = entry.knob
    default = "" if knob.default is None or knob.default is False else f" [{knob.default}]"
    only = f"; with {ENTRIES[knob.only[0]].flag} {' or '.join(knob.only[1])}" if knob.only else ""
    return (knob.help + default + only).replace("%", "%%")


def run(arguments: argparse.Namespace) -> int:
    """Fine-tune, and print the result."""
    if arguments.seeds != 1 or arguments.folds != 1:
        return _run_repeated(arguments)
    if arguments.at_once is not None:
        raise RecipeError("--at-once has no effect on a single run", cure="give --seeds or --folds")
    status = in_processes(arguments)
    if status is not None:
        return status
    from luthier.run.finetune import finetune  # noqa: PLC0415 - torch comes with it

    result = finetune(
        arguments.data,
        out=arguments.out,
        recipe_file=arguments.recipe,
        tune=arguments.tune,
        wait=arguments.wait,
        share=arguments.share,
        **given_fields(arguments),
    )
    if is_first():
        print(json.dumps(result.summary) if arguments.json else result.model)
    return 0


def _run_repeated(arguments: argparse.Namespace) -> int:
    flags = ("tune", "processes", "share")
    refuse_of_one_run(arguments, flags, "--seeds and --folds ask for several")
    return run_study(arguments, [arguments.data], given_fields(arguments))
