"""``luthier diff A B``."""

from __future__ import annotations

import argparse
import json


def add(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("a", metavar="A", help="a file of weights, or a folder of them")
    parser.add_argument("b", metavar="B", help="another one")
    parser.add_argument("--where-a", metavar="PLACE", help="the place of the weights in A")
    parser.add_argument("--where-b", metavar="PLACE", help="the place of the weights in B")
    parser.add_argument("--json", action="store_true", help="print everything as JSON")


def run(arguments: argparse.Namespace) -> int:
    """Print what differs; 1 if anything does."""
    from luthier.weights.diff import diff  # noqa: PLC0415 - torch comes with it

    found = diff(arguments.a, arguments.b, where_a=arguments.where_a, where_b=arguments.where_b)
    print(json.dumps(found.as_dict()) if arguments.json else found)
    return 0 if found.same else 1
