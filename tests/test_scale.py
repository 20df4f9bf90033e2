"""Sixty-four processes: they meet, take steps, save, stop at one step, and five resume."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from harness import paper
from hypothesis import given
from hypothesis import strategies as st

import luthier
from conftest import LENET, write_photos
from luthier import checkpoint
from luthier.errors import InterruptedRunError
from luthier.report import Console
from processes import Forked
from ranks import started

RANKS = 64
ONE_A_STEP = {"batch_size": RANKS, "image_size": 32, "workers": 0, "weights": "none"}
KNOBS: dict[str, Any] = ONE_A_STEP | {"model": LENET, "precision": "fp32", "epochs": 400}
KNOBS |= {"save_every": "2 steps"}
STEPS = 3  # of an epoch; half of the processes have an image in the last
SECONDS = 200  # for all of them


def all_end(processes: list[Forked]) -> list[tuple[int | None, str, str]]:
    until = time.monotonic() + SECONDS
    found = []
    for process in processes:
        said = process.communicate(max(1.0, until - time.monotonic()))
        found.append((process.returncode, *said))
    return found


@pytest.mark.long
@pytest.mark.skipif(
    "LUTHIER_SCALE" not in os.environ,
    reason="64 processes take a minute of two cores: set LUTHIER_SCALE=1",
)
def test_sixty_four_processes_stop_at_one_step_and_five_go_on(tmp_path: Path) -> None:
    photos, out = tmp_path / "photos", tmp_path / "run"
    write_photos(photos / "train", {"cat": 80, "dog": 80})
    write_photos(photos / "val", {"cat": 3, "dog": 2})

    def begin(rank: int) -> int:
        try:
            luthier.finetune(photos, out=out, console=Console(quiet=rank > 0), **KNOBS)
        except InterruptedRunError as error:
            print(str(error).partition("\n")[0])
            return 130
        return 0

    processes = started(RANKS, begin)
    # The second epoch is under way: any one is told to stop, and all do.
    while "epoch 1" not in processes[0].stderr.readline():
        assert processes[0].poll() is None
    os.kill(processes[RANKS - 1].pid, signal.SIGTERM)
    found = all_end(processes)
    assert {status for status, _, _ in found} == {130}, next(e for s, _, e in found if s != 130)
    assert not [err for _, _, err in found if "luthier, rank" in err]
    assert len({out for _, out, _ in found}) == 1
    last = checkpoint.steps_in(out / "checkpoints")[-1]
    checkpoint.verify(checkpoint.directory_of(out / "checkpoints", last))

    recipe, epochs = out / "recipe.toml", last // STEPS + 2
    recipe.write_text(recipe.read_text().replace("epochs = 400", f"epochs = {epochs}"))

    def resume(_rank: int) -> None:
        luthier.resume(out, console=Console(quiet=True))

    found = all_end(started(5, resume))
    assert [status for status, _, _ in found] == [0] * 5, found[0][2]
    records = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    steps = [record["step"] for record in records if record["kind"] == "step"]
    assert steps == list(range(1, STEPS * epochs + 1))


# --- on paper -----------------------------------------------------------------------------------


def test_the_table_in_the_docs_is_what_the_formulas_say() -> None:
    page = Path(__file__).parents[1] / "docs" / "distributed.md"
    assert "\n".join(paper.table()) in page.read_text(encoding="utf-8")


@given(st.integers(2, 5), st.integers(1, 300))
def test_a_ring_sends_what_its_steps_send(size: int, chunk: int) -> None:
    # Each process sends one of N chunks in each of N - 1 steps of adding and N - 1 of spreading.
    assert paper.ring_bytes(size, size * chunk) == pytest.approx(2 * (size - 1) * chunk)


@given(st.floats(0.01, 100), st.integers(1, 10_000), st.floats(0.3, 3))
def test_no_interval_loses_less_than_youngs(blocked: float, gpus: int, other: float) -> None:
    cluster = paper.Cluster(gpus)
    best = paper.save_interval(blocked, cluster)
    here, there = (paper.lost(best * part, blocked, cluster) for part in (1, other))
    assert here <= there * (1 + 1e-9)
