"""``prove``: a run that is killed again and again ends with the bits of one that is not."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from luthier import devices, recipe
from luthier.errors import CommandFailedError, RecipeError
from luthier.run.bitwise import Difference, compare_runs, probable_cause
from luthier.run.folder import RunFolder, free_folder, new_run
from luthier.run.peers import REDIRECT
from luthier.run.trace import KERNELS, TRACE

_GLANCE = 0.001  # seconds between two looks at a process that is to be killed
_ROUNDS = 5  # without a kill
_NAP = 0.5  # seconds that what was stopped by mistake stays so
_INSIDE = 0.01  # seconds into a save, at most, at which it is killed


@dataclass(frozen=True)
class Proof:
    """What ``prove`` found.

    Attributes:
        identical: whether every bit is the same.
        kills: how many kills there were, and how many of them in the middle of a save.
        differences: what differs, the first first.
        cause: what probably causes it; empty where nothing differs.
        summary: what was compared.
        folder: where the runs are.
    """

    identical: bool
    kills: tuple[int, int]
    differences: tuple[Difference, ...]
    cause: str
    summary: str
    folder: Path

    def __str__(self) -> str:
        total, saving = self.kills
        how = f"{total} kills, {saving} of them while a checkpoint was written"
        if self.identical:
            return f"identical after {how}: {self.summary}"
        shown = "\n".join(f"  {difference}" for difference in self.differences[:8])
        return f"DIFFERENT after {how}: {self.summary}\n{shown}\nprobable cause: {self.cause}"

    def as_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {
            "identical": self.identical,
            "kills": self.kills[0],
            "kills_while_saving": self.kills[1],
            "differences": [str(difference) for difference in self.differences],
            "cause": self.cause,
            "summary": self.summary,
            "folder": str(self.folder),
        }


@dataclass(frozen=True)
class Subject:
    """What is proved.

    Attributes:
        start: the command that begins a run whose folder, or folder of runs, is the path.
        resume: the command that continues it.
    """

    start: Callable[[Path], Sequence[str]]
    resume: Callable[[Path], Sequence[str]]


def prove(
    data: str | Path | None = None,
    *,
    command: Sequence[str] = (),
    kills: int = 5,
    out: str | Path | None = None,
    flags: Sequence[str] = (),
    say: Callable[[str], object] = lambda line: print(line, file=sys.stderr, flush=True),
) -> Proof:
    """Run something once uninterrupted and once killed at random moments, and compare the bits.

    Args:
        data: of ``luthier finetune``; or
        command: any program that uses ``luthier.Run``, as a list of words.
        kills: SIGKILLs, at random moments of training and in the middle of saves by turns.
        out: a new folder for the runs; ``runs/proof`` by default.
        flags: of ``luthier finetune``, such as ``["--strategy", "frozen"]``.
        say: takes a line for each thing done.

    Raises:
        RecipeError: both or neither of ``data`` and ``command``.
        CommandFailedError: the uninterrupted run failed by itself.
    """
    if (data is None) == (not command):
        raise RecipeError("give either DATA with flags, or -- and a command")
    if kills < 1:
        raise RecipeError(f"--kills {kills}: there must be one at least")
    folder = new_run(Path(out) if out else free_folder(Path("runs/proof")), "proof").path
    folder.mkdir(parents=True, exist_ok=True)
    whole = folder / "whole"
    subject = _finetune(data, flags, whole) if data is not None else _script(command)
    # All runs on one device; those of a program of the user's are started as they stand.
    asked = "auto" if data is not None and "--device" not in flags else "cpu"
    with devices.hold(asked, say=say):
        return _proof(subject, folder, kills, say)


def _proof(subject: Subject, folder: Path, kills: int, say: Callable[[str], object]) -> Proof:
    whole = folder / "whole"
    say(f"uninterrupted, in {whole}")
    seconds = _run_whole(subject, whole)
    say(f"  {seconds:.1f} s of training")
    landed, summary = _Kills(), ""
    differences: list[Difference] = []
    rounds = _rounds(subject, folder, seconds, kills, landed, say)
    for killed in rounds:
        differences, summary = compare_runs(_runs_in(whole), _runs_in(killed))
        if differences:
            break
    cause = ""
    if differences:
        cause = probable_cause(*_diagnose(subject, folder, whole, killed, say))
    counts = landed.total, landed.saving
    return Proof(not differences, counts, tuple(differences), cause, summary, folder)


def _finetune(data: str | Path, flags: Sequence[str], whole: Path) -> Subject:
    luthier = [sys.executable, "-m", "luthier"]

    def start(run: Path) -> Sequence[str]:
        words = [*luthier, "finetune", str(data), *flags, "--out", str(run / "run")]
        chosen = RunFolder(whole / "run").recipe
        if chosen.exists():  # the precision is measured, and is to be that of the first run
            words += ["--precision", str(recipe.read(chosen).machine.precision)]
        return words

    return Subject(start=start, resume=lambda run: [*luthier, "resume", str(run / "run")])


def _script(command: Sequence[str]) -> Subject:
    return Subject(start=lambda _run: command, resume=lambda _run: command)


def _runs_in(folder: Path) -> dict[str, RunFolder]:
    """Return the runs below a folder, by name: a program may have several."""
    places = [path.parent for path in sorted(folder.glob("*/checkpoints"))]
    return {place.name: RunFolder(place) for place in places}


class _Process:
    """A run in a process group of its own, so that its workers die with it."""

    def __init__(self, words: Sequence[str], folder: Path, trace: str = "steps") -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.said = " ".join(words)
        environment = {**os.environ, REDIRECT: str(folder), TRACE: trace}
        self._log = folder / "output.txt"
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(
                list(words), env=environment, stdout=log, stderr=log, start_new_session=True
            )
        self.folder = folder
        self._woken = time.monotonic()
        self._before = self._metrics()

    def _metrics(self) -> dict[Path, int]:
        return {path: path.stat().st_ino for path in self.folder.glob("*/metrics.jsonl")}

    def trains(self) -> bool:
        """Tell whether training has begun: it begins with a metrics file of its own."""
        return self._metrics() != self._before

    def saves(self) -> bool:
        """Tell whether a checkpoint, or a probe's features, is being written at this moment."""
        return any(
            any(self.folder.glob(f"*/{place}"))
            for place in ("checkpoints/.tmp-step-*", "features/.tmp-*")
        )

    def until(self, condition: Callable[[], bool]) -> bool:
        """Wait for a condition; False if the process ends before."""
        while self.process.poll() is None:
            if condition():
                return True
            time.sleep(_GLANCE)
        return False

    def signal(self, number: int) -> None:
        """Send a signal to it and its workers."""
        os.killpg(self.process.pid, number)

    def begins_to_save(self) -> bool:
        """Tell whether a checkpoint is being written, and let what is stopped go on now and then.

        A worker that is just being forked may be stopped with its group and not continued with
        it, and all the others would wait for it without end.
        """
        if time.monotonic() - self._woken > _NAP:
            self._woken = time.monotonic()
            self.signal(signal.SIGCONT)
        return self.saves()

    def kill(self) -> None:
        """End it as a crash would."""
        self.signal(signal.SIGKILL)
        self.process.wait()

    def finish(self) -> None:
        """Wait for its end.

        Raises:
            CommandFailedError: it failed.
        """
        try:
            status = self.process.wait()
        except BaseException:
            self.kill()
            raise
        if status:
            said = self._log.read_text(encoding="utf-8", errors="replace").splitlines()
            raise CommandFailedError(
                f"{self.said} ended with exit status {status}:\n"
                + "\n".join(f"  {line}" for line in said[-8:])
            )


