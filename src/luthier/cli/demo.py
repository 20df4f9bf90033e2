"""``luthier demo``."""

from __future__ import annotations

import argparse


def add(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("--out", metavar="FOLDER", help="new folder for its runs [runs/demo]")


def run(arguments: argparse.Namespace) -> int:
    """Run the demo; 1 if a resumed run did not end with the same bits."""
    from luthier.run.demo import demo  # noqa: PLC0415 - torch comes with it

    return 0 if demo(arguments.out).identical else 1
