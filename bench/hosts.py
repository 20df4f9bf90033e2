"""Random deaths of ranks, agents and hosts, and cut links: does every job end with nothing lost?

    python bench/hosts.py [--kills 100] [--seed 1] [--out FILE]

Hosts are network namespaces with links to a switch, on which the rendezvous stands; each has a
``torchrun`` for some ranks of ``luthier finetune``. In a job of one to three hosts and one to four
ranks these things happen at random moments, a few times in each: a rank gets a SIGKILL, or an
agent, or everything on a host; a link is down for a second, or until those who are cut off have
ended. What stands in for a cluster's scheduler ends what an agent has left, and starts again what
has ended before its time. In half of the jobs the number of processes is fixed: their bits must be
those of a job that nothing happened to. In the others whoever is there goes on. In all of them each
step must be in the metrics once, with the loss of one process. After everything that happened each
checkpoint that has its final name must verify.

The agents are torch's own, forked from a process that has torch imported, as are their ranks.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import json
import math
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import kills
import torch
from kills import write_images
from torch.distributed.launcher.api import launch_agent
from torch.distributed.run import config_from_args, get_args_parser

from luthier import checkpoint
from luthier.cli.main import main as luthier
from luthier.errors import DamagedError
from luthier.run.bitwise import compare_runs
from luthier.run.folder import RunFolder

TESTS = Path(__file__).parent.parent / "tests"
sys.path.insert(0, str(TESTS))

import namespaces  # noqa: E402 - the tests have it
from namespaces import Host, Network  # noqa: E402

KINDS = ("rank", "agent", "host", "link for a second", "link until noticed")
HOSTS, RANKS = 3, 4
PATIENCE = 150.0  # seconds in which a job must have gone on
TRAINING = 4.0  # seconds after its start within which something happens to a job
EPOCHS = 24
_NEWNET = 0x40000000  # of setns
_LIBC = ctypes.CDLL(None, use_errno=True)
ENVIRONMENT = namespaces.ENVIRONMENT | {"LUTHIER_SILENCE": "2"}
FLAGS = [
    *("--model", "trial_models:Slow", "--head-module", "fc3", "--weights", "none"),
    *("--image-size", "32", "--batch-size", "12", "--epochs", str(EPOCHS), "--workers", "0"),
    *("--precision", "fp32", "--save-every", "3 steps"),
]


@dataclass
class Tally:
    """What came of what happened."""

    happened: dict[str, int] = field(default_factory=lambda: dict.fromkeys(KINDS, 0))
    while_saving: int = 0
    runs: int = 0
    fixed: int = 0
    starts: int = 0
    checkpoints: int = 0
    noticed: list[float] = field(default_factory=list)
    resumed: list[float] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)
    stuck: list[str] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    differing: list[str] = field(default_factory=list)

    @property
    def kills(self) -> int:
        return sum(self.happened.values())

    @property
    def wrong(self) -> list[str]:
        return [*self.unreadable, *self.stuck, *self.lost, *self.differing]

    def __str__(self) -> str:
        return (
            f"{self.kills} deaths and cuts ({self.while_saving} while a checkpoint was written) in"
            f" {self.runs} jobs of 1 to {HOSTS} hosts and 1 to {RANKS} ranks, {self.fixed} of them"
            f" at a fixed number of processes; {self.starts} starts of agents;"
            f" {self.checkpoints} checkpoints looked at: {len(self.unreadable)} unreadable;"
            f" {len(self.stuck)} jobs did not end, {len(self.lost)} lost or repeated a step,"
            f" {len(self.differing)} of fixed size ended with differing bits"
        )

    def table(self) -> list[str]:
        """Return what happened how often, and how long it took."""
        lines = [f"{kind:<20} {count:>4}" for kind, count in self.happened.items()]
        for name, seconds in (
            ("cut off → ended", self.noticed),
            ("any → the next step", self.resumed),
        ):
            if seconds:
                known = sorted(seconds)
                middle, most = known[len(known) // 2], known[-1]
                lines.append(f"{name:<20} median {middle:.1f} s, at most {most:.1f} s")
        return lines


@dataclass(frozen=True)
class Plan:
    """A job: ranks on each host, and whether all must be there."""

    ranks: tuple[int, ...]
    fixed: bool

    @classmethod
    def random(cls, chance: random.Random) -> Plan:
        hosts = chance.randint(1, HOSTS)
        ranks = [1] * hosts
        for _ in range(chance.randint(0, RANKS - hosts)):
            ranks[chance.randrange(hosts)] += 1
        return cls(tuple(ranks), chance.random() < 0.5)

    @property
    def size(self) -> int:
        return sum(self.ranks)

    @property
    def hosts(self) -> str:
        return str(len(self.ranks)) if self.fixed else f"1:{HOSTS}"


class Job:
    """A job on hosts, and what stands in for the scheduler that keeps it going."""

    def __init__(
        self, plan: Plan, hosts: Sequence[Host], endpoint: str, images: Path, folder: Path
    ) -> None:
        self.plan, self.hosts, self.endpoint, self.folder = plan, hosts, endpoint, folder
        self.run = RunFolder(folder / "run")
        self.words = ["finetune", str(images), "--out", str(self.run.path), *FLAGS]
        self.agents: dict[int, int] = {}  # of a host, by its number
        self.down: set[int] = set()
        self.starts = 0
        folder.mkdir()

    def tend(self) -> None:
        """Start what has ended before its time."""
        for number, host in enumerate(self.hosts):
            if number in self.agents and kills.ended(self.agents[number]) is not None:
                del self.agents[number]
                _end(host.pids())
            if number not in self.agents and number not in self.down and not self.done:
                words = namespaces.torchrun(
                    host,
                    self.endpoint,
                    processes=self.plan.ranks[number],
                    hosts=self.plan.hosts,
                    restarts=100,
                    name=self.folder.name,
                )[3:]
                log = self.folder / f"{host.name}.log"
                self.agents[number] = start(host, words, self.words, log)
                self.starts += 1

    @property
    def done(self) -> bool:
        return self.run.summary.exists()

    def saves(self) -> bool:
        """Tell whether a checkpoint is being written."""
        return any(self.run.checkpoints.glob(".tmp-step-*"))

    def step(self) -> int:
        """Return how many lines of metrics there are."""
        with contextlib.suppress(OSError):
            return self.run.metrics.read_bytes().count(b"\n")
        return 0

    def ranks(self, number: int) -> list[int]:
        """Return the ranks on a host."""
        return [pid for pid in self.hosts[number].pids() if pid != self.agents.get(number)]

    def until(self, true: Callable[[], object], seconds: float = PATIENCE) -> bool:
        """Keep the job going until something is true, or the time is over."""
        end = time.monotonic() + seconds
        while not true():
            if time.monotonic() > end:
                return False
            self.tend()
            time.sleep(0.005)
        return True

    def end(self) -> None:
        """Wait for the agents of a job that is done; then end what is left."""
        self.until(lambda: not self.agents, 30)
        for number in list(self.agents):
            _end(self.hosts[number].pids())
            os.waitpid(self.agents.pop(number), 0)

    def said(self) -> str:
        logs = sorted(self.folder.glob("*.log"))
        return "\n".join(f"{log.name}: {log.read_text(errors='replace')[-3000:]}" for log in logs)


def start(host: Host, torchrun: Sequence[str], command: Sequence[str], log: Path) -> int:
    """Fork an agent on a host."""
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        os.setpgid(0, 0)
        place = os.open(f"/var/run/netns/{host.space}", os.O_RDONLY)
        if _LIBC.setns(place, _NEWNET):
            raise OSError(ctypes.get_errno(), "setns")
        said = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(said, 1)
        os.dup2(said, 2)
        os.environ |= ENVIRONMENT
        config, _, _ = config_from_args(get_args_parser().parse_args([*torchrun, "luthier"]))
        config.start_method = "fork"
        launch_agent(config, be_rank, [list(command)])
        status = 0
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else 1
    except BaseException as error:
        print(f"agent: {type(error).__name__}: {error}", file=sys.stderr)
    finally:
        os._exit(status)


def be_rank(command: list[str]) -> None:
    """Be a rank of an agent, which waits for what this returns where all is well."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    status = luthier(command)
    sys.stdout.flush()
    sys.stderr.flush()
    if status:
        os._exit(status)


