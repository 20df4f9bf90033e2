"""``luthier verify RUN|CHECKPOINT|FILE``."""

from __future__ import annotations

import argparse
import json


def add(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument(
        "path",
        metavar="RUN|CHECKPOINT|FILE",
        help="a run's folder or its URL, a checkpoint, a file or folder of weights",
    )
    parser.add_argument("--json", action="store_true", help="print what was found as JSON")


def run(arguments: argparse.Namespace) -> int:
    """Print what was found; 1 if something is damaged."""
    from luthier.run.verify import verify  # noqa: PLC0415 - only for this command

    found = verify(arguments.path)
    print(json.dumps(found.as_dict()) if arguments.json else found)
    return 0 if found.sound else 1
