"""Whole processes, timed from outside, which report in one line of JSON what they timed inside."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.environment import SCRIPTS, hidden

_OFFLINE = {"HF_HUB_OFFLINE": "1", "PYTHONUNBUFFERED": "1"}


class FailedError(Exception):
    """A process ended without a report. Its message has the last lines of what it said."""


@dataclass(frozen=True)
class Taken:
    """One process.

    Attributes:
        command: seconds from its start to its end.
        report: what it printed; see ``compare/job.py``.
    """

    command: float
    report: dict[str, Any]

    @property
    def images_per_second(self) -> float:
        """Training images a second, over all epochs."""
        epochs = self.report["train"]
        return float(self.report["images"] * len(epochs) / sum(epochs))

    @property
    def epochs(self) -> float:
        """Seconds of all epochs, training and validation."""
        return float(sum(self.report["train"]) + sum(self.report["val"]))


@dataclass(frozen=True)
class Runner:
    """Runs scripts, each in a folder of its own that is removed afterwards.

    Attributes:
        python: of the environment.
        scratch: where the folders are made, and where the last failure's output stays.
        say: told of each process.
    """

    python: Path
    scratch: Path
    say: Callable[[str], None]

    def __call__(self, script: str, flags: dict[str, Any], title: str) -> Taken:
        """Run ``compare/SCRIPT.py`` with flags, and return what it took.

        Raises:
            FailedError: it failed, or printed no report.
        """
        with _folder(self.scratch) as out:
            words = [str(SCRIPTS / f"{script}.py"), "--out", str(out), *words_of(flags)]
            began = time.perf_counter()
            text = self.text(words)
            seconds = time.perf_counter() - began
        reports = [line for line in text.splitlines() if line.startswith("{")]
        if not reports:
            raise FailedError(f"{script} printed no report")
        taken = Taken(seconds, json.loads(reports[-1]))
        self.say(f"  {title}: {seconds:.1f} s")
        return taken

    def text(self, words: list[str]) -> str:
        """Return the standard output of a Python script.

        Raises:
            FailedError: it failed.
        """
        command = [str(self.python), *words]
        environment = os.environ | _OFFLINE
        done = subprocess.run(
            command, check=False, capture_output=True, text=True, env=environment, errors="replace"
        )
        if done.returncode:
            (self.scratch / "failure.txt").write_text(done.stdout + done.stderr, encoding="utf-8")
            last = " | ".join(done.stderr.strip().splitlines()[-2:])
            raise FailedError(f"{Path(words[0]).name} ended with {done.returncode}: {last}")
        return done.stdout


def words_of(flags: dict[str, Any]) -> list[str]:
    """Return flags as words; those that are None are left out."""
    given = {name: value for name, value in flags.items() if value is not None}
    return [word for name, value in given.items() for word in (f"--{name}", str(value))]


@contextlib.contextmanager
def _folder(scratch: Path) -> Any:
    made = Path(tempfile.mkdtemp(prefix="run-", dir=hidden(scratch)))
    try:
        yield made
    finally:
        shutil.rmtree(made, ignore_errors=True)
