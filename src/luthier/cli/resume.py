"""``luthier resume RUN``."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from luthier.cli.processes import add_processes_flag, in_processes, is_first
from luthier.cli.requests import add_share_flag, add_wait_flag
from luthier.cli.studies import add_at_once_flag, refuse_of_one_run
from luthier.errors import RecipeError
from luthier.studies import is_study


def add(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("run_folder", metavar="RUN", help="the run's folder, or its URL")
    parser.add_argument("--device", metavar="NAME", help="another device than before")
    parser.add_argument(
        "--workers", type=int, metavar="N", help="another number of workers; it changes no bit"
    )
    add_processes_flag(parser)
    add_at_once_flag(parser)
    add_share_flag(parser)
    add_wait_flag(parser)
    parser.add_argument("--json", action="store_true", help="print the summary as one JSON object")


def run(arguments: argparse.Namespace) -> int:
    """Continue the run to its end, and print the result."""
    if is_study(Path(arguments.run_folder)):
        return _resume_study(arguments)
    if arguments.at_once is not None:
        raise RecipeError(f"--at-once has no effect: {arguments.run_folder} is a single run")
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


def _resume_study(arguments: argparse.Namespace) -> int:
    flags = ("device", "workers", "processes", "share")
    refuse_of_one_run(arguments, flags, f"{arguments.run_folder} holds several")
    from luthier.run.compare import go_on  # noqa: PLC0415 - torch comes with it

    found = go_on(arguments.run_folder, wait=arguments.wait, at_once=arguments.at_once)
    print(json.dumps(found.as_dict()) if arguments.json else found)
    return 0
