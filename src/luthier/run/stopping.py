"""Signals: asked once, a run saves and stops; a Ctrl-C after that stops it at once."""

from __future__ import annotations

import contextlib
import math
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType

_ECHO = 1.0  # seconds


class StopRequest:
    """Whether someone has asked the run to stop.

    Args:
        at_once: called in the signal handler when someone asks again.
    """

    def __init__(self, at_once: Callable[[], object] = lambda: None) -> None:
        self.asked = False
        self._at_once = at_once
        self._since = -math.inf

    def _ask(self, number: int, _frame: FrameType | None) -> None:
        # A scheduler sends its warning and its SIGTERM one after the other: only a person's
        # second word means "now".
        if self.asked and number == signal.SIGINT and not self._is_echo():
            self._at_once()
            raise KeyboardInterrupt
        if not self.asked:
            self.asked, self._since = True, time.monotonic()

    def _is_echo(self) -> bool:
        # torchrun hands on what the terminal has sent to all: one Ctrl-C comes twice.
        launched = "TORCHELASTIC_RUN_ID" in os.environ
        return launched and time.monotonic() - self._since < _ECHO


_NAMES = ("SIGINT", "SIGTERM", "SIGUSR1")  # SIGUSR1 warns of pre-emption; Windows has none


@contextlib.contextmanager
def listening(request: StopRequest | None = None) -> Iterator[StopRequest]:
    """Let SIGINT, SIGTERM and SIGUSR1 set the request inside; their old handlers come back after.

    Outside the main thread, where Python takes no signals, the request is never set.
    """
    request = request or StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    numbers = [getattr(signal, name) for name in _NAMES if hasattr(signal, name)]
    before = [signal.signal(number, request._ask) for number in numbers]
    try:
        yield request
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)
