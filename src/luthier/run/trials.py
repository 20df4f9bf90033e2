"""Trials as seen from outside: each a process whose end, whatever it is, is a result."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import signal
import subprocess
import sys
import threading
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from luthier import errors, recipe
from luthier.errors import CommandFailedError
from luthier.recipe import Recipe
from luthier.tuning import Facts, Measured, Setting

_LAST_WORDS = 30.0  # seconds for a process to end that has closed its output
_TAIL = 2000  # characters of what a trial said that are looked at when it failed


@dataclass
class TrialFailed(Exception):  # noqa: N818 - it is a result
    """A trial that came to no measurement.

    Attributes:
        outcome: "out of memory", "crashed" or "no answer".
        detail: a line of what it said last.
    """

    outcome: str
    detail: str

    def __str__(self) -> str:
        return f"{self.outcome}: {self.detail}"


class TrialProcess:
    """A trial at work.

    Args:
        request: the fields of ``run.trial.Request``.
        log: a new file for what it says.
        patience: seconds until it is killed, where it does not answer.
    """

    def __init__(self, request: dict[str, Any], log: Path, patience: float) -> None:
        self._log, self._patience = log, patience
        # As in this process: a model may come from any module that can be imported here.
        path = os.pathsep.join(entry for entry in sys.path if entry)
        with log.open("wb") as said:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "luthier.run.trial"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=said,
                text=True,
                env={**os.environ, "PYTHONPATH": path},
                start_new_session=True,  # what it starts ends with it
            )
        try:
            self._send(request)
            self.facts = Facts.from_dict(self._answer()["facts"])
        except BaseException:
            self.close()
            raise

    def begin(self) -> tuple[int, float]:
        """Return the peak of memory in bytes, and the seconds of the first two steps.

        Raises:
            TrialFailed: it does not get so far.
        """
        begun = self._answer()
        return begun["peak"], begun["seconds"]

    def measure(self, seconds: float) -> Measured:
        """Let it train for some seconds.

        Raises:
            TrialFailed: it did not come back from it.
        """
        self._send({"seconds": seconds})
        return Measured(**self._answer())

    def close(self) -> None:
        """End it and all that it has started."""
        self._kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            with contextlib.suppress(BrokenPipeError):
                pipe.close()  # type: ignore[union-attr]

    def _send(self, value: Any) -> None:
        assert self._process.stdin is not None  # noqa: S101 - a pipe was asked for
        with contextlib.suppress(BrokenPipeError):  # that it is gone shows in its answer
            self._process.stdin.write(json.dumps(value) + "\n")
            self._process.stdin.flush()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None  # noqa: S101 - a pipe was asked for
        late = threading.Event()

        def give_up() -> None:
            late.set()
            self._kill()

        end = threading.Timer(self._patience, give_up)
        end.start()
        try:
            line = self._process.stdout.readline()
        finally:
            end.cancel()
            end.join()
        if not line.endswith("\n"):
            raise self._failure(late.is_set())
        answer: dict[str, Any] = json.loads(line)
        if "out_of_memory" in answer:
            raise TrialFailed("out of memory", answer["out_of_memory"])
        if "error" in answer:
            raise getattr(errors, answer["error"])(answer["what"], cure=answer["cure"])
        return answer

    def _failure(self, late: bool) -> TrialFailed:
        try:  # its answers end a little before it does
            status = self._process.wait(_LAST_WORDS)
        except subprocess.TimeoutExpired:
            self._kill()
            status = self._process.wait()
        said = self._log.read_text(encoding="utf-8", errors="replace")[-_TAIL:]
        last = next((line.strip() for line in reversed(said.splitlines()) if line.strip()), "")
        if late:
            return TrialFailed("no answer", f"for {self._patience:g} s")
        if "bad_alloc" in said:
            return TrialFailed("out of memory", last)
        if status == -signal.SIGKILL:
            return TrialFailed("out of memory", "it was killed, as a system does that runs out")
        return TrialFailed("crashed", last or f"exit status {status}")

    def _kill(self) -> None:
        if self._process.poll() is not None:  # its number may be another's by now
            return
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)


@dataclass
class Record:
    """What is known of a setting that was tried.

    Attributes:
        rounds: measured so far.
        peak: most bytes taken; 0 where it did not get so far.
        start: seconds of its first two steps, compilation included.
        failed: how it ended, where it did not run.
    """

    rounds: list[Measured] = dataclasses.field(default_factory=list)
    peak: int = 0
    start: float = 0.0
    failed: TrialFailed | None = None


class Trials:
    """Measures settings of one recipe; a few processes are kept for the next round.

    Args:
        given: resolved but for what is chosen.
        scratch: an empty folder.
        memory: bytes of the machine's memory that may be taken, or None.
        reserve: part of a device's memory that is to stay free.
        patience: seconds to wait for an answer.
        seconds: of a round, at least.

    Attributes:
        records: by setting.
        kept: processes that may be alive at a time.
    """

    def __init__(
        self,
        given: Recipe,
        scratch: Path,
        memory: int | None,
        reserve: float,
        patience: float,
        seconds: float,
    ) -> None:
        self._given, self._scratch = given, scratch
        self._memory, self._reserve, self._patience = memory, reserve, patience
        self._alive: OrderedDict[Setting, TrialProcess] = OrderedDict()
        self._round = seconds
        self._count = 0
        self.records: dict[Setting, Record] = {}
        self.kept = 1

    def first(self) -> Facts:
        """Return what the recipe finds as it is, whether or not it then runs.

        The process ends with that: it has looked into every image and holds some of them, which
        the others need not, and so takes other memory than they.

        Raises:
            LuthierError: the recipe cannot be run. CommandFailedError: it crashes before it trains.
        """
        try:
            process = self._start({})
        except TrialFailed as failed:
            raise CommandFailedError(
                f"the recipe cannot be tried: {failed.outcome}: {failed.detail}",
                cure="see what luthier finetune says of it",
            ) from failed
        process.close()
        if process.facts.of_device == "cpu" and self._memory is not None:
            self._memory = process.facts.memory
        return process.facts

    def peak(self, setting: Setting) -> int | None:
        """Return the most bytes that a setting takes; None where that is more than there is.

        Raises:
            TrialFailed: it failed otherwise.
        """
        record = self.records.get(setting) or self._begun(setting)
        if record.failed is not None:
            if record.failed.outcome != "out of memory":
                raise record.failed
            return None
        return record.peak

    def measure(self, setting: Setting) -> Measured:
        """Train for a round.

        Raises:
            TrialFailed: it failed, now or before.
        """
        record = self.records.get(setting)
        if record is None or (record.failed is None and setting not in self._alive):
            record = self._begun(setting)
        if record.failed is not None:
            raise record.failed
        self._alive.move_to_end(setting)
        try:
            measured = self._alive[setting].measure(self._round)
        except TrialFailed as failed:
            record.failed = failed
            self._alive.pop(setting).close()
            raise
        record.rounds.append(measured)
        record.peak = max(record.peak, measured.peak)
        return measured

    def close(self) -> None:
        """End every trial."""
        while self._alive:
            self._alive.popitem()[1].close()

    def _begun(self, setting: Setting) -> Record:
        while len(self._alive) >= self.kept:
            self._alive.popitem(last=False)[1].close()
        try:
            process = self._start(setting.as_dict())
        except TrialFailed as failed:
            self.records[setting] = record = Record(failed=failed)
            return record
        return self._begin(setting, process)

    def _begin(self, setting: Setting, process: TrialProcess) -> Record:
        record = self.records.setdefault(setting, Record())
        self._alive[setting] = process
        try:
            record.peak, record.start = process.begin()
        except TrialFailed as failed:
            record.failed = failed
            self._alive.pop(setting).close()
        return record

    def _start(self, changes: dict[str, Any]) -> TrialProcess:
        self._count += 1
        request = {
            "recipe": recipe.to_toml(recipe.replace(self._given, **changes)),
            "scratch": str(self._scratch / f"trial-{self._count}"),
            "inventory": str(self._scratch / "inventory.json"),
            "memory": self._memory,
            "reserve": self._reserve,
        }
        return TrialProcess(request, self._scratch / f"trial-{self._count}.txt", self._patience)