def _end(pids: Sequence[int]) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


# --- what happens -------------------------------------------------------------------------------


def happen(kind: str, job: Job, chance: random.Random, tally: Tally) -> bool:
    """Let something happen to a job; return whether it could."""
    number = chance.randrange(len(job.hosts))
    host = job.hosts[number]
    if kind == "rank":
        ranks = job.ranks(number)
        if not ranks:
            return False
        _end([chance.choice(ranks)])
    elif kind == "agent":
        _end([job.agents[number]])
    elif kind == "host":
        _end(host.pids())
    else:
        if len(job.hosts) == 1 or not job.ranks(number):
            return False
        before = set(job.ranks(number))
        host.cut()
        job.down.add(number)
        began = time.monotonic()
        if kind == "link for a second":
            job.until(lambda: time.monotonic() > began + 1)
        elif job.until(lambda: not before & set(job.ranks(number)), 60):
            tally.noticed.append(time.monotonic() - began)
        host.mend()
        job.down.discard(number)
    return True


def look_at_checkpoints(job: Job, tally: Tally) -> None:
    """Verify every checkpoint that has its final name, and is still there."""
    for step in checkpoint.steps_in(job.run.checkpoints):
        path = checkpoint.directory_of(job.run.checkpoints, step)
        try:
            checkpoint.verify(path)
            tally.checkpoints += 1
        except (DamagedError, OSError) as error:
            if path.exists():
                tally.unreadable.append(str(error))


