"""The command line. Nothing heavy is imported before a command runs."""

from __future__ import annotations

import argparse
import atexit
import gc
import importlib
import io
import os
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NoReturn

from luthier.cli.failure import explain_unforeseen, say, say_refusal, tell_torchrun
from luthier.cli.parser import Parser
from luthier.errors import LuthierError, RecipeError, nearest
from luthier.version import __version__


@dataclass(frozen=True)
class Command:
    """A command: the module ``luthier.cli.NAME`` has ``add(parser)`` and ``run(arguments)``."""

    name: str
    help: str


COMMANDS = {
    "train": (
        Command("finetune", "fine-tune an image classifier on a folder of photos"),
        Command("resume", "continue a run where it was stopped or killed"),
        Command("compare", "compare strategies on the same images, or runs that are there"),
        Command("report", "write a page that shows a finished run, or compares several"),
        Command("tune", "measure which settings make a fine-tuning fast on this machine"),
        Command("prove", "show that an interrupted run ends with the bits of a whole one"),
        Command("demo", "see the whole life of a model in under a minute"),
    ),
    "models": (
        Command("predict", "say what photos show, by a model file alone"),
        Command("evaluate", "see how good a model file is on labelled photos; calibrate it"),
        Command("export", "write a model for ONNX, timm, transformers, …, and compare the scores"),
    ),
    "files": (
        Command(
            "inspect", "see what is in a file of weights, whoever wrote it; nothing in it runs"
        ),
        Command("match", "see what loading a file of weights into a model would do"),
        Command("verify", "compare a run, a checkpoint or a file with what was written"),
        Command("convert", "write the weights of any file as safetensors or a plain state_dict"),
        Command("diff", "see what differs between the weights of two files"),
    ),
    "machine": (
        Command("doctor", "check this machine, and see what is wrong before a run finds out"),
        Command("explain", "say why a program failed and what ends it, from its traceback"),
        Command("devices", "see every accelerator, who has it, and what this shell sees of it"),
        Command("run", "run a command with accelerators of its own, waiting for them in turn"),
    ),
}


_WITH_COMMAND = ("prove", "run")  # what follows -- is a command
# Objects made before Python looks for garbage: importing torch makes a million that all stay.
_ALLOCATIONS = 200_000


def program() -> NoReturn:
    """Be the process that runs the command line of ``sys.argv``."""
    gc.set_threshold(_ALLOCATIONS)
    try:
        status = main()
    except Exception as error:
        tell_torchrun(error)
        explain_unforeseen(error)
        raise
    leave(status)


def leave(status: int) -> NoReturn:
    """End the process with an exit status, without freeing all that it has imported.

    That would take a second after torch. What was registered for the end is done first. A thread
    that still runs would be cut off: it is waited for as always, and all is freed.
    """
    others = [t for t in threading.enumerate() if t is not threading.current_thread()]
    if any(not thread.daemon for thread in others):
        sys.exit(status)
    atexit._run_exitfuncs()
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except OSError:  # the disk is full, or whoever was reading has gone
        sys.exit(status)  # which says what it always says
    os._exit(status)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status.

    0: it did what was asked. 1: the answer is no (damaged, does not fit, diverged).
    2: the request was wrong. 130: interrupted, after a safe save where a run was under way.
    """
    argv = list(sys.argv[1:] if arguments is None else arguments)
    for stream in (sys.stdout, sys.stderr):  # a letter that a terminal lacks ends no command
        if isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
            stream.reconfigure(errors="backslashreplace")
    try:
        status = _dispatch(argv)
        sys.stdout.flush()  # here, where a closed pipe can be dealt with
        return status
    except LuthierError as error:
        return say(error)
    except KeyboardInterrupt:
        print("luthier: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # whoever was reading, such as head, has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141  # as of a program that SIGPIPE ends
    except OSError as error:
        return say_refusal(error)


def _dispatch(words: list[str]) -> int:
    cut = words.index("--") if "--" in words else len(words)
    argv, after = words[:cut], words[cut + 1 :]
    parser = Parser(
        prog="luthier",
        usage="luthier [-h] [--version] COMMAND ...",
        description="Looks after a PyTorch model file for its whole life.",
        epilog=_overview(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"luthier {__version__}")
    commands = parser.add_subparsers(
        prog="luthier", dest="command", metavar="COMMAND", required=True, help=argparse.SUPPRESS
    )
    chosen = next((a for a in argv if not a.startswith("-")), None)
    every = [command for group in COMMANDS.values() for command in group]
    names = [command.name for command in every]
    if chosen is not None and chosen not in names:
        hint = nearest(chosen, names)
        raise RecipeError(f"unknown command {chosen!r}{hint}", cure="see: luthier --help")
    modules = {}
    for command in every:
        text = command.help[0].upper() + command.help[1:] + "."
        sub = commands.add_parser(command.name, description=text)
        if command.name == chosen:
            modules[chosen] = importlib.import_module(f"luthier.cli.{chosen}")
            modules[chosen].add(sub)
    arguments = parser.parse_args(argv)
    arguments.after = after
    if after and chosen not in _WITH_COMMAND:
        raise RecipeError(
            f"{chosen} takes no command after --", cure=f"see: luthier {chosen} --help"
        )
    status: int = modules[arguments.command].run(arguments)
    return status


def _overview() -> str:
    """Return the commands by what one does with them."""
    width = max(len(command.name) for group in COMMANDS.values() for command in group)
    groups = [
        "\n".join([f"{title}:", *(f"  {c.name:<{width}}  {c.help}" for c in group)])
        for title, group in COMMANDS.items()
    ]
    return "\n\n".join([*groups, "luthier COMMAND --help says what a command takes."])
