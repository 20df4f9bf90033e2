"""An error of one of several processes is said once, and ``torchrun`` calls the right one cause."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure

from luthier.cli.failure import say, tell_torchrun
from luthier.errors import DivergedError, InterruptedRunError, LuthierError, PeerError


@pytest.mark.parametrize(
    ("rank", "error", "said"),
    [
        (None, DivergedError("nan", cure="lower it"), "luthier: nan\n  lower it\n"),
        ("1", DivergedError("nan", cure="lower it"), "luthier, rank 1: nan\n  lower it\n"),
        ("0", PeerError("another has ended"), "luthier, rank 0: another has ended\n"),
        ("1", PeerError("another has ended"), ""),
    ],
)
def test_an_error_is_said_with_its_rank(
    rank: str | None,
    error: LuthierError,
    said: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("RANK", raising=False)
    if rank is not None:
        monkeypatch.setenv("RANK", rank)
    assert say(error) == 1
    assert capsys.readouterr().err == said
    error.is_told = True
    assert say(error) == 1
    assert capsys.readouterr().err == ""


def test_torchrun_calls_the_one_that_failed_the_cause(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now)
    errors = [PeerError("another has ended"), IndexError("the cat is out"), PeerError("likewise")]
    failures = {}
    for rank, error in enumerate(errors):
        path = tmp_path / f"{rank}.json"
        monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(path))
        tell_torchrun(error)
        failures[rank] = ProcessFailure(rank, 100 + rank, 1, str(path))
    failures[3] = ProcessFailure(3, 103, -15, str(tmp_path / "none.json"))  # killed with the rest
    failed = ChildFailedError("luthier", failures)
    assert failed.get_first_failure()[0] == 1
    assert "IndexError: the cat is out" in str(failed).partition("Root Cause")[2]


def test_what_is_no_failure_is_not_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(tmp_path / "error.json"))
    assert say(InterruptedRunError("stopped and saved")) == 130
    monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(tmp_path / "gone" / "error.json"))
    assert say(DivergedError("nan")) == 1
    assert list(tmp_path.iterdir()) == []
