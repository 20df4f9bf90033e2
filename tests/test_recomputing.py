"""Activations that are computed again: the same bits, in less memory."""

from __future__ import annotations

import copy
import gc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

import luthier
from conftest import LENET
from luthier import vision
from luthier.errors import ModelError
from luthier.report import Console
from luthier.training import recomputed
from luthier.training.loop import _computed_by
from luthier.training.recomputing import blocks_of
from test_distributed import SMALL, run

vision.load()
from torchvision.models import VisionTransformer, mobilenet_v2, resnet18  # noqa: E402


class Deep(nn.Module):
    """Blocks with batch normalisation and dropout, as are in most models."""

    def __init__(self, num_classes: int = 2) -> None:
        super().__init__()
        blocks = [
            nn.Sequential(
                nn.Conv2d(8 if number else 3, 8, 3, stride=1 + (number == 0)),
                nn.BatchNorm2d(8),
                nn.ReLU(inplace=True),
                nn.Dropout2d(0.3),
            )
            for number in range(4)
        ]
        self.features = nn.Sequential(*blocks)
        self.head = nn.Linear(8, num_classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.features(images).mean((2, 3))
        return self.head(found)  # type: ignore[no-any-return]


SETTINGS: dict[str, tuple[int, dict[str, Any]]] = {
    "one process": (1, {"mixup": 0.3, "accumulate": 2}),
    "one process, bf16": (1, {"precision": "bf16"}),
    "copies": (2, {}),
    "copies, statistics of all": (2, {"sync_batchnorm": True}),
    "cut": (2, {"shard": True, "optimizer": "adamw"}),
    "cut, statistics of all, bf16": (
        2,
        {"shard": True, "sync_batchnorm": True, "precision": "bf16"},
    ),
    "pieces": (1, {"virtual_shards": 2}),
    "thawed by and by": (2, {"strategy": "gradual", "unfreeze_epochs": 1}),
}


@pytest.fixture(scope="module")
def start(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    out, quiet = tmp_path_factory.mktemp("start") / "run", Console(quiet=True)
    knobs = SMALL | {"model": "test_recomputing:Deep", "epochs": 1}
    return str(luthier.finetune(photos, out=out, console=quiet, **knobs).model)


@pytest.mark.parametrize("setting", SETTINGS)
def test_a_run_has_the_same_bits(photos: Path, tmp_path: Path, start: str, setting: str) -> None:
    size, knobs = SETTINGS[setting]
    knobs = {"model": "test_recomputing:Deep", "batch_size": 9} | knobs
    if "strategy" in knobs:
        knobs["weights"] = start
    run(size, photos, tmp_path / "kept", **knobs)
    run(size, photos, tmp_path / "again", **knobs, checkpoint_activations=True)
    folders = [
        sorted((tmp_path / name / "checkpoints").iterdir())[-1] for name in ("kept", "again")
    ]
    for part in ("model", "optimizer"):
        kept, again = (load_file(folder / f"{part}.safetensors") for folder in folders)
        assert kept.keys() == again.keys()
        assert [name for name, tensor in kept.items() if not torch.equal(tensor, again[name])] == []


def transformer() -> nn.Module:
    return VisionTransformer(
        image_size=96, patch_size=8, num_layers=6, num_heads=2, hidden_dim=32, mlp_dim=64
    )


def most(model: nn.Module, images: torch.Tensor) -> int:
    """Return the most bytes that a pass forward and backward has at once."""
    torch.manual_seed(1)
    gc.collect()
    model.zero_grad(set_to_none=False)
    with torch.profiler.profile(
        activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True
    ) as told:
        model(images).square().sum().backward()
    events = [e for e in told.profiler.kineto_results.events() if e.name() == "[memory]"]  # type: ignore[union-attr]
    now = peak = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        now += event.nbytes()
        peak = max(peak, now)
    return peak


@pytest.mark.parametrize(
    ("make", "part"), [(resnet18, 0.8), (mobilenet_v2, 0.4), (transformer, 0.5)]
)
def test_gradients_are_the_same_in_less_memory(make: Callable[[], nn.Module], part: float) -> None:
    model, images = make(), torch.randn(8, 3, 96, 96)
    other = copy.deepcopy(model)
    forwards = recomputed(other, (3, 96, 96))
    for module in (model, other):
        torch.manual_seed(0)
        module(images[:2]).sum().backward()  # there are gradients to add to
    plain = most(model, images)
    with _computed_by(forwards):
        ours = most(other, images)
    for one, two in zip(model.parameters(), other.parameters(), strict=True):
        assert one.grad is not None
        assert two.grad is not None
        assert torch.equal(one.grad, two.grad)
    assert all(torch.equal(a, b) for a, b in zip(model.buffers(), other.buffers(), strict=True))
    assert ours < part * plain


class Twice(nn.Module):
    """Has a block that is computed twice."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 1)
        self.once = nn.Sequential(
            nn.Conv2d(4, 4, 1), nn.Sigmoid(), nn.Conv2d(4, 4, 1), nn.Sigmoid()
        )
        self.again = nn.Sequential(nn.Conv2d(4, 4, 1), nn.Sigmoid())
        self.listed = nn.ModuleList([nn.Sequential(nn.Conv2d(4, 4, 1), nn.ELU()) for _ in range(2)])

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        found = self.again(self.again(self.once(self.stem(images))))
        for part in self.listed:
            found = part(found)
        return found  # type: ignore[no-any-return]


def test_blocks_are_called_once_and_made_of_others() -> None:
    model = Twice()
    before = {name: t.clone() for name, t in model.state_dict().items()}
    assert blocks_of(model, (3, 8, 8)) == [model.once, *model.listed]
    assert all(torch.equal(t, before[name]) for name, t in model.state_dict().items())
    other = resnet18()
    names = {module: name for name, module in other.named_modules()}
    assert [names[block] for block in blocks_of(other, (3, 64, 64))] == [
        *("layer1.0", "layer1.1", "layer2.0", "layer2.1", "layer3", "layer4")
    ]


def test_looking_for_blocks_leaves_no_trace() -> None:
    model = Deep().eval()
    model.features[0].requires_grad_(False)
    before = {name: t.clone() for name, t in model.state_dict().items()}
    random = torch.get_rng_state()
    assert blocks_of(model, (3, 32, 32)) == list(model.features)
    assert torch.equal(random, torch.get_rng_state())
    assert all(torch.equal(t, before[name]) for name, t in model.state_dict().items())
    assert not any(m.training or m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_a_model_without_blocks_is_refused(photos: Path, tmp_path: Path) -> None:
    knobs = SMALL | {"model": LENET, "checkpoint_activations": True}
    with pytest.raises(ModelError, match="no effect: LeNet has no modules made of others"):
        luthier.finetune(photos, out=tmp_path / "run", console=Console(quiet=True), **knobs)
    assert not (tmp_path / "run").exists()
