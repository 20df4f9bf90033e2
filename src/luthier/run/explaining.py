"""An error of a program that still runs, described and explained; and the machine, likewise."""

from __future__ import annotations

import contextlib
import linecache
import multiprocessing
import os
import platform
import traceback
from collections.abc import Iterator
from typing import Any

from luthier.explanations import Explanation, Frame, Here, Raised, errors_in, is_library
from luthier.explanations import explain as explained
from luthier.language import Language, language
from luthier.run.live import variables_of

_HEADER = "Traceback (most recent call last):"


def explain(error: BaseException | str, *, lang: Language | None = None) -> Explanation | None:
    """Say why an error was raised and what ends it, or nothing where that is not known.

    Args:
        error: an exception with its traceback, of this program; or a text with one. Of an
            exception the variables of its calls are looked at: shapes, devices, dtypes, names.
        lang: "en" or "zh"; by default what ``LUTHIER_LANG`` or the locale says.

    Returns:
        the explanation, which prints as lines; None for an error that is not in the catalogue.

    Raises:
        RecipeError: ``LUTHIER_LANG`` names a language that is not spoken.
    """
    spoken, machine = language(os.environ) if lang is None else lang, here()
    if isinstance(error, str):
        return explained(errors_in(error), spoken, machine)
    chain = [(raised_of(e), variables_of(e)) for e in _chain(error)]
    found = explained([r for r, _ in chain], spoken, machine, [v for _, v in chain])
    # A worker's or another process's error is inside its message, with a traceback of its own.
    inside = _HEADER in str(error) and found is None
    return explained(errors_in(_printed(error)), spoken, machine) if inside else found


@contextlib.contextmanager
def explaining() -> Iterator[None]:
    """Add to an error that is raised inside why it was raised and what ends it.

    It is a note (``BaseException.add_note``), which Python prints below the message. What is not
    known has nothing added. The error stays what it is.
    """
    try:
        yield
    except Exception as error:
        add_explanation(error)
        raise


def add_explanation(error: BaseException) -> None:
    """Add to an error, as a note, the explanation that is known; never raise another."""
    with contextlib.suppress(Exception):
        found = explain(error)
        if found is not None and str(found) not in getattr(error, "__notes__", []):
            error.add_note(str(found))


def raised_of(error: BaseException) -> Raised:
    """Return an exception as it would be printed."""
    kind = type(error)
    name = (
        kind.__qualname__
        if kind.__module__ == "builtins"
        else f"{kind.__module__}.{kind.__qualname__}"
    )
    frames = tuple(_frame(summary) for summary in traceback.extract_tb(error.__traceback__))
    return Raised(name, str(error), frames)


def here() -> Here:
    """Return what is known of this machine without asking torch."""
    from luthier import accelerators  # noqa: PLC0415 - the driver is asked
    from luthier.machine import allowed, facts  # noqa: PLC0415 - likewise

    torch = facts.version_of("torch")
    found: dict[str, Any] = {}
    with contextlib.suppress(Exception):
        survey = accelerators.survey()
        found["gpus"] = len(survey.accelerators)
        found["visible_gpus"] = len(accelerators.visible(survey.accelerators, os.environ).allowed)
    with contextlib.suppress(OSError):
        shared = facts.shared_memory()
        found["shared_memory"] = shared and shared.size
        found["shared_memory_free"] = shared and shared.free
    limit = facts.open_files()
    return Here(
        python=platform.python_version(),
        torch=torch,
        torchvision=facts.version_of("torchvision"),
        cuda_build=None if torch is None else "+cpu" not in torch,
        cuda_visible_devices=os.environ.get("CUDA_VISIBLE_DEVICES"),
        cores=allowed.cores_allowed(),
        open_files=None if limit is None else limit.soft,
        start_method=multiprocessing.get_start_method(allow_none=True),
        **found,
    )


def _chain(error: BaseException) -> Iterator[BaseException]:
    """Yield an error, and what it names as its causes."""
    known: set[int] = set()
    at: BaseException | None = error
    while at is not None and id(at) not in known:
        known.add(id(at))
        yield at
        at = at.__cause__


def _printed(error: BaseException) -> str:
    """Return an error as Python prints it, without our notes: a worker's is inside its message."""
    return "".join(traceback.format_exception_only(error))


def _frame(summary: traceback.FrameSummary) -> Frame:
    line, first, last = summary.line or "", summary.colno, summary.end_colno
    marked = ""
    if first is not None and last is not None and summary.end_lineno == summary.lineno:
        whole = linecache.getline(summary.filename, summary.lineno or 0).encode()
        marked = whole[first:last].decode(errors="replace").strip()
    return Frame(
        summary.filename,
        summary.lineno or 0,
        summary.name,
        line,
        marked if marked in line else "",
        is_library(summary.filename),
    )
