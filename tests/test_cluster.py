"""The example for Slurm, on a real controller where there is one."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from conftest import LENET

SCRIPT = Path(__file__).resolve().parents[1] / "examples" / "cluster.sbatch"
PATIENCE = 120  # seconds


def call(*words: str | Path) -> str:
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=PATIENCE)
    return done.stdout.strip() if done.returncode == 0 else ""


def until(condition: Callable[[], object], what: str) -> None:
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, what
        time.sleep(0.1)


@pytest.fixture
def submitted(photos: Path, tmp_path: Path) -> Iterator[str]:
    """A job of the example, of which a checkpoint has been written."""
    if shutil.which("sbatch") is None or not call("sinfo", "--noheader", "--states=idle,mixed"):
        pytest.skip("no Slurm whose controller answers and has a free node")
    words = [photos, "--out", tmp_path / "run", "--model", LENET, "--image-size", "32"]
    words += ["--weights", "none", "--workers", "0", "--epochs", "60", "--save-every", "20 steps"]
    variables = {"PROCESSES": "2", "OMP_NUM_THREADS": "1"}
    os.environ |= variables | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    said = tmp_path / "said.txt"
    job = call("sbatch", "--parsable", f"--output={said}", "--time=10", SCRIPT, *words)
    assert job
    try:
        until(lambda: list(tmp_path.glob("run/checkpoints/step-*")), "the job does not train")
        yield job
    finally:
        call("scancel", job)


@pytest.mark.long
def test_a_job_whose_time_is_over_saves_and_goes_on(submitted: str, tmp_path: Path) -> None:
    call("scancel", "--batch", "--signal=USR1", submitted)  # as Slurm does before the end
    until(lambda: "PD" in call("squeue", "-ho", "%t", "-j", submitted), "it is not queued again")
    call("scontrol", "update", f"jobid={submitted}", "StartTime=now+10")  # not 2 minutes
    until((tmp_path / "run" / "summary.json").exists, "it does not come to its end")
    log = (tmp_path / "run" / "log.txt").read_text(encoding="utf-8")
    assert log.count(" continues at step ") == 1
    steps = (tmp_path / "run" / "metrics.jsonl").read_text(encoding="utf-8").count('"step",')
    assert steps == 60 * 2  # each once
