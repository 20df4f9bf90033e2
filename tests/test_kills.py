"""SIGKILLs at random moments of real processes. ``bench/kills.py`` does the same for longer."""

from __future__ import annotations

import os
from pathlib import Path

import kills
import pytest


@pytest.mark.long
@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
@pytest.mark.parametrize("name", ["finetune", "own loop"])
def test_after_100_kills_every_state_is_readable_and_every_bit_is_there(
    tmp_path: Path, name: str
) -> None:
    subject = kills.subjects_at(tmp_path, epochs=2)[name]
    tally = kills.measure(100, seed=3, place=tmp_path, subjects={name: subject})
    print(tally)
    assert tally.kills == 100
    assert tally.while_saving > 10
    assert (tally.unreadable, tally.differing, tally.failed) == ([], [], 0)
