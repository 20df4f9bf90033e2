"""Devices: what is chosen follows from what is there, and says why."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from luthier.devices import (
    Probe,
    bf16_speedup,
    choose,
    choose_precision,
    cores_allowed,
    fit_threads,
    memory_allowed,
    probe,
)
from luthier.errors import RecipeError

CPU = Probe(cuda=(), cuda_bf16=False, mps=False, cores=4)
BF16 = Probe(cuda=(), cuda_bf16=False, mps=False, cores=4, cpu_bf16="avx512_bf16")
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
WORKERS = st.none() | st.integers(0, 64)


def there(found: Probe) -> list[str]:
    return ["cpu", *(f"cuda:{i}" for i in range(len(found.cuda))), *(["mps"] if found.mps else [])]


@pytest.mark.parametrize(
    ("found", "line"),
    [
        (CPU, "device cpu (no accelerator found), workers 4 (4 cores)"),
        (CUDA, "device cuda:0 (H200), workers 8 (64 cores)"),
        (OLD_CUDA, "device cuda:0 (P100), workers 2 (2 cores)"),
        (MAC, "device mps (Apple GPU), workers 8 (10 cores)"),
    ],
)
def test_the_best_that_is_there_is_chosen(found: Probe, line: str) -> None:
    assert str(choose(found, "auto", None)) == line


def precision(found: Probe, device: str, asked: str = "auto", speedup: float | None = 1.0) -> str:
    return str(choose_precision(found, device, asked, lambda: speedup))


def test_precision_follows_from_what_the_device_does_well() -> None:
    assert precision(CUDA, "cuda:0") == "bf16 (computed in hardware here)"
    assert precision(OLD_CUDA, "cuda:0") == "fp32 (the default on cuda)"
    assert precision(MAC, "mps") == "fp32 (the default on mps)"
    assert precision(CPU, "cpu") == "fp32 (this processor has no instructions for bf16)"
    says = "(avx512_bf16; bf16 is {} x as fast as fp32 with this model here)"
    assert precision(BF16, "cpu", speedup=2.24) == "bf16 " + says.format(2.2)
    assert precision(BF16, "cpu", speedup=0.9) == "fp32 " + says.format(0.9)
    small = "fp32 (the model is too small to gain by bf16)"
    assert precision(BF16, "cpu", speedup=None) == small
    assert precision(BF16, "cpu", "fp32", speedup=3) == "fp32 (asked for)"


def test_nothing_is_measured_where_it_decides_nothing() -> None:
    def fail() -> float:
        raise AssertionError("measured")

    for found, device, asked in (
        (CPU, "cpu", "auto"),
        (CUDA, "cuda:0", "auto"),
        (BF16, "cpu", "bf16"),
    ):
        choose_precision(found, device, asked, fail)


def test_a_model_that_computes_for_long_is_measured() -> None:
    layers = (nn.Conv2d(3, 64, 3), nn.Conv2d(64, 64, 3), nn.Flatten(), nn.LazyLinear(2))
    model = nn.Sequential(*layers)
    model(torch.zeros(1, 3, 96, 96))
    speedup = bf16_speedup(model, 96, "cpu")
    assert speedup is not None
    assert speedup > 0


@pytest.mark.parametrize("frozen", [False, True])
def test_measuring_changes_nothing_of_a_model(frozen: bool) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5), nn.Flatten())
    model[1].eval()
    if frozen:
        model.requires_grad_(False)
    before = {name: t.clone() for name, t in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    torch.manual_seed(1)
    state = torch.get_rng_state()
    assert bf16_speedup(model, 8, "cpu", images=2) is None  # chance would decide
    assert torch.equal(state, torch.get_rng_state())
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(before[name], t) for name, t in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize(
    ("asked", "gives"), [("cpu", "cpu"), ("cuda", "cuda:0"), ("cuda:0", "cuda:0"), ("cuda:1",) * 2]
)
def test_a_device_that_is_asked_for_is_taken(asked: str, gives: str) -> None:
    chosen = choose(CUDA, asked, None)
    assert (chosen.device.value, chosen.device.reason) == (gives, "asked for")


def test_workers_that_are_asked_for_are_taken() -> None:
    assert str(choose(CPU, "auto", 0).workers) == "0 (asked for)"


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
        choose(found, asked, None)
    assert caught.value.what == f"--device {asked} is not on this machine; there are: {names}"
    assert caught.value.exit_status == 2


@settings(deadline=None)
@given(PROBES, DEVICES, WORKERS)
def test_a_choice_is_of_what_is_there_and_has_a_reason(
    found: Probe, device: str, workers: int | None
) -> None:
    wanted = "cuda:0" if device == "cuda" else device
    if wanted not in ("auto", *there(found)):
        with pytest.raises(RecipeError):
            choose(found, device, workers)
        return
    chosen = choose(found, device, workers)
    assert chosen == choose(found, device, workers)
    assert chosen.device.value in there(found)
    assert wanted in ("auto", chosen.device.value)
    assert int(chosen.workers.value) == (min(found.cores, 8) if workers is None else workers)
    assert all(c.reason for c in (chosen.device, chosen.workers))


def test_this_machine_is_probed_as_it_is() -> None:
    found = probe()
    assert len(found.cuda) == torch.cuda.device_count()
    assert found.mps == torch.backends.mps.is_available()
    assert found.cores == cores_allowed()
    torch.empty(1, device=choose(found, "auto", None).device.value)


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no scheduler affinity here")
def test_cores_that_the_scheduler_withholds_are_not_counted() -> None:
    before = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(before)})
        assert cores_allowed() == 1
    finally:
        os.sched_setaffinity(0, before)


GROUPS = {  # /proc/self/cgroup, the groups' files, and the cores and bytes that they allow
    "v2": (
        "0::/job/step\n",
        {"job/cpu.max": "150000 100000", "job/step/cpu.max": "max 100000"},
        1,
        None,
    ),
    "v1": (
        "3:memory:/job\n2:cpu,cpuacct:/job\n",
        {
            "cpu/job/cpu.cfs_quota_us": "100000",
            "cpu/job/cpu.cfs_period_us": "100000",
            "memory/job/memory.limit_in_bytes": "1000",
            "memory/job/memory.usage_in_bytes": "700",
            "memory/job/memory.stat": "total_inactive_file 100\n",
        },
        1,
        400,
    ),
    "a container's own": (
        "0::/not/seen/inside\n",
        {"memory.max": "900", "memory.current": "100"},
        None,
        800,
    ),
    "no limit": ("0::/\n", {"cpu.max": "max 100000", "memory.max": "max"}, None, None),
    "rubbish": ("0::/\n", {"cpu.max": "rubbish", "memory.max": "-"}, None, None),
}


@pytest.mark.parametrize(("own", "files", "cores", "memory"), GROUPS.values(), ids=GROUPS)
def test_limits_of_control_groups_are_kept(
    tmp_path: Path, own: str, files: dict[str, str], cores: int | None, memory: int | None
) -> None:
    (tmp_path / "own").write_text(own)
    for name, text in files.items():
        path = tmp_path / "groups" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
    place = tmp_path / "groups", tmp_path / "own"
    free = cores_allowed(tmp_path / "none", tmp_path / "none")
    assert cores_allowed(*place) == min(cores or free, free)
    (tmp_path / "meminfo").write_text("MemTotal: 9 kB\nMemAvailable:   5 kB\n")
    assert memory_allowed(*place, tmp_path / "meminfo") == min(memory or 5120, 5120)
    assert memory_allowed(*place, tmp_path / "absent") == memory


def test_torch_uses_no_more_threads_than_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        monkeypatch.setenv("OMP_NUM_THREADS", "2")
        assert not fit_threads(1)  # who sets it knows
        monkeypatch.delenv("OMP_NUM_THREADS")
        assert not fit_threads(2)
        assert fit_threads(1)
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)


_FAULTS = """
import resource
import torch
from luthier.devices import keep_freed_memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        torch.empty(2**24).fill_(1)  # 64 MiB
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

first = faults()
print(keep_freed_memory())
faults()  # the memory that is kept has to be taken once
print(first, faults())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's malloc is set on Linux alone")
@pytest.mark.parametrize("decided", [{}, {"MALLOC_ARENA_MAX": "4"}], ids=["ours", "the user's"])
def test_memory_that_is_freed_is_not_asked_of_the_kernel_again(decided: dict[str, str]) -> None:
    own = {n: v for n, v in os.environ.items() if not n.startswith(("MALLOC_", "GLIBC_"))}
    command = [sys.executable, "-c", _FAULTS]
    done = subprocess.run(command, env=own | decided, capture_output=True, text=True, check=True)
    kept, counts = done.stdout.splitlines()
    before, after = map(int, counts.split())
    assert kept == str(not decided)
    assert (after < before / 100) is not bool(decided)
