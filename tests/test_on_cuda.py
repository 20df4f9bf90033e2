"""On an NVIDIA device, where there is one: what elsewhere has a stand-in."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import luthier
from conftest import LENET, weights_of_three
from luthier import vision
from luthier.report import Console

pytestmark = pytest.mark.skipif(
    not torch.cuda.is_available(), reason="no CUDA device: LUTHIER_CUDA=1 where there is one"
)

GIB = 2**30


def python(script: str, leases: Path) -> list[str]:
    """Run a script in a process of its own, in which nothing has asked CUDA."""
    start = f"import os; os.environ['LUTHIER_LEASES'] = {str(leases)!r}\n"
    done = subprocess.run(
        [sys.executable, "-c", start + script], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_a_device_is_picked_held_and_computed_on(tmp_path: Path) -> None:
    script = """
import luthier, torch
device = luthier.pick_device()
print(device, torch.ones(3, device=device).sum().item(), torch.cuda.device_count())
others = os.environ.pop("LUTHIER_LEASED")
import luthier.accelerators as a
print(others == "GPU-" + str(torch.cuda.get_device_properties(0).uuid).removeprefix("GPU-"))
print([h.pid == os.getpid() for h in a.Leases().holders([others])])
"""
    assert python(script, tmp_path / "leases") == ["cuda:0 3.0 1", "True", "[True]"]


def test_a_share_is_kept_to(tmp_path: Path) -> None:
    script = f"""
import luthier, torch
with luthier.lease(share="1GiB") as held:
    torch.empty({GIB // 4}, device=held.device)
    try:
        torch.empty({GIB}, device=held.device)
    except torch.OutOfMemoryError:
        print("no more")
"""
    assert python(script, tmp_path / "leases") == ["no more"]


def test_a_job_takes_the_device_by_itself(photos: Path, tmp_path: Path) -> None:
    script = f"""
import luthier
from luthier import vision
from luthier.report import Console
luthier.finetune({str(photos)!r}, out={str(tmp_path / "run")!r}, model={LENET!r}, image_size=32,
                 weights="none", epochs=1)
"""
    python(script, tmp_path / "leases")
    assert "device cuda:0 (leased: " in (tmp_path / "run" / "log.txt").read_text(encoding="utf-8")
    assert 'device = "cuda"' in (tmp_path / "run" / "recipe.toml").read_text(encoding="utf-8")


def test_memory_that_runs_out_is_met(photos: Path, tmp_path: Path) -> None:
    torch.cuda.empty_cache()
    _, total = torch.cuda.mem_get_info()
    torch.cuda.set_per_process_memory_fraction(0.5 * GIB / total)
    try:
        result = luthier.finetune(
            photos,
            out=tmp_path / "run",
            model="trial_models:Hungry",
            image_size=160,
            batch_size=8,
            weights="none",
            precision="fp32",
            epochs=1,
            console=Console(quiet=True),
        )
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert result.summary["micro_batch"] in (1, 2, 4)
    assert result.summary["steps"] == 4


@pytest.mark.parametrize(
    "flags",
    [
        ["--strategy", "full"],
        ["--strategy", "full", "--precision", "fp32", "--optimizer", "adamw", "--ema", "0.9"],
        ["--strategy", "full", "--mixup", "0.2", "--clip-norm", "1", "--schedule", "one-cycle"],
        ["--strategy", "gradual", "--unfreeze-epochs", "1"],
    ],
)
@pytest.mark.long
def test_a_killed_run_ends_with_the_bits_of_a_whole_one(
    flags: list[str], photos: Path, tmp_path: Path
) -> None:
    weights = str(weights_of_three(tmp_path))
    own = ["--model", LENET, "--image-size", "32", "--weights", weights, "--epochs", "3"]
    words = ["-m", "luthier", "prove", "--kills", "3", "--out", str(tmp_path / "proof")]
    done = subprocess.run(
        [sys.executable, *words, str(photos), *own, *flags],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "identical after 3 kills" in done.stdout + done.stderr


@pytest.mark.parametrize("batch", [4, 32])
def test_a_report_of_memory_is_near_what_is_taken(batch: int) -> None:
    others = torch.cuda.memory_allocated()
    models = vision.load("torchvision.models")
    model = models.resnet18().cuda()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    images = torch.randn(batch, 3, 224, 224, device="cuda")
    labels = torch.zeros(batch, dtype=torch.long, device="cuda")
    report = luthier.memory_report(model, optimizer, (images, labels))
    torch.cuda.reset_peak_memory_stats()
    for _ in range(2):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(images), labels).backward()
        optimizer.step()
    assert report.peak == pytest.approx(torch.cuda.max_memory_allocated() - others, rel=0.15)
