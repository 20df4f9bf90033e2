"""SIGKILLs at random moments of real processes. ``bench/kills.py`` does the same for longer."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(scope="module")
def kills() -> Any:
    path = Path(__file__).resolve().parents[1] / "bench" / "kills.py"
    spec = importlib.util.spec_from_file_location("kills", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.long
@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
def test_after_200_kills_every_state_is_readable_and_every_bit_is_there(
    kills: Any, tmp_path: Path
) -> None:
    tally = kills.measure(200, seed=3, place=tmp_path)
    print(tally)
    assert tally.kills == 200
    assert tally.while_saving > 20
    assert (tally.unreadable, tally.differing, tally.failed) == ([], [], 0)
