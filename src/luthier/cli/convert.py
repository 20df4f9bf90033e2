"""``luthier convert FILE OUT``."""

from __future__ import annotations

import argparse
import json


def add(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("file", metavar="FILE", help="a file of weights, or a folder of them")
    parser.add_argument(
        "out",
        metavar="OUT",
        help="NAME.safetensors; NAME.pt, .pth or .bin for a plain state_dict; a folder for shards",
    )
    parser.add_argument("--where", metavar="PLACE", help="the place of the weights in the file")
    parser.add_argument("--dtype", metavar="NAME", help="cast floating-point tensors to it")
    parser.add_argument(
        "--shard-size", metavar="SIZE", help="at most so much in a file, such as 2GB; with an index"
    )
    parser.add_argument("--force", action="store_true", help="replace OUT if it is there")
    parser.add_argument("--json", action="store_true", help="print what was done as JSON")


def run(arguments: argparse.Namespace) -> int:
    """Convert, and print what was written and what was left out."""
    from luthier.weights.convert import convert  # noqa: PLC0415 - torch comes with it

    converted = convert(
        arguments.file,
        arguments.out,
        where=arguments.where,
        dtype=arguments.dtype,
        shard_size=arguments.shard_size,
        force=arguments.force,
    )
    print(json.dumps(converted.as_dict()) if arguments.json else converted)
    return 0
