"""``luthier inspect FILE``."""

from __future__ import annotations

import argparse
import json

from luthier.weights.inspect import inspect


def add(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("path", metavar="FILE", help="a file of weights, or a folder of them")
    many = parser.add_mutually_exclusive_group()
    many.add_argument(
        "--all", action="store_true", help="print every tensor, and leave out nothing"
    )
    many.add_argument("--json", action="store_true", help="print everything as JSON")


def run(arguments: argparse.Namespace) -> int:
    """Print what is in the file."""
    found = inspect(arguments.path)
    if arguments.json:
        print(json.dumps(found.as_dict()))
    else:
        print(found.full() if arguments.all else found)
    return 0
