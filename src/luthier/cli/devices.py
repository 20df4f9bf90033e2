"""``luthier devices``."""

from __future__ import annotations

import argparse
import contextlib
import json
import time

from luthier.cli.screen import Screen, can_redraw

_EVERY = 1.0  # seconds


def add(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("--watch", action="store_true", help="look again every second")
    parser.add_argument(
        "--json", action="store_true", help="print everything as JSON, sizes in bytes"
    )


def run(arguments: argparse.Namespace) -> int:
    """Print what there is; 0 also where there is nothing, and where a watch is ended."""
    from luthier.run.overview import overview  # noqa: PLC0415 - torch comes with it

    def look() -> str:
        found = overview()
        return json.dumps(found.as_dict()) if arguments.json else str(found)

    if not arguments.watch:
        print(look())
        return 0
    with contextlib.suppress(KeyboardInterrupt):  # which is how a watch ends
        if can_redraw() and not arguments.json:
            with Screen() as screen:
                while True:
                    screen.show(look())
                    screen.wait(_EVERY)
        while True:
            print(look(), end="\n" if arguments.json else "\n\n", flush=True)
            time.sleep(_EVERY)
    return 0
