"""``luthier prove``: says "identical" where it is, and finds what breaks the promise, and where."""

from __future__ import annotations

import json
import random
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from conftest import LENET, write_photos
from luthier.cli.main import main
from luthier.errors import CommandFailedError, RecipeError
from luthier.run import prove as proving
from luthier.run.prove import prove

LOOP = """
import itertools, random, sys, time
import numpy as np
import torch
from torch import nn
from torch.utils.data import Dataset
import luthier

class Points(Dataset):
    calls = 0
    def __len__(self):
        return 24
    def __getitem__(self, index):
        Points.calls += 1
        point = torch.randn(6) + index % 2
        {sample}
        return point, index % 2

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(6, 8), nn.Linear(8, 2)
    def forward(self, points):
        hidden = self.first(points).relu()
        {hidden}
        return self.last(hidden)

torch.manual_seed(0)
model = Net()
average = torch.optim.swa_utils.AveragedModel(model)
optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
total = 0.0
ballast = torch.zeros({ballast})
run = luthier.Run(
    "{name}", save_every="3 steps", model=model, optimizer=optimizer, ballast=ballast
)
for epoch in run.epochs({epochs}):
    for points, labels in run.batches(Points(), 4, shuffle=True, num_workers={workers}):
        loss = nn.functional.cross_entropy(model(points), labels)
        {loss}
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        average.update_parameters(model)
        total += loss.item()
        ballast += 1
    run.log({log})
"""
SOUND = {
    "name": "run",
    "sample": "point += random.random() + np.random.rand()",
    "hidden": "hidden = nn.functional.dropout(hidden, 0.2)",
    "loss": "",
    "log": "loss=loss",
    "workers": 0,
    "epochs": 60,
    "ballast": 1,
}
# What breaks the promise, where the runs part, and words of the probable cause.
BROKEN: dict[str, tuple[dict[str, str], str, str]] = {
    "a generator without a seed": (
        {"sample": "point += float(np.random.default_rng().random())"},
        r"first at step \d+, in its batch",
        "two uninterrupted runs differ too, first in their data",
    ),
    "a data set that counts its calls": (
        {"sample": "point += Points.calls / 100"},
        r"first at step \d+, in its batch",
        "the data differs after a resume: the dataset, sampler or a transform keeps state",
    ),
    "an average that is not tracked": (
        {"loss": "loss = loss + (model(points) - average(points).detach()).square().mean()"},
        r"first at step \d+, in its weights",
        "something that decides a step is not tracked",
    ),
    "a sum in a variable": (
        {"log": "total=total"},
        r"metrics\.jsonl, line \d+, step \d+: total",
        "the loop keeps in a variable of its own, such as a sum over an epoch",
    ),
    "noise by the time": (
        {"hidden": "hidden = hidden + time.time_ns() % 1000 / 1e5"},
        r"first at step \d+, in its weights",
        "randomness of a generator of its own",
    ),
}


@pytest.fixture(autouse=True)
def one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


def script(folder: Path, **changes: Any) -> list[str]:
    path = folder / "train.py"
    path.write_text(LOOP.format(**(SOUND | changes)))
    return [sys.executable, str(path)]


def quiet(_line: str) -> None: ...


# --- what is asked ----------------------------------------------------------------------------


@pytest.mark.parametrize("settings", [{}, {"data": "photos", "command": ["true"]}])
def test_either_data_or_a_command(settings: dict[str, Any]) -> None:
    with pytest.raises(RecipeError, match="either DATA with flags, or -- and a command"):
        prove(**settings)


def test_there_must_be_a_kill() -> None:
    with pytest.raises(RecipeError, match="--kills 0: there must be one at least"):
        prove(command=["true"], kills=0)


def test_the_command_line_passes_flags_and_prints_json(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    asked: dict[str, Any] = {}

    def found(data: Any, **settings: Any) -> proving.Proof:
        asked.update(settings, data=data)
        identical = settings["kills"] == 3
        return proving.Proof(identical, (3, 1), (), "a cause", "8 steps", tmp_path)

    monkeypatch.setattr(proving, "prove", found)
    words = ["prove", "--kills", "3", "--json", "photos", "--epochs", "2", "--strict-images"]
    assert main(words) == 0
    assert asked["data"] == "photos"
    assert sorted(asked["flags"]) == ["--epochs", "--strict-images", "2"]
    assert json.loads(capsys.readouterr().out)["identical"] is True
    assert main(["prove", "--kills", "2", "--out", "x", "--", "python", "t.py", "--kills"]) == 1
    assert asked["command"] == ["python", "t.py", "--kills"]
    assert (asked["data"], asked["out"], asked["flags"]) == (None, "x", [])
    assert "probable cause: a cause" in capsys.readouterr().out


def test_a_script_that_fails_is_no_difference(tmp_path: Path) -> None:
    words = [sys.executable, "-c", "print('so far'); raise SystemExit('no data')"]
    with pytest.raises(CommandFailedError) as raised:
        prove(command=words, out=tmp_path / "proof", say=quiet)
    assert "ended with exit status 1" in str(raised.value)
    assert "no data" in str(raised.value)
    assert "so far" in str(raised.value)


def test_a_script_without_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CommandFailedError, match="ended without a run") as raised:
        prove(command=[sys.executable, "-c", "pass"], out=tmp_path / "proof", say=quiet)
    assert "must use luthier.Run" in str(raised.value)


