"""SIGKILLs at random moments of real processes. ``bench/kills.py`` does the same for longer."""

from __future__ import annotations

import os
from pathlib import Path

import kills
import pytest


@pytest.mark.long
@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
def test_after_200_kills_every_state_is_readable_and_every_bit_is_there(tmp_path: Path) -> None:
    tally = kills.measure(200, seed=3, place=tmp_path)
    print(tally)
    assert tally.kills == 200
    assert tally.while_saving > 20
    assert (tally.unreadable, tally.differing, tally.failed) == ([], [], 0)
