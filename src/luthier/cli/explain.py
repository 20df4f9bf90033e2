"""``luthier explain [FILE|RUN|-]``."""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import BinaryIO

from luthier.errors import RecipeError, RunFolderError
from luthier.explanations import Explanation, Raised, errors_in, labels
from luthier.language import Language, language

_RUNS = Path("runs")
_MOST = 2**22  # bytes of a log that are looked at


def add(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument(
        "what",
        nargs="?",
        metavar="FILE|RUN|-",
        help="a text with a traceback, a run that failed, or standard input; by default what is"
        " piped in, else the run in runs/ that failed last",
    )
    parser.add_argument("--json", action="store_true", help="print what was found as JSON")


def run(arguments: argparse.Namespace) -> int:
    """Print the explanation; 1 where the error is not known, or there is none."""
    spoken = language(os.environ)
    place, text, found = _asked(arguments.what, spoken)
    errors = errors_in(text)
    if found is None and errors:
        from luthier.run.explaining import explain  # noqa: PLC0415 - only for this command

        found = explain(text, lang=spoken)
    if arguments.json:
        print(json.dumps(_as_dict(errors, found)))
    elif errors:
        print(_line_of(errors[0]))
        print(found or _unknown(errors[0], spoken))
    else:
        print(labels(spoken)["none"].format(source=place))
    return 0 if found is not None else 1


def _asked(what: str | None, spoken: Language) -> tuple[str, str, Explanation | None]:
    """Return where a text is from, the text, and the explanation that was kept with it.

    Raises:
        RecipeError: there is no such file. RunFolderError: no run failed.
    """
    if what == "-" or (what is None and not sys.stdin.isatty()):
        piped = _end_of(sys.stdin.buffer)
        if what == "-" or piped.strip():
            return "standard input", piped, None
    if what is None:
        return _of_run(_RUNS, spoken, last=True)
    path = Path(what)
    if path.is_dir():
        return _of_run(path, spoken, last=False)
    try:
        with path.open("rb") as file:
            return what, _end_of(file), None
    except FileNotFoundError:
        raise RecipeError(
            f"there is no file or run {what}",
            cure="give a file with the traceback, a run's folder, or - for standard input",
        ) from None


def _end_of(stream: BinaryIO) -> str:
    """Return the end of a text, in which the error that ended a program stands."""
    end = b""
    while more := stream.read(_MOST):
        end = (end + more)[-_MOST:]
    return end.decode("utf-8", errors="replace")


def _of_run(folder: Path, spoken: Language, *, last: bool) -> tuple[str, str, Explanation | None]:
    from luthier.run.failures import failure_of, last_failure  # noqa: PLC0415 - only for a run

    failure = last_failure(folder) if last else failure_of(folder)
    if failure is None:
        raise RunFolderError(
            f"no run in {folder} has failed" if last else f"run {folder} has not failed",
            cure="give a file with a traceback, or: python train.py 2>&1 | luthier explain",
        )
    kept = failure.explanations.get(spoken)
    found = None if kept is None else Explanation.from_dict(kept, labels(spoken))
    return str(failure.run), failure.traceback, found


def _line_of(raised: Raised) -> str:
    first = raised.message.partition("\n")[0]
    return f"{raised.type}: {first}" if first else raised.type


def _unknown(raised: Raised, spoken: Language) -> str:
    if raised.type.startswith("luthier.errors."):
        rest = raised.message.partition("\n")[2].rstrip()
        return "\n".join([*([rest] if rest else []), labels(spoken)["itself"]])
    return labels(spoken)["unknown"]


def _as_dict(errors: tuple[Raised, ...], found: Explanation | None) -> dict[str, object]:
    return {
        "error": {"type": errors[0].type, "message": errors[0].message} if errors else None,
        "explanation": None if found is None else found.as_dict(),
    }
