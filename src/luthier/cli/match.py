"""``luthier match FILE --model NAME``."""

from __future__ import annotations

import argparse
import json


def add(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("file", metavar="FILE", help="a file or folder of weights")
    parser.add_argument(
        "--model",
        required=True,
        metavar="NAME",
        help="a torchvision model, timm/NAME, or package.module:callable",
    )
    parser.add_argument(
        "--classes", type=int, metavar="N", help="a new head of N outputs keeps its initial values"
    )
    parser.add_argument("--where", metavar="W", help="the place in the file, as inspect names it")
    parser.add_argument(
        "--rules", metavar="FILE", action="append", default=[], help="a naming scheme of your own"
    )
    parser.add_argument("--json", action="store_true", help="print the plan as one JSON object")


def run(arguments: argparse.Namespace) -> int:
    """Print what a load would do; 1 if a load would be refused."""
    from luthier.weights.fit import match_named  # noqa: PLC0415 - torch comes with it

    plan = match_named(
        arguments.file,
        arguments.model,
        classes=arguments.classes,
        where=arguments.where,
        rules=arguments.rules,
    )
    print(json.dumps(plan.as_dict()) if arguments.json else plan)
    return 0 if plan.fits else 1
