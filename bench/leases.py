"""Eight processes ask for four cards at once, and some die: is any card ever held twice, or lost?

    python bench/leases.py [--rounds 500] [--seed 1] [--out FILE]

In each round eight real processes ask for one to four cards, hold them for some milliseconds and
end; three of them die by SIGKILL: while they hold, while they wait, at any line of acquiring, or at
any moment from outside. In two of five rounds some share cards and promise how much memory they
take; in one of these some are ``luthier run``, of which the command lives on when it is killed.

What is found out, is found out without luthier's own files: a process locks a file of its own for
each card that it has (a byte range, which a command does not inherit), and keeps a record of what
it does and when. From the records follows who surely held what at one time, and whether one was
served before another that had been waiting when it came. When all have ended, all four cards must
be had at once. The pause between two looks of one that waits is shortened for some, so that more of
them meet.

Processes are forked from one that has luthier imported.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import fcntl
import json
import os
import platform
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from luthier.accelerators import Accelerator, Leases, Request, Survey, launch, leases, nvml
from luthier.accelerators.visible import VISIBLE
from luthier.errors import LuthierError

GIB = 2**30
CARDS, PROCESSES, VICTIMS = 4, 8, 3
PATIENCE = 60.0  # seconds in which everyone that lives must have had its cards
LATEST = 0.05  # seconds after the first at which one asks, in every other round
COMMANDS = 0.4  # seconds in which others come where there are commands, which are slow to start
LINES = 800  # of luthier, within which a process dies that dies while it acquires
_NOW = fcntl.LOCK_NB
_SUBREAPER = 36  # of prctl: orphans become children of this process
UUIDS = [f"GPU-{number:08x}-1234-5678-9abc-def012345678" for number in range(CARDS)]
FOUND = Survey(
    tuple(
        Accelerator(number, uuid, "Stand-in", total=80 * GIB, free=80 * GIB, utilisation=0)
        for number, uuid in enumerate(UUIDS)
    )
)


@dataclass
class Tally:
    """What came of the rounds."""

    rounds: int = 0
    served: int = 0
    kills: int = 0
    while_holding: int = 0
    while_waiting: int = 0
    while_acquiring: int = 0
    runs_killed: int = 0
    shared: int = 0
    queued: int = 0
    double: list[str] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    starved: list[str] = field(default_factory=list)
    overtaken: list[str] = field(default_factory=list)
    left: int = 0

    @property
    def wrong(self) -> list[str]:
        """What went wrong, in words."""
        return [*self.double, *self.lost, *self.starved, *self.overtaken]

    def __str__(self) -> str:
        return (
            f"{self.rounds} rounds of {PROCESSES} processes for {CARDS} cards; {self.kills} kills"
            f" ({self.while_holding} of those that held, {self.while_waiting} that waited,"
            f" {self.while_acquiring} in the middle of acquiring, {self.runs_killed} of luthier run"
            f" under its command); {self.served} leases, {self.shared} of them shared,"
            f" {self.queued} after a wait; {len(self.double)} double holders, {len(self.lost)} lost"
            f" cards, {len(self.starved)} starved, {len(self.overtaken)} overtaken;"
            f" {self.left} files are left"
        )


@dataclass(frozen=True)
class Plan:
    """What one process does.

    Attributes:
        count: cards that it asks for.
        hold: seconds for which it holds them.
        pause: seconds between two looks while it waits.
        share: bytes that it promises; None takes cards alone.
        fate: where it dies: "holding", "waiting", "acquiring", "outside"; None is by itself.
        when: the line of acquiring, or the second of the round, at which it dies.
        delay: seconds before it asks.
        by_run: it is ``luthier run``, and what holds is its command.
    """

    count: int
    hold: float
    pause: float
    share: int | None = None
    fate: str | None = None
    when: float = 0.0
    delay: float = 0.0
    by_run: bool = False


def plans(number: int, chance: random.Random) -> list[Plan]:
    """Return what the processes of a round do."""
    kind = {3: "shared", 4: "run"}.get(number % 5)
    fated = chance.sample(range(PROCESSES), VICTIMS)
    late = number % 2 * LATEST
    return [_plan(one in fated, kind, late, chance) for one in range(PROCESSES)]


def _plan(dies: bool, kind: str | None, late: float, chance: random.Random) -> Plan:
    by_run = kind == "run" and chance.random() < 0.5
    fates = ["holding", "waiting", "acquiring", "outside", *["holding"] * 4 * by_run]
    fate = chance.choice(fates) if dies else None
    sharing = kind is not None and chance.random() < 0.8
    return Plan(
        count=chance.choice([1, 1, 1, 2, 4]),
        hold=chance.uniform(0, 0.1 if kind == "shared" else 0.02),
        pause=chance.choice([0.001, 0.01, 0.25]),
        share=chance.choice([20, 30, 50]) * GIB if sharing else None,
        fate=fate,
        when=chance.uniform(0, 2 * LATEST) if fate == "outside" else chance.randrange(LINES),
        delay=0.0 if by_run else chance.uniform(0, COMMANDS if kind == "run" else late),
        by_run=by_run,
    )


# --- one process --------------------------------------------------------------------------------


class Record:
    """What a process does, and when, a line each; it outlives a SIGKILL."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def __call__(self, event: str, more: object = None) -> None:
        line = json.dumps([time.monotonic(), event, more]) + "\n"
        os.write(self._file, line.encode())


