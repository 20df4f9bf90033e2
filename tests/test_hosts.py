"""Jobs of several hosts: one is lost in the middle of an epoch, cut off, comes back, or joins."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import luthier
import namespaces
from luthier import checkpoint
from luthier.report import Console
from namespaces import Host, Network
from processes import Forked
from test_exactness import bits, differences

pytestmark = pytest.mark.skipif(bool(namespaces.why_not()), reason=namespaces.why_not())

TESTS = Path(__file__).parent
KNOBS: dict[str, Any] = {"model": "trial_models:Slow", "head_module": "fc3", "image_size": 32}
KNOBS |= {"batch_size": 5, "workers": 0, "weights": "none", "precision": "fp32"}
KNOBS |= {"save_every": "2 steps", "epochs": 4}
STEPS = 6  # of an epoch


class Job:
    """A job on hosts of a network, with one folder.

    Args:
        network: of its hosts.
        photos: that it learns.
        folder: where its run goes, and what its hosts say.
        **knobs: of its recipe.
    """

    def __init__(self, network: Network, photos: Path, folder: Path, **knobs: Any) -> None:
        folder.mkdir()
        self.run, self._folder, self._network = folder / "run", folder, network
        self.endpoint = network.switchboard(folder / "switch.log")
        flags = [f"--{name.replace('_', '-')}={value}" for name, value in (KNOBS | knobs).items()]
        self._words = ["-m", "luthier", "finetune", str(photos), f"--out={self.run}", *flags]

    def start(self, host: Host, **how: Any) -> None:
        """Let a host take part."""
        path = [str(TESTS.parent / "src"), str(TESTS), os.environ.get("PYTHONPATH", "")]
        words = namespaces.torchrun(host, self.endpoint, **how) + self._words
        log = self._folder / f"{host.name}.log"
        host.run(words, log, PYTHONPATH=os.pathsep.join(path), LUTHIER_SILENCE="4")

    def until_step(self, step: int) -> None:
        """Wait for a checkpoint that is not older; what went wrong is shown."""
        with self._shown():
            namespaces.until(lambda: self.steps()[-1:] >= [step])

    def steps(self) -> list[int]:
        """Return at which steps there are checkpoints."""
        return checkpoint.steps_in(self.run / "checkpoints")

    def ends_well(self, *which: Host) -> None:
        """Wait until the last agents of hosts have ended with status 0."""
        with self._shown():
            for host in which:
                assert host.agents[-1].wait(namespaces.PATIENCE) == 0, host.name
        assert "terminate called" not in self.said()
        assert "destroy_process_group" not in self.said()

    def said(self) -> str:
        """Return what all hosts have said."""
        logs = sorted(self._folder.glob("*.log"))
        return "\n".join(f"--- {log.stem}\n{log.read_text(errors='replace')}" for log in logs)

    def _shown(self) -> Any:
        return _Shown(self)


class _Shown:
    def __init__(self, job: Job) -> None:
        self._job = job

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is not None:
            print(self._job.said(), file=sys.stderr)


@pytest.fixture
def network() -> Iterator[Network]:
    with Network() as made:
        yield made


def finetuned(photos: Path, out: Path, **knobs: Any) -> Path:
    def job() -> None:
        luthier.finetune(photos, out=out, console=Console(quiet=True), **(KNOBS | knobs))

    process = Forked(job, TESTS)
    _, said = process.communicate()
    assert process.returncode == 0, said
    return out


@pytest.fixture(scope="module")
def alone(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return finetuned(photos, tmp_path_factory.mktemp("alone") / "run")


def records(run: Path) -> list[dict[str, Any]]:
    found = map(json.loads, (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines())
    return [{k: v for k, v in record.items() if k != "seconds"} for record in found]


def assert_same_but_for_sums(run: Path, alone: Path) -> None:
    """Every step is there once, of the same images; sums were made in another order."""
    ours, theirs = records(run), records(alone)
    assert len(ours) == len(theirs)
    for mine, other in zip(ours, theirs, strict=True):
        assert mine.keys() == other.keys()
        assert mine | {"loss": 0} == other | {"loss": 0}
        assert mine["loss"] == pytest.approx(other["loss"], rel=1e-4)
    for step in checkpoint.steps_in(run / "checkpoints"):
        checkpoint.verify(checkpoint.directory_of(run / "checkpoints", step))


def test_two_hosts_make_the_steps_of_one_process(
    photos: Path, tmp_path: Path, network: Network, alone: Path
) -> None:
    job, both = Job(network, photos, tmp_path / "job"), [network.host(n) for n in ("a", "b")]
    job.start(both[0], processes=2)
    job.start(both[1], processes=1)
    job.ends_well(*both)
    assert_same_but_for_sums(job.run, alone)


@pytest.mark.parametrize("lost", ["a", pytest.param("b", marks=pytest.mark.long)])
def test_when_a_host_dies_the_others_go_on(
    photos: Path, tmp_path: Path, network: Network, alone: Path, lost: str
) -> None:
    job, both = Job(network, photos, tmp_path / "job"), [network.host(n) for n in ("a", "b")]
    for host in both:
        job.start(host)
    job.until_step(STEPS + 2)
    network.hosts[lost].kill()
    left = next(host for host in both if host.name != lost)
    job.ends_well(left)
    assert "continues at step" in job.said()
    assert_same_but_for_sums(job.run, alone)


@pytest.mark.long
@pytest.mark.skipif(
    "LUTHIER_HOSTS" not in os.environ,
    reason="torch's rendezvous takes a minute, and longer on a busy machine: set LUTHIER_HOSTS=1",
)
def test_when_a_host_is_cut_off_the_others_go_on_and_another_joins(
    photos: Path, tmp_path: Path, network: Network
) -> None:
    lost = "a"  # which may have the first process; bench/hosts.py cuts off any
    alone = finetuned(photos, tmp_path / "alone", epochs=60)
    job = Job(network, photos, tmp_path / "job", epochs=60)
    a, b, c = (network.host(name) for name in "abc")
    for host in (a, b):
        job.start(host)
    job.until_step(STEPS + 2)
    network.hosts[lost].cut()
    job.until_step(STEPS + 20)
    job.start(c, processes=2)
    left = a if lost == "b" else b
    job.ends_well(left, c)
    said = job.said()
    assert "was 2, is 1" in said
    assert "was 1, is 3" in said
    assert_same_but_for_sums(job.run, alone)


@pytest.mark.long
@pytest.mark.parametrize("how", ["killed", "cut off"])
def test_when_a_lost_host_comes_back_the_bits_are_those_of_a_whole_run(
    photos: Path, tmp_path: Path, network: Network, how: str
) -> None:
    whole, job = (Job(network, photos, tmp_path / name) for name in ("whole", "job"))
    _, b = both = network.host("a"), network.host("b")
    for host in both:
        whole.start(host, hosts="2", name="whole")
    whole.ends_well(*both)
    for host in both:
        job.start(host, hosts="2")
    job.until_step(STEPS + 2)
    if how == "killed":
        b.kill()
        job.start(b, hosts="2")
    else:
        b.cut()
        namespaces.until(
            lambda: b.rank(0) is None and b.rank(1) is None
        )  # who was there has noticed
        b.mend()
    job.ends_well(*both)
    assert "continues at step" in job.said()
    assert differences(bits(whole.run), bits(job.run)) == []
