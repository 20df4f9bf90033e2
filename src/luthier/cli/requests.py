"""The flags by which accelerators are asked for, and what they mean."""

from __future__ import annotations

import argparse
import re

from luthier.accelerators import Request, parse_size, parse_time
from luthier.errors import RecipeError


def add_request_flags(parser: argparse.ArgumentParser) -> None:
    """Declare the flags."""
    parser.add_argument("--gpus", type=int, default=1, metavar="N", help="how many [1]")
    parser.add_argument(
        "--min-free",
        default="0",
        metavar="SIZE",
        help="memory that must be free on each, such as 20GiB",
    )
    parser.add_argument(
        "--model-like", metavar="NAME", help="only products with this in their name, such as H100"
    )
    parser.add_argument(
        "--capability", metavar="X.Y", help="the least compute capability, such as 8.0"
    )
    add_share_flag(parser)
    add_wait_flag(parser)


def add_share_flag(parser: argparse.ArgumentParser) -> None:
    """Declare ``--share``."""
    parser.add_argument(
        "--share",
        metavar="SIZE",
        help="take at most so much of an accelerator's memory, beside others on the same terms",
    )


def add_wait_flag(parser: argparse.ArgumentParser) -> None:
    """Declare ``--wait``."""
    parser.add_argument(
        "--wait",
        default="0",
        metavar="TIME",
        help="wait so long for an accelerator, such as 2h, in turn [0]",
    )


def request_of(arguments: argparse.Namespace) -> Request:
    """Return what the flags ask for.

    Raises:
        RecipeError: a flag's value has no meaning; it is named.
    """
    if arguments.gpus < 1:
        raise RecipeError(f"--gpus {arguments.gpus}: expected 1 or more")
    return Request(
        count=arguments.gpus,
        min_free=parse_size("--min-free", arguments.min_free),
        like=arguments.model_like,
        capability=_capability(arguments.capability),
        share=arguments.share and parse_size("--share", arguments.share),
    )


def seconds_of(arguments: argparse.Namespace) -> float:
    """Return how long to wait."""
    return parse_time("--wait", arguments.wait)


def _capability(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    match = re.fullmatch(r"(\d+)\.(\d+)", text)
    if match is None:
        raise RecipeError(f"--capability {text}: expected such as 8.0")
    return int(match[1]), int(match[2])