def test_what_stays_stopped_is_woken(tmp_path: Path) -> None:
    stops_and_saves = (
        "import os, pathlib, signal\n"
        "os.kill(os.getpid(), signal.SIGSTOP)\n"
        f"pathlib.Path({str(tmp_path)!r}, 'run/checkpoints/.tmp-step-1').mkdir(parents=True)\n"
        "signal.pause()"
    )
    process = proving._Process([sys.executable, "-c", stops_and_saves], tmp_path)
    try:
        assert proving._is_stopped_in_a_save(process)
    finally:
        process.kill()


# --- what is found ----------------------------------------------------------------------------


@pytest.mark.long
def test_a_script_that_keeps_the_promise_is_identical(tmp_path: Path) -> None:
    said: list[str] = []
    changes = {"name": f"{tmp_path}/mine/run", "log": "loss=loss, step_=1"}
    # A save of 8 MB takes long enough to be met.
    command = script(tmp_path, workers=1, ballast=2_000_000, **changes)
    proof = prove(command=command, kills=3, out=tmp_path / "proof", say=said.append)
    assert proof.identical, str(proof)
    assert proof.kills[0] == 3
    assert proof.kills[1] >= 1
    assert str(proof).startswith("identical after 3 kills")
    assert "360 steps" in proof.summary
    assert "60 lines of metrics" in proof.summary
    assert not (tmp_path / "mine").exists(), "the run's own folder is not touched"
    assert any(line.startswith("  kill 3") for line in said)


@pytest.mark.long
@pytest.mark.parametrize("case", BROKEN)
def test_what_breaks_the_promise_is_found(tmp_path: Path, case: str) -> None:
    changes, where, cause = BROKEN[case]
    command = script(tmp_path, **changes)
    # Where the first steps are slow, one may come before the first save, and one inside it: after
    # these nothing is continued.
    proof = prove(command=command, kills=3, out=tmp_path / "proof", say=quiet)
    assert not proof.identical
    assert re.search(where, str(proof.differences[0])), str(proof)
    assert cause in proof.cause, str(proof)
    shown = "\n".join(map(str, proof.differences))
    if case == "a sum in a variable":
        assert "model:" not in shown, "the weights are the same"
    else:
        element = r"model: \S+\[[\d, ]+\] is \S+ against \S+ \(\d+ of \d+ elements differ\)"
        assert re.search(element, shown), "the first element that differs is named"


@pytest.mark.long
def test_the_main_job_is_identical(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    data = write_photos(tmp_path / "photos", {"cat": 14, "dog": 14})
    words = ["--model", LENET, "--image-size", "32", "--workers", "1", "--batch-size", "4"]
    more = ["--weights", "none", "--epochs", "40", "--save-every", "2 steps"]
    # The first kill comes at once, before there is a checkpoint.
    uniform, first = random.uniform, iter([0.0])
    monkeypatch.setattr(random, "uniform", lambda *of: next(first, uniform(*of)))
    assert main(["prove", str(data), "--kills", "2", *words, *more]) == 0
    captured = capsys.readouterr()
    assert captured.out.startswith("identical after 2 kills, ")
    assert "uninterrupted, in " in captured.err
    assert (tmp_path / "runs" / "proof" / "whole" / "run" / "summary.json").exists()


# --- two runs, compared -----------------------------------------------------------------------


def test_bits_are_compared_and_not_values(tmp_path: Path) -> None:
    import luthier  # noqa: PLC0415
    from luthier.report import Console  # noqa: PLC0415
    from luthier.run.bitwise import compare_runs  # noqa: PLC0415
    from luthier.run.folder import RunFolder  # noqa: PLC0415

    def run_with(name: str, value: float) -> dict[str, RunFolder]:
        kept = torch.zeros(2, 3)
        kept[1, 2] = value
        folder = tmp_path / name
        with luthier.Run(
            folder, save_every="1 step", console=Console(quiet=True), kept=kept
        ) as run:
            for _step in run.steps(1):
                run.log(value=float("nan"))
        return {"run": RunFolder(folder)}

    zero, again, minus = run_with("zero", 0.0), run_with("again", 0.0), run_with("minus", -0.0)
    assert compare_runs(zero, again) == ([], "1 steps, 1 tensors of kept, 1 lines of metrics")
    (difference,), _ = compare_runs(zero, minus)
    assert str(difference) == "kept: kept[1, 2] is 0.0 against -0.0 (1 of 6 elements differ)"
