"""``seed_everything``: what it makes repeat itself, and what it refuses."""

from __future__ import annotations

import random
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import luthier
from luthier.devices import cuda
from luthier.errors import RecipeError
from luthier.randomness import kept_randomness


def drawn() -> list[Any]:
    return [random.random(), float(np.random.rand()), float(torch.rand(()))]


@given(st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1))
def test_all_generators_are_a_function_of_the_seed(seed: int, other: int) -> None:
    with kept_randomness():
        luthier.seed_everything(seed)
        first = drawn()
        luthier.seed_everything(other)
        between = drawn()
        luthier.seed_everything(seed)
        assert drawn() == first
    if seed != other:
        assert between[0] != first[0]
        assert between[2] != first[2]
    if (seed ^ other) & 0xFFFFFFFF:
        assert between[1] != first[1]


@pytest.mark.parametrize("seed", [-1, 2**64])
def test_a_seed_that_is_none_is_named(seed: int) -> None:
    with pytest.raises(RecipeError, match="expected 0 to"):
        luthier.seed_everything(seed)


DETERMINISTIC = """
import os, torch, luthier
luthier.seed_everything(3, deterministic=True)
print(os.environ["CUBLAS_WORKSPACE_CONFIG"], torch.are_deterministic_algorithms_enabled())
print(torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark)
try:
    torch.zeros(3).put_(torch.tensor([0, 0]), torch.ones(2), accumulate=False)
except RuntimeError as error:
    print(error)
"""


def test_deterministic_kernels_on_request() -> None:
    done = subprocess.run(
        [sys.executable, "-c", DETERMINISTIC], capture_output=True, text=True, check=True
    )
    first, second, third = done.stdout.splitlines()[:3]
    assert first == ":4096:8 True"
    assert second == "True False"
    assert "put_ does not have a deterministic implementation" in third


def test_too_late_is_said_and_nothing_is_seeded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda, "is_initialised", lambda: True)
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    before = torch.default_generator.get_state()
    with pytest.raises(RecipeError, match="comes too late: CUDA is initialised"):
        luthier.seed_everything(3, deterministic=True)
    assert torch.equal(torch.default_generator.get_state(), before)
    assert not torch.are_deterministic_algorithms_enabled()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
def test_every_cuda_device_is_seeded() -> None:
    with kept_randomness():
        seen = []
        for _ in range(2):
            luthier.seed_everything(5)
            devices = range(torch.cuda.device_count())
            seen.append([float(torch.rand((), device=f"cuda:{i}")) for i in devices])
    assert seen[0] == seen[1]
