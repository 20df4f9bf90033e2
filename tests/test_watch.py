"""A process of a job that is stuck, stopped or cut off is named once, with its stack; all end."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import time
from collections.abc import Callable

import pytest

from luthier.distributed import joined
from luthier.errors import DivergedError, LuthierError, RecipeError
from processes import Forked
from ranks import started

SIZE = 3


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LUTHIER_SILENCE", "2")
    monkeypatch.setenv("LUTHIER_PATIENCE", "4")


def goes_round_for_ever() -> None:
    while True:
        pass


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
