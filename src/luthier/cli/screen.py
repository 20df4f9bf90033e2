"""A text on a terminal that is redrawn in place, and what was there before, afterwards."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import sys
import textwrap
import time
from types import FrameType, TracebackType
from typing import Any

_ENTER = "\033[?1049h\033[?25l"  # the other screen, no cursor
_LEAVE = "\033[?25h\033[?1049l"
_HOME, _END_OF_LINE, _REST = "\033[H", "\033[K", "\033[J"
_ENDED_BY = ("SIGTERM", "SIGHUP")
_WITHIN, _JOINED = re.compile(r"(?<! ) (?! )"), "\N{NO-BREAK SPACE}"  # of a table's cell
_LOOK = 0.1  # seconds between two looks at the terminal's size


def can_redraw() -> bool:
    """Return whether standard output is a terminal that moves its cursor."""
    return sys.stdout.isatty() and os.environ.get("TERM", "dumb") != "dumb"


class Screen:
    """The terminal of standard output, from ``with`` on until its end, however that comes.

    What is shown last stays when the screen is left.
    """

    def __init__(self) -> None:
        self._text, self._size = "", (0, 0)
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Screen:
        for name in _ENDED_BY:
            self._on(name, _end)
        self._on("SIGTSTP", self._pause)
        _write(_ENTER)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        where: TracebackType | None,
    ) -> None:
        with contextlib.suppress(OSError):  # the terminal may have gone
            _write(f"{_LEAVE}{self._text}\n" if self._text else _LEAVE)
        for number, before in self._before.items():
            signal.signal(number, before)

    def show(self, text: str) -> None:
        """Show a text instead of the one before; what does not fit below is counted."""
        self._text, self._size = text, _size()
        columns, rows = self._size
        lines = [part for line in text.split("\n") for part in _folded(line, columns - 1)]
        if len(lines) > rows:
            lines = [*lines[: rows - 1], f"… {len(lines) - rows + 1} more lines"]
        # At once, and each line over the one before: nothing flickers.
        _write(_HOME + "\r\n".join(line + _END_OF_LINE for line in lines) + _REST)

    def wait(self, seconds: float) -> None:
        """Leave the text there for so long; it is drawn anew for another size."""
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            if _size() != self._size:
                self.show(self._text)
            time.sleep(min(_LOOK, left))

    def _on(self, name: str, handler: Any) -> None:
        number = getattr(signal, name, None)  # not on every system
        if number is not None:
            self._before[number] = signal.signal(number, handler)

    def _pause(self, _number: int, _frame: FrameType | None) -> None:
        """Leave the terminal to the shell while this process is stopped."""
        _write(_LEAVE)
        os.kill(os.getpid(), signal.SIGSTOP)
        _write(_ENTER)
        self._size = 0, 0


def _end(number: int, _frame: FrameType | None) -> None:
    raise SystemExit(128 + number)


def _write(text: str) -> None:
    # Past the buffer, which a signal may have interrupted.
    left = text.encode(sys.stdout.encoding, "replace")
    while left:
        left = left[os.write(sys.stdout.fileno(), left) :]


def _size() -> tuple[int, int]:
    with contextlib.suppress(OSError):
        columns, rows = os.get_terminal_size(sys.stdout.fileno())
        if columns > 1 and rows > 1:
            return columns, rows
    columns, rows = shutil.get_terminal_size()
    return columns, rows


def _folded(line: str, columns: int) -> list[str]:
    """Return a line in parts that fit; a table's is parted between two of its cells."""
    if len(line) <= columns:
        return [line]
    joined = _WITHIN.sub(_JOINED, line) if "  " in line.strip() else line
    indent = " " * min(7, columns - 1)
    parts = textwrap.wrap(joined, columns, subsequent_indent=indent, break_on_hyphens=False)
    return [part.replace(_JOINED, " ") for part in parts] or [""]
