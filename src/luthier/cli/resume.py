"""``luthier resume RUN``."""

from __future__ import annotations

import argparse
import json

from luthier.cli.processes import add_processes_flag, in_processes, is_first
from luthier.cli.requests import add_share_flag, add_wait_flag


def add(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("run_folder", metavar="RUN", help="the run's folder, or its URL")
    parser.add_argument("--device", metavar="NAME", help="another device than before")
    parser.add_argument(
        "--workers", type=int, metavar="N", help="another number of workers; it changes no bit"
    )
    add_processes_flag(parser)
    add_share_flag(parser)
    add_wait_flag(parser)
    parser.add_argument("--json", action="store_true", help="print the summary as one JSON object")


def run(arguments: argparse.Namespace) -> int:
    """Continue the run to its end, and print the result."""
    status = in_processes(arguments)
    if status is not None:
        return status
    from luthier.run.finetune import resume  # noqa: PLC0415 - torch comes with it

    result = resume(
        arguments.run_folder,
        device=arguments.device,
        workers=arguments.workers,
        wait=arguments.wait,
        share=arguments.share,
    )
    if is_first():
        print(json.dumps(result.summary) if arguments.json else result.model)
    return 0