class Witness:
    """Locks on files of its own, one for each card, that tell whether somebody else has it.

    The files are opened before anything is leased: a process that ends closes them first.
    """

    def __init__(self, folder: Path) -> None:
        flags = os.O_RDWR | os.O_CREAT
        self._files = {uuid: os.open(folder / f"witness-{uuid}", flags) for uuid in UUIDS}

    def has(self, uuids: Sequence[str], shared: bool) -> None:
        """Lock; a BlockingIOError says that another has a card."""
        for uuid in uuids:
            fcntl.lockf(self._files[uuid], (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | _NOW)

    def leaves(self) -> None:
        """Unlock."""
        for file in self._files.values():
            fcntl.lockf(file, fcntl.LOCK_UN)


def ask(plan: Plan, folder: Path, log: Path) -> int:
    """Lease, hold and give back, or die of it."""
    witness, record = Witness(folder), Record(log)
    time.sleep(plan.delay)
    leases._PAUSE = plan.pause
    request = Request(plan.count, share=plan.share)
    look, say = _heard(plan, record)
    if plan.fate == "acquiring":
        sys.settrace(_until(int(plan.when), record))
    record("asks")
    if plan.by_run:  # with this file as its command
        nvml.survey = lambda: look()[0]
        os.environ.pop(VISIBLE, None)
        os.environ[leases.FOLDER] = str(folder / "leases")
        told = json.dumps([plan.count, plan.hold, plan.share, plan.fate])
        command = [sys.executable, __file__, "--command", told, str(folder), str(log)]
        return launch(command, request, wait=PATIENCE, say=say)
    lease = Leases(folder / "leases").acquire(look, request, wait=PATIENCE, say=say)
    sys.settrace(None)
    _hold(plan, [a.uuid for a in lease.accelerators], witness, record)
    lease.release()
    return 0


def be_command(told: str, folder: Path, log: Path) -> None:
    """Be the command of ``luthier run``."""
    count, hold, share, fate = json.loads(told)
    plan = Plan(count, hold, 0.0, share, fate, by_run=True)
    with _failures(log):
        _hold(plan, os.environ[VISIBLE].split(","), Witness(folder), Record(log))


def _hold(plan: Plan, uuids: Sequence[str], witness: Witness, record: Record) -> None:
    record("has", uuids)
    witness.has(uuids, plan.share is not None)
    if plan.fate == "holding":
        time.sleep(plan.hold / 2)
        if not plan.by_run:
            _die(record, "holding")
        record("kills")
        os.kill(os.getppid(), signal.SIGKILL)
        time.sleep(COMMANDS)  # in which others look
    time.sleep(plan.hold)
    record("leaves")
    witness.leaves()


def _die(record: Record, where: str) -> NoReturn:
    record("dies", where)
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("alive after a SIGKILL")


def _heard(plan: Plan, record: Record) -> tuple[Callable[[], Any], Callable[[str], None]]:
    waits = False

    def look() -> Any:
        record("looks")
        if waits and plan.fate == "waiting":
            _die(record, "waiting")
        return FOUND, FOUND.usable

    def say(line: str) -> None:
        nonlocal waits
        if line.startswith("waiting"):
            record("waits")
            waits = True

    return look, say


def _until(line: int, record: Record) -> Callable[[FrameType, str, Any], Any]:
    """Return a tracer that dies at a line of luthier's."""
    left = line

    def trace(frame: FrameType, event: str, _more: Any) -> Any:
        nonlocal left
        if "accelerators" not in frame.f_code.co_filename:
            return None
        left -= event == "line"
        if left < 0:
            sys.settrace(None)
            _die(record, f"acquiring, {frame.f_code.co_name}:{frame.f_lineno}")
        return trace

    return trace


@contextlib.contextmanager
def _failures(log: Path) -> Iterator[None]:
    try:
        yield
    except BaseException:
        log.with_suffix(".failed").write_text(traceback.format_exc())
        raise


def start(plan: Plan, folder: Path, log: Path) -> int:
    """Fork a process."""
    child = os.fork()
    if child:
        return child
    status = 1
    with contextlib.suppress(BaseException), _failures(log):
        status = ask(plan, folder, log)
    os._exit(status)


# --- one round ----------------------------------------------------------------------------------


@dataclass
class Life:
    """What became of a process.

    Attributes:
        plan: what it was to do.
        events: what it did: seconds, word, more.
        status: with which it ended.
        killed: the second at which it was killed from outside, or None.
        failed: a traceback, or nothing.
    """

    plan: Plan
    events: list[tuple[float, str, Any]] = field(default_factory=list)
    status: int | None = None
    killed: float | None = None
    failed: str = ""

    def last(self, word: str) -> float | None:
        """Return when something was done last, or None."""
        return next((when for when, event, _ in reversed(self.events) if event == word), None)

    @property
    def cards(self) -> list[str]:
        """UUIDs of what it had."""
        return next((more for _, event, more in self.events if event == "has"), [])

    def held(self) -> tuple[float, float]:
        """Return from when to when it surely had them."""
        ends = [self.last("leaves")]
        if not self.plan.by_run:  # a command lives on
            ends += [self.last("dies"), self.killed]
        return self.last("has") or 0.0, min(end for end in ends if end is not None)

    def ended(self) -> str | None:
        """Return what it was at when it was killed; None if it was not."""
        if self.status != -signal.SIGKILL:
            return None
        done = [event for _, event, _ in self.events if event not in ("dies", "kills")]
        if "has" in done:
            return "run" if self.plan.by_run else "holding" if "leaves" not in done else "leaving"
        at_a_line = self.plan.fate == "acquiring" and self.last("dies")
        return "waiting" if "waits" in done and not at_a_line else "acquiring"


def one_round(planned: Sequence[Plan], folder: Path) -> list[Life]:
    """Let processes ask and die, and return their lives when all, commands too, have ended."""
    place = folder / "round"
    place.mkdir()
    logs = [place / f"{number}.log" for number in range(len(planned))]
    lives = [Life(plan) for plan in planned]
    began = time.monotonic()
    children = {
        start(p, folder, log): n for n, (p, log) in enumerate(zip(planned, logs, strict=True))
    }
    doomed = {pid: began + planned[n].when for pid, n in children.items() if _outside(planned[n])}
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            break
        if pid in children:
            lives[children.pop(pid)].status = os.waitstatus_to_exitcode(status)
        for victim in [v for v, when in doomed.items() if when <= time.monotonic()]:
            del doomed[victim]
            if victim in children:
                lives[children[victim]].killed = time.monotonic()
                os.kill(victim, signal.SIGKILL)
        if not pid:
            time.sleep(0.001)
    for life, log in zip(lives, logs, strict=True):
        if log.exists():
            life.events = [tuple(json.loads(line)) for line in log.read_text().splitlines()]
        failed = log.with_suffix(".failed")
        life.failed = failed.read_text() if failed.exists() else ""
    shutil.rmtree(place)
    return lives


def _outside(plan: Plan) -> bool:
    return plan.fate == "outside"


def held_twice(lives: Sequence[Life]) -> list[str]:
    """Return where more was surely held of a card at one time than there is."""
    found = [life.failed for life in lives if "BlockingIOError" in life.failed]
    for uuid in UUIDS:
        moments = []
        for life in lives:
            if uuid in life.cards and not life.failed:
                begin, end = life.held()
                much = FOUND.accelerators[0].total if life.plan.share is None else life.plan.share
                moments += [(begin, much), (max(begin, end), -(much or 0))]
        now = 0
        for _, change in sorted(moments):
            now += change or 0
            if now > 80 * GIB:
                found.append(f"{uuid}: {now / GIB:.0f} GiB of 80 held at once")
    return found


def overtaken(lives: Sequence[Life]) -> list[str]:
    """Return who was served before one that had been waiting when it came."""
    found = []
    for first in lives:
        waits, looked = first.last("waits"), first.last("looks")
        for later in lives:
            asks, has = later.last("asks"), later.last("has")
            if None not in (waits, looked, asks, has) and waits < asks and has < looked:
                found.append(f"waiting since {waits}, looked {looked}; came {asks}, had {has}")
    return found


def judge(lives: Sequence[Life], folder: Path, tally: Tally) -> None:
    """Add a round to the tally."""
    tally.rounds += 1
    for life in lives:
        end = life.ended()
        tally.kills += end is not None
        tally.while_holding += end == "holding"
        tally.while_waiting += end == "waiting"
        tally.while_acquiring += end == "acquiring"
        tally.runs_killed += end == "run"
        tally.served += bool(life.cards)
        tally.shared += bool(life.cards and life.plan.share)
        tally.queued += bool(life.cards and life.last("waits"))
        if life.failed or (end is None and life.status != 0):
            tally.starved.append(life.failed or f"ended with {life.status}: {life.plan}")
        elif len(set(life.cards)) not in {life.plan.count, 0 if end else life.plan.count}:
            tally.starved.append(f"had {life.cards}: {life.plan}")
    tally.double += held_twice(lives)
    tally.overtaken += overtaken(lives)
    try:
        all_of_them = Request(CARDS)
        Leases(folder / "leases").acquire(lambda: (FOUND, FOUND.usable), all_of_them).release()
    except LuthierError as error:
        tally.lost.append(str(error))
    tally.left = len(list((folder / "leases").iterdir()))


def measure(
    rounds: int, seed: int, folder: Path, tell: Callable[[Tally], object] = lambda _tally: None
) -> Tally:
    """Play rounds; ``tell`` hears after each."""
    chance, tally = random.Random(seed), Tally()
    if ctypes.CDLL(None).prctl(_SUBREAPER, 1, 0, 0, 0):
        raise SystemExit("this system does not hand orphans over: Linux is needed")
    for number in range(rounds):
        judge(one_round(plans(number, chance), folder), folder, tally)
        tell(tally)
    return tally


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=500)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--command", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.command:
        told, folder, log = arguments.command
        be_command(told, Path(folder), Path(log))
        return
    began = time.monotonic()

    def write(tally: Tally) -> None:
        lines = [
            f"{described()}, seed {arguments.seed}",
            str(tally),
            *tally.wrong[:10],
            f"{time.monotonic() - began:.0f} s",
        ]
        if arguments.out:
            arguments.out.write_text("\n".join(lines) + "\n")

    with tempfile.TemporaryDirectory(prefix="leases-") as place:
        tally = measure(arguments.rounds, arguments.seed, Path(place), write)
    print(tally, *tally.wrong[:3], sep="\n")
    raise SystemExit(bool(tally.wrong))


def described() -> str:
    """Return on what this runs."""
    system = f"{platform.system()} {platform.release().split('.')[0]}"
    return f"{system}, {len(os.sched_getaffinity(0))} cores, Python {platform.python_version()}"


if __name__ == "__main__":
    main()
