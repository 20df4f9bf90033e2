"""``luthier run -- COMMAND``."""

from __future__ import annotations

import argparse
import sys

from luthier.accelerators import launch
from luthier.cli.requests import add_request_flags, request_of, seconds_of
from luthier.errors import RecipeError


def add(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments; the command follows after ``--``."""
    parser.usage = "luthier run [--gpus N] [--min-free SIZE] [--wait TIME] … -- COMMAND …"
    add_request_flags(parser)


def run(arguments: argparse.Namespace) -> int:
    """Run the command with accelerators of its own, and return its exit status."""
    if not arguments.after:
        raise RecipeError(
            "no command to run", cure="give it after --: luthier run --gpus 1 -- python train.py"
        )
    return launch(
        arguments.after,
        request_of(arguments),
        wait=seconds_of(arguments),
        say=lambda line: print(f"luthier: {line}", file=sys.stderr),
    )
