"""Where the lines of ``metrics.jsonl`` go besides: writers, each in a thread of its own."""

from __future__ import annotations

import json
import queue
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from luthier import named
from luthier.errors import RecipeError
from luthier.recipe import parse_log
from luthier.run.folder import RunFolder

_MOST = 10_000  # records that wait for a writer
_PATIENCE = 30.0  # seconds for what still waits at a run's end


class Writer(Protocol):
    """Shows or sends the records of a run. All three methods are called in one thread."""

    def begin(self, run: Path, recipe: dict[str, Any], iteration: int) -> object:
        """Begin, or go on.

        Args:
            run: the run's folder.
            recipe: its fields that have a value, by name.
            iteration: the first whose records follow: 0 from the start. A run that is resumed
                gives those again that it gave after its checkpoint.
        """
        ...

    def write(self, record: dict[str, Any]) -> object:
        """Take a line of ``metrics.jsonl``."""
        ...

    def close(self) -> object:
        """End, when the run has ended or was stopped."""
        ...


def opened(log: str | None) -> dict[str, Writer]:
    """Make the writers that a recipe names; none of them has begun.

    Raises:
        RecipeError: a name is not found, or what it stands for makes no writer.
        MissingExtraError: TensorBoard is not installed.
    """
    return {} if log is None else {name: _made(name) for name in parse_log(log)}


def _made(name: str) -> Writer:
    if name == "tensorboard":
        from luthier.run.tensorboard import TensorBoard  # noqa: PLC0415 - it is an extra

        return TensorBoard()
    factory = named.find(name, "writer", RecipeError)
    try:
        writer: Writer = factory()
    except Exception as error:
        raise RecipeError(f"{name} could not be called: {type(error).__name__}: {error}") from error
    missing = [n for n in ("begin", "write", "close") if not callable(getattr(writer, n, None))]
    if missing:
        raise RecipeError(
            f"{name} returned a {type(writer).__name__} without {missing[0]}(), expected a writer",
            cure="give it the three methods begin(run, recipe, iteration), write(record), close()",
        )
    return writer


class Writers:
    """Writers at work beside a run, which none of them holds up or ends.

    Args:
        writers: by name.
        folder: of the run; its ``metrics.jsonl`` is cut back to where the run goes on.
        recipe: fields by name.
        say: told of a writer that fails or does not keep up.
    """

    def __init__(
        self,
        writers: Mapping[str, Writer],
        folder: RunFolder,
        recipe: Mapping[str, Any],
        say: Callable[[str], object],
    ) -> None:
        if not writers:
            self._beside: list[_Beside] = []
            return
        first = _first_iteration(folder.metrics)
        given = {field: value for field, value in recipe.items() if value is not None}
        self._beside = [
            _Beside(name, writer, lambda w: w.begin(folder.path, dict(given), first), say)
            for name, writer in writers.items()
        ]

    def write(self, record: Mapping[str, Any]) -> None:
        """Hand a record on."""
        for writer in self._beside:
            writer.put(dict(record))

    def close(self) -> None:
        """Let all take what still waits for them, within half a minute."""
        for writer in self._beside:
            writer.end()
        until = time.monotonic() + _PATIENCE
        for writer in self._beside:
            writer.wait(max(0.0, until - time.monotonic()))


def _first_iteration(metrics: Path) -> int:
    lines = metrics.read_bytes().splitlines()
    return int(json.loads(lines[-1])["iteration"]) + 1 if lines else 0


class _Beside:
    """One writer and its thread."""

    def __init__(
        self,
        name: str,
        writer: Writer,
        begin: Callable[[Writer], object],
        say: Callable[[str], object],
    ) -> None:
        self._name, self._writer, self._begin, self._say = name, writer, begin, say
        self._waiting: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        self._left_out = 0
        # A daemon: a server that does not answer must not keep the program from its end.
        self._thread = threading.Thread(target=self._work, name=f"writer {name}", daemon=True)
        self._thread.start()

    def put(self, record: dict[str, Any]) -> None:
        if self._waiting.qsize() < _MOST:
            self._waiting.put(record)
        elif self._thread.is_alive():
            if not self._left_out:
                self._say(
                    f"writer {self._name} does not keep up: records are left out;"
                    " metrics.jsonl has all"
                )
            self._left_out += 1

    def end(self) -> None:
        self._waiting.put(None)

    def wait(self, seconds: float) -> None:
        self._thread.join(seconds)
        left = self._left_out
        if self._thread.is_alive():
            left += max(0, self._waiting.qsize() - 1)  # the last one tells it to end
            self._say(f"writer {self._name} does not end: it is left behind")
        if left:
            self._say(f"writer {self._name} did not take {left} records; metrics.jsonl has all")

    def _work(self) -> None:
        try:
            self._begin(self._writer)
            while (record := self._waiting.get()) is not None:
                self._writer.write(record)
            self._writer.close()
        except BaseException as error:  # it is the end of this thread, and of nothing else
            what = next(iter(str(error).splitlines()), "")
            kind = type(error).__name__
            self._say(f"writer {self._name} failed: {kind}: {what}; metrics.jsonl goes on")
