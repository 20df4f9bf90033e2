"""``luthier devices``."""

from __future__ import annotations

import argparse
import json
import sys
import time


def add(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("--watch", action="store_true", help="look again every second")
    parser.add_argument(
        "--json", action="store_true", help="print everything as JSON, sizes in bytes"
    )


def run(arguments: argparse.Namespace) -> int:
    """Print what there is; 0 also where there is nothing."""
    from luthier.run.overview import overview  # noqa: PLC0415 - torch comes with it

    while True:
        found = overview()
        text = json.dumps(found.as_dict()) if arguments.json else str(found)
        if arguments.watch and sys.stdout.isatty():
            print("\033[H\033[2J", end="")
        print(text, flush=True)
        if not arguments.watch:
            return 0
        time.sleep(1)
