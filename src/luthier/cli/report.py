"""``luthier report RUN [RUN ...]``."""

from __future__ import annotations

import argparse


def add(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("runs", metavar="RUN", nargs="+", help="the folder of a finished run")
    parser.add_argument(
        "--out",
        metavar="PAGE",
        help="the page [report.html in the folder of one RUN; comparison.html here of several]",
    )


def run(arguments: argparse.Namespace) -> int:
    """Write the page and print where it is."""
    from luthier.run.page import write_report  # noqa: PLC0415 - torch comes with it

    print(write_report(*arguments.runs, out=arguments.out))
    return 0
