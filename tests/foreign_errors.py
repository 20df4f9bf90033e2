"""Errors that are none of PyTorch's known ones: of each, ``luthier explain`` should know nothing.

The snippets of ``foreign_errors/*.py`` are really run, one cell each: ``# %% name: Type`` and then
the code that raises an error of that type. What stands before a file's first cell is run once, for
all of its cells; the cells of ``scripts.py`` run as programs of their own. ``texts.txt`` holds what
is no error of Python at all, or none that was left standing. Names that begin with ``near_`` are
near misses: their words are those of a known error, and their cause is another.
"""

from __future__ import annotations

import contextlib
import io
import linecache
import os
import re
import subprocess
import sys
import tempfile
import traceback
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import CodeType
from typing import Any, TypeVar

FOLDER = Path(__file__).parent / "foreign_errors"
SCRIPT = "train.py"  # what a traceback calls the snippet
CELL = re.compile(r"^# %% (\w+)(?:: (\w+))?\n", re.MULTILINE)


T = TypeVar("T")


@dataclass(frozen=True)
class Foreign:
    """A snippet that raises an error, or a text.

    Args:
        area: the stem of the file it is in.
        name: what it is.
        raises: the error's type as it is printed, without its module; empty for a text.
        source: the snippet, or the text itself.
    """

    area: str
    name: str
    raises: str
    source: str

    def text(self) -> str:
        """Return what a terminal shows of it.

        Raises:
            AssertionError: it raises an error of another type, or none.
        """
        if not self.raises:
            return self.source
        with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
            said, raised = self._as_program() if self.area == "scripts" else self._in_process()
        assert raised == self.raises, f"{self.name} raised {raised}, not {self.raises}:\n{said}"
        return said

    def while_it_lives(self, use: Callable[[BaseException], T]) -> T | None:
        """Return what is made of the error itself; None of a text, or a program of its own."""
        if not self.raises or self.area == "scripts":
            return None
        with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
            return self._run(use)[1]

    def _in_process(self) -> tuple[str, str]:
        said, told = self._run(lambda error: (_printed(error), type(error).__qualname__))
        return said + told[0] if told else said, told[1] if told else "nothing"

    def _run(self, use: Callable[[BaseException], T]) -> tuple[str, T | None]:
        shown = io.StringIO()
        everything = dict(_preamble(self.area), __name__="__main__")
        with (
            warnings.catch_warnings(action="ignore"),
            contextlib.redirect_stdout(shown),
            contextlib.redirect_stderr(shown),
        ):
            try:
                exec(_compiled(self.source), everything)  # noqa: S102 - the snippets are ours
            except BaseException as error:
                return shown.getvalue(), use(error)
        return shown.getvalue(), None

    def _as_program(self) -> tuple[str, str]:
        Path(SCRIPT).write_text(self.source, encoding="utf-8")
        ended = subprocess.run(
            [sys.executable, SCRIPT],
            env=dict(os.environ, TMPDIR="."),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            timeout=60,
        )
        last = re.findall(r"^(?:\w+\.)*(\w+)(?=:|$)", ended.stdout, re.MULTILINE)
        return ended.stdout, last[-1] if last else "nothing"


def tracebacks() -> Iterator[tuple[str, str]]:
    """Yield each one's name, and its traceback as Python prints it."""
    for foreign in FOREIGN:
        yield foreign.name, foreign.text()


def _all() -> Iterator[Foreign]:
    for path in sorted(FOLDER.iterdir()):
        if path.is_file():
            _, *cells = CELL.split(path.read_text(encoding="utf-8"))
            for name, raises, source in zip(cells[::3], cells[1::3], cells[2::3], strict=True):
                yield Foreign(path.stem, name, raises or "", source.strip("\n") + "\n")
    yield Foreign("texts", "empty", "", "")
    yield Foreign("texts", "bytes_of_an_image", "", bytes(range(256)).decode("latin-1") * 8)


def _compiled(source: str) -> CodeType:
    """Compile the snippet so that a traceback shows its lines."""
    lines = source.splitlines(keepends=True)
    linecache.cache[SCRIPT] = (len(source), None, lines, SCRIPT)
    return compile(source, SCRIPT, "exec")


@cache
def _preamble(area: str) -> dict[str, Any]:
    path = FOLDER / f"{area}.py"
    first, *_ = CELL.split(path.read_text(encoding="utf-8"))
    names: dict[str, Any] = {}
    with warnings.catch_warnings(action="ignore"):
        exec(compile(first, path, "exec"), names)  # noqa: S102 - the snippets are ours
    return names


def _printed(error: BaseException) -> str:
    """Return what Python prints at its end, without the frame that ran the snippet."""
    if isinstance(error, SystemExit):
        return "" if isinstance(error.code, int) else f"{error.code}\n"
    inside = error.__traceback__.tb_next if error.__traceback__ else None
    return "".join(traceback.format_exception(type(error), error, inside))


FOREIGN = tuple(_all())
