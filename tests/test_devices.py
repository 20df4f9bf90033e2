"""Devices: what is chosen follows from what is there, and says why."""

from __future__ import annotations

import os

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from luthier.devices import Probe, choose, probe, usable_cores
from luthier.errors import RecipeError

CPU = Probe(cuda=(), cuda_bf16=False, mps=False, cores=4)
CUDA = Probe(cuda=("H200", "T4"), cuda_bf16=True, mps=False, cores=64)
OLD_CUDA = Probe(cuda=("P100",), cuda_bf16=False, mps=False, cores=2)
MAC = Probe(cuda=(), cuda_bf16=False, mps=True, cores=10)

PROBES = st.builds(
    Probe,
    cuda=st.lists(st.text(min_size=1), max_size=3).map(tuple),
    cuda_bf16=st.booleans(),
    mps=st.booleans(),
    cores=st.integers(1, 256),
)
DEVICES = st.sampled_from(["auto", "cpu", "mps", "cuda", "cuda:0", "cuda:1", "cuda:7"])
PRECISIONS = st.sampled_from(["auto", "fp32", "bf16"])
WORKERS = st.none() | st.integers(0, 64)


def there(found: Probe) -> list[str]:
    return ["cpu", *(f"cuda:{i}" for i in range(len(found.cuda))), *(["mps"] if found.mps else [])]


@pytest.mark.parametrize(
    ("found", "line"),
    [
        (
            CPU,
            "device cpu (no accelerator found), precision fp32 (the default on cpu),"
            " workers 4 (4 cores)",
        ),
        (
            CUDA,
            "device cuda:0 (H200), precision bf16 (computed in hardware here),"
            " workers 8 (64 cores)",
        ),
        (
            OLD_CUDA,
            "device cuda:0 (P100), precision fp32 (the default on cuda), workers 2 (2 cores)",
        ),
        (
            MAC,
            "device mps (Apple GPU), precision fp32 (the default on mps), workers 8 (10 cores)",
        ),
    ],
)
def test_the_best_that_is_there_is_chosen(found: Probe, line: str) -> None:
    assert str(choose(found, "auto", "auto", None)) == line


@pytest.mark.parametrize(
    ("asked", "gives"), [("cpu", "cpu"), ("cuda", "cuda:0"), ("cuda:0", "cuda:0"), ("cuda:1",) * 2]
)
def test_a_device_that_is_asked_for_is_taken(asked: str, gives: str) -> None:
    chosen = choose(CUDA, asked, "auto", None)
    assert (chosen.device.value, chosen.device.reason) == (gives, "asked for")


def test_the_cpu_beside_a_gpu_computes_in_fp32() -> None:
    assert choose(CUDA, "cpu", "auto", None).precision.value == "fp32"


def test_precision_and_workers_that_are_asked_for_are_taken() -> None:
    chosen = choose(CPU, "auto", "bf16", 0)
    assert str(chosen.precision) == "bf16 (asked for)"
    assert str(chosen.workers) == "0 (asked for)"


@pytest.mark.parametrize(
    ("found", "asked", "names"),
    [
        (CPU, "cuda", "cpu"),
        (CPU, "mps", "cpu"),
        (CUDA, "cuda:2", "cpu, cuda:0, cuda:1"),
        (MAC, "cuda:0", "cpu, mps"),
    ],
)
def test_a_missing_device_is_refused_naming_those_there(
    found: Probe, asked: str, names: str
) -> None:
    with pytest.raises(RecipeError) as caught:
        choose(found, asked, "auto", None)
    assert caught.value.what == f"--device {asked} is not on this machine; there are: {names}"
    assert caught.value.exit_status == 2


@settings(deadline=None)
@given(PROBES, DEVICES, PRECISIONS, WORKERS)
def test_a_choice_is_of_what_is_there_and_has_a_reason(
    found: Probe, device: str, precision: str, workers: int | None
) -> None:
    wanted = "cuda:0" if device == "cuda" else device
    if wanted not in ("auto", *there(found)):
        with pytest.raises(RecipeError):
            choose(found, device, precision, workers)
        return
    chosen = choose(found, device, precision, workers)
    assert chosen == choose(found, device, precision, workers)
    assert chosen.device.value in there(found)
    assert wanted in ("auto", chosen.device.value)
    assert precision in ("auto", chosen.precision.value)
    assert chosen.precision.value in ("fp32", "bf16")
    assert int(chosen.workers.value) == (min(found.cores, 8) if workers is None else workers)
    assert all(c.reason for c in (chosen.device, chosen.precision, chosen.workers))


def test_this_machine_is_probed_as_it_is() -> None:
    found = probe()
    assert len(found.cuda) == torch.cuda.device_count()
    assert found.mps == torch.backends.mps.is_available()
    assert found.cores == usable_cores()
    torch.empty(1, device=choose(found, "auto", "auto", None).device.value)


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no scheduler affinity here")
def test_cores_that_the_scheduler_withholds_are_not_counted() -> None:
    before = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(before)})
        assert usable_cores() == 1
    finally:
        os.sched_setaffinity(0, before)
