"""A process of a job that is stuck, stopped or cut off is named once, with its stack; all end."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, TensorDataset

import luthier
from luthier.distributed import joined
from luthier.distributed.watch import named
from luthier.errors import DivergedError, LuthierError, RecipeError
from luthier.report import Console
from processes import Forked
from ranks import started
from trial_models import goes_round_for_ever

SIZE = 3


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LUTHIER_SILENCE", "2")
    monkeypatch.setenv("LUTHIER_PATIENCE", "4")


def stops() -> None:
    os.kill(os.getpid(), signal.SIGSTOP)


def job(who: int, does: Callable[[], None]) -> Callable[[int], int]:
    def run(rank: int) -> int:
        with joined() as world:
            for _ in range(5):
                world.gather([rank])
                time.sleep(0.2)  # in which all have noted something
            if rank == who:
                does()
            world.gather([rank])
        return 0

    return run


def said(processes: list[Forked], who: int) -> str:
    """Return what was said when all but ``who`` have ended with status 1; that is woken."""
    found = []
    for rank, process in enumerate(processes):
        if rank != who:
            found.append(process.communicate()[1])
            assert process.returncode == 1, found
    with contextlib.suppress(ProcessLookupError):
        os.killpg(processes[who].pid, signal.SIGCONT)
    found.append(processes[who].communicate()[1])
    assert processes[who].returncode == 1  # it finds out that it is given up
    assert sum("luthier, rank" in text for text in found) == 1, found
    return "".join(found)


@pytest.mark.parametrize("who", [0, 1])
def test_one_that_is_stuck_is_named_with_its_stack(who: int) -> None:
    processes = started(SIZE, job(who, goes_round_for_ever))
    text = said(processes, who)
    assert f"luthier, rank 0: rank {who} (on {socket.gethostname()}" in text
    assert f"process {processes[who].pid}) has kept the others waiting for 4 s" in text
    assert text.rstrip().splitlines()[-2].endswith("in goes_round_for_ever")


@pytest.mark.parametrize("how", ["copies", "cut"])
def test_one_that_is_stuck_in_a_backward_pass_is_named(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    monkeypatch.setenv("TRIAL_STUCK", "1")
    knobs: dict[str, Any] = {"model": "trial_models:StuckInBackward", "head_module": "fc3"}
    knobs |= {"image_size": 32, "batch_size": 9, "workers": 0, "weights": "none"}
    knobs |= {"precision": "fp32", "shard": how == "cut"}

    def run(_rank: int) -> None:
        luthier.finetune(photos, out=tmp_path / "run", console=Console(quiet=True), **knobs)

    text = said(started(SIZE, run), 1)
    assert "rank 1 (on" in text
    assert ("rank 2 (on" in text) == (how == "cut")  # where all wait in units' exchanges
    first = text[text.index("last seen at") :].split(" were last seen at")[0].splitlines()
    assert any(line.endswith("in goes_round_for_ever") for line in first), text


def test_in_a_loop_and_a_group_of_ones_own_it_is_named_too(tmp_path: Path) -> None:
    def run(rank: int) -> None:
        dist.init_process_group("gloo")
        model = DistributedDataParallel(nn.Linear(8, 3))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
        loader = DataLoader(TensorDataset(torch.ones(30, 8)), SIZE, shuffle=True)
        with luthier.Run(tmp_path, console=Console(quiet=True), m=model, o=optimizer) as run:
            for _ in run.epochs(1):
                for step, (inputs,) in enumerate(run.batches(loader)):
                    scores = model(inputs)
                    if rank == 1 and step == 2:
                        scores.register_hook(goes_round_for_ever)
                    scores.sum().backward()
                    optimizer.step()
                    optimizer.zero_grad()

    text = said(started(SIZE, run), 1)
    assert "luthier, rank 0: rank 1 (on" in text
    assert "rank 2 (on" not in text
    assert text.rstrip().splitlines()[-2].endswith("in goes_round_for_ever")


def test_where_all_wait_in_the_same_exchange_all_are_named_by_where_they_are() -> None:
    def asks_something_else() -> None:
        dist.barrier()

    def run(rank: int) -> None:
        with joined() as world:
            world.gather([rank])
            with world.exchanging():
                asks_something_else() if rank == 1 else dist.all_reduce(torch.ones(3))

    text = said(started(SIZE, run), 1)
    for rank in range(SIZE):
        assert f"rank {rank} (on" in text
    assert "rank 1 was last seen at:" in text
    assert "ranks 0, 2 were last seen at:" in text
    assert "in asks_something_else" in text.split("ranks 0, 2 were")[0]


@pytest.mark.parametrize(
    ("ranks", "told"), [([3], "rank 3 was"), ([0, 1, 2, 5, 7, 8], "ranks 0 to 2, 5, 7 to 8 were")]
)
def test_many_ranks_are_named_in_few_words(ranks: list[int], told: str) -> None:
    assert named(ranks) == told


@pytest.mark.parametrize("who", [0, 2])
def test_one_that_is_stopped_is_named_with_what_it_was_at(who: int) -> None:
    text = said(started(SIZE, job(who, stops)), who)
    # The first keeps the store here, and with it what all have noted.
    assert ("the store of this job has not answered for 2 s" if who == 0 else "rank 2 (on") in text
    assert f"rank {who} was last seen at:" in text
    assert "in run" in text


def test_one_that_is_stopped_for_a_moment_accuses_nobody_and_is_not_accused() -> None:
    def run(rank: int) -> int:
        with joined() as world:
            world.gather([rank])
            if rank == 0:
                print("here", flush=True)
            for _ in range(400):
                world.gather([rank])
        return 0

    processes = started(SIZE, run)
    assert processes[0].stdout.readline() == "here\n"
    for process in processes:  # as of a machine that sleeps
        os.killpg(process.pid, signal.SIGSTOP)
    time.sleep(3)
    for process in processes:
        os.killpg(process.pid, signal.SIGCONT)
    found = [(process.communicate(), process.returncode) for process in processes]
    assert [status for _, status in found] == [0] * SIZE, found


def test_what_all_have_found_wrong_is_said_by_one() -> None:
    def run(_rank: int) -> int:
        try:
            with joined() as world:
                world.gather([world.rank])
                raise DivergedError("the loss became nan")
        except LuthierError as error:
            print(error.is_told)
        return 0

    found = [process.communicate() for process in started(SIZE, run)]
    assert sorted(out for out, _ in found) == ["False\n", "True\n", "True\n"], found


@pytest.mark.parametrize("told", ["soon", "0", "-1", "inf"])
def test_seconds_that_are_none_are_refused(monkeypatch: pytest.MonkeyPatch, told: str) -> None:
    monkeypatch.setenv("LUTHIER_SILENCE", told)
    for name in ("RANK", "LOCAL_RANK"):
        monkeypatch.setenv(name, "0")
    for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE"):
        monkeypatch.setenv(name, "2")
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", "1")
    with pytest.raises(RecipeError, match="expected a number of seconds above 0"), joined():
        pass