def one_job(job: Job, most: int, chance: random.Random, tally: Tally) -> None:
    """Let a few things happen to a job, and see it to its end."""
    tally.runs += 1
    tally.fixed += job.plan.fixed
    for _ in range(chance.randint(1, most)):
        moment = time.monotonic() + chance.uniform(0, TRAINING)
        saving = chance.random() < 0.3
        if not job.until(lambda: job.step() or job.done):
            break
        job.until(lambda when=moment: time.monotonic() > when or job.done, TRAINING)
        if saving:
            job.until(lambda: job.saves() or job.done, 3)
        if job.done:
            break
        now, began = job.saves(), time.monotonic()
        kind = chance.choice(KINDS)
        before = job.step()
        if not happen(kind, job, chance, tally):
            continue
        tally.happened[kind] += 1
        tally.while_saving += now
        look_at_checkpoints(job, tally)
        if not job.until(lambda before=before: job.step() > before or job.done):
            break
        if kind != "link for a second":
            tally.resumed.append(time.monotonic() - began)
    if not job.until(lambda: job.done):
        tally.stuck.append(f"{job.plan} did not end\n{job.said()}")
    job.end()
    tally.starts += job.starts
    look_at_checkpoints(job, tally)


def judge(job: Job, references: dict[int, RunFolder], tally: Tally) -> None:
    """Compare an ended job with one that nothing happened to."""
    if not job.done:
        return
    if job.plan.fixed:
        found, _ = compare_runs({"run": references[job.plan.size]}, {"run": job.run})
        tally.differing += [f"{job.plan}: {difference}" for difference in found[:1]]
    ours, theirs = (_lines(run) for run in (job.run, references[1]))
    if len(ours) != len(theirs):
        tally.lost.append(f"{job.plan}: {len(ours)} lines of metrics, expected {len(theirs)}")
    for number, (mine, other) in enumerate(zip(ours, theirs, strict=False), start=1):
        losses = mine.pop("loss", 0), other.get("loss", 0)
        rest = {k: v for k, v in other.items() if k != "loss"}
        if mine != rest or not math.isclose(*losses, rel_tol=1e-4):
            tally.lost.append(f"{job.plan}: line {number}: {losses}, {mine} for {rest}")
            break


def _lines(run: RunFolder) -> list[dict[str, Any]]:
    records = map(json.loads, run.metrics.read_text(encoding="utf-8").splitlines())
    return [{k: v for k, v in r.items() if k != "seconds"} for r in records]


def measure(
    wanted: int, seed: int, place: Path, tell: Callable[[Tally], object] = lambda _tally: None
) -> Tally:
    """Let things happen until there were so many; ``tell`` hears after each job."""
    chance, tally, references = random.Random(seed), Tally(), {}
    images = write_images(place / "images")
    with Network() as network:
        hosts = [network.host(name) for name in ("a", "b", "c")]
        endpoint = network.switchboard(place / "switch.log")
        for size in range(1, RANKS + 1):
            job = Job(Plan((size,), True), hosts[:1], endpoint, images, place / f"whole-{size}")
            if not job.until(lambda job=job: job.done):
                raise SystemExit(job.said())
            job.end()
            references[size] = job.run
        while tally.kills < wanted:
            plan = Plan.random(chance)
            mine = chance.sample(hosts, len(plan.ranks))
            job = Job(plan, mine, endpoint, images, place / f"job-{tally.runs}")
            one_job(job, min(4, wanted - tally.kills), chance, tally)
            judge(job, references, tally)
            shutil.rmtree(job.folder)
            tell(tally)
    return tally


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    if namespaces.why_not():
        raise SystemExit(namespaces.why_not())
    began = time.monotonic()

    def write(tally: Tally) -> None:
        lines = [f"torch {torch.__version__}, seed {arguments.seed}, LUTHIER_SILENCE=2"]
        lines += [str(tally), *tally.table()]
        lines += [*tally.wrong[:10], f"{time.monotonic() - began:.0f} s"]
        if arguments.out:
            arguments.out.write_text("\n".join(lines) + "\n")

    with tempfile.TemporaryDirectory(prefix="hosts-") as place:
        tally = measure(arguments.kills, arguments.seed, Path(place), write)
    print(tally, *tally.table(), *tally.wrong[:3], sep="\n")
    raise SystemExit(bool(tally.wrong))


if __name__ == "__main__":
    main()