def _run_whole(subject: Subject, folder: Path, trace: str = "steps") -> float:
    process = _Process(subject.start(folder), folder, trace)
    process.until(process.trains)
    began = time.monotonic()
    process.finish()
    if not _runs_in(folder):
        raise CommandFailedError(
            f"{process.said} ended without a run",
            cure="the program must use luthier.Run, and not change LUTHIER_RUNS",
        )
    return time.monotonic() - began


@dataclass
class _Kills:
    total: int = 0
    saving: int = 0


def _rounds(
    subject: Subject,
    folder: Path,
    seconds: float,
    kills: int,
    landed: _Kills,
    say: Callable[[str], object],
) -> Iterator[Path]:
    """Run, kill and resume to the end, until there were so many kills; yield each round's folder.

    A round that ends before its kills have landed is followed by another.
    """
    number = 0
    while landed.total < kills:
        number += 1
        if number > _ROUNDS and not landed.total:
            raise CommandFailedError(
                f"{_ROUNDS} runs ended before a kill could land",
                cure="let it train for longer, or save more often",
            )
        place = folder / ("killed" if number == 1 else f"killed-{number}")
        left = kills - landed.total
        say(f"killed at random moments, in {place}")
        words = subject.start(place)
        for index in range(left):
            longest = 2 * seconds / (left + 1)
            if not _kill_once(words, place, longest, index % 2 == 1, landed, say):
                break
            begun = any(place.glob("*/recipe.toml"))  # it may have no checkpoint yet
            words = subject.resume(place) if begun else subject.start(place)
        else:
            _Process(words, place).finish()
        yield place


def _kill_once(
    words: Sequence[str],
    place: Path,
    longest: float,
    while_saving: bool,
    landed: _Kills,
    say: Callable[[str], object],
) -> bool:
    process = _Process(words, place)
    try:
        killed = _kill_at_random(process, longest, while_saving, landed, say)
    except BaseException:
        process.kill()
        raise
    if not killed:
        process.finish()
    return killed


def _kill_at_random(
    process: _Process,
    longest: float,
    while_saving: bool,
    landed: _Kills,
    say: Callable[[str], object],
) -> bool:
    if not process.until(process.trains):
        return False
    at = time.monotonic() + random.uniform(0, longest)  # noqa: S311 - no secret
    if not process.until(lambda: time.monotonic() >= at):
        return False
    if while_saving and not _is_stopped_in_a_save(process):
        return False
    saving = process.saves()
    process.kill()
    landed.total += 1
    landed.saving += saving
    say(f"  kill {landed.total}{', while a checkpoint was written' if saving else ''}")
    return True


def _is_stopped_in_a_save(process: _Process) -> bool:
    longest = _INSIDE
    while process.until(process.begins_to_save):
        time.sleep(random.uniform(0, longest))  # noqa: S311 - no secret
        process.signal(signal.SIGSTOP)  # else the save might end between a look and the kill
        if process.saves():
            return True
        process.signal(signal.SIGCONT)
        longest /= 2  # it was over too soon
    return False


def _diagnose(
    subject: Subject, folder: Path, whole: Path, killed: Path, say: Callable[[str], object]
) -> tuple[list[RunFolder], list[RunFolder], list[RunFolder], list[str]]:
    say("different: once more, uninterrupted, to see whether that gives the same bits")
    again = folder / "whole-again"
    _run_whole(subject, again)
    say("and once more, to hear from torch which operations are not deterministic")
    _run_whole(subject, folder / "kernels", "kernels")
    named = [
        line
        for path in sorted((folder / "kernels").glob(f"*/{KERNELS}"))
        for line in path.read_text(encoding="utf-8").splitlines()
    ]
    runs = [list(_runs_in(place).values()) for place in (whole, killed, again)]
    return runs[0], runs[1], runs[2], named
