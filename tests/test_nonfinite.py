"""The first number that is not finite is found, and nothing of the model is changed."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import nn

import luthier
from luthier import vision


class Deep(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5), nn.ReLU())
        self.head = nn.Linear(4, 2)
        self.register_buffer("scale", torch.tensor(1.0))
        self.log = False

    def forward(self, images: torch.Tensor, factor: float = 1.0) -> dict[str, torch.Tensor]:
        found = self.body(images).mean((2, 3)) * factor
        if self.log:
            found = (found - found.max() - 1).log()
        return {"scores": self.head(found) * self.scale}


@pytest.fixture
def images() -> torch.Tensor:
    return torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def test_all_that_is_finite_is_nothing_and_all_is_as_it_was(images: torch.Tensor) -> None:
    model = Deep()
    before, random = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    assert luthier.first_nonfinite(model, images, factor=2.0) is None
    assert all(torch.equal(t, before[n]) for n, t in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random)
    assert not any(module._forward_hooks for module in model.modules())


def test_each_place_is_named(images: torch.Tensor) -> None:
    model = Deep()
    bad = images.clone()
    bad[1, 2, 3, 4] = math.nan
    assert str(luthier.first_nonfinite(model, bad)) == "the inputs are not finite"
    model.scale.fill_(math.inf)
    assert str(luthier.first_nonfinite(model, images)) == "the buffer scale is not finite"
    model.scale.fill_(1)
    with torch.no_grad():
        model.body[0].weight[0, 0, 0, 0] = math.nan
    assert (
        str(luthier.first_nonfinite(model, images)) == "the parameter body.0.weight is not finite"
    )


def test_a_layer_that_makes_it_is_named(images: torch.Tensor) -> None:
    model = Deep()
    with torch.no_grad():
        model.body[0].weight.fill_(3e38)
    found = luthier.first_nonfinite(model, images)
    said = "is the first whose output is not finite, of inputs that are"
    assert str(found) == f"body.0 (Conv2d) {said}"
    model = Deep()
    model.log = True
    found = luthier.first_nonfinite(model, images)
    assert found is not None
    assert (found.what, found.name, found.kind) == ("output", "head", "Linear")


def test_a_published_model_is_searched() -> None:
    model = vision.load("torchvision.models").resnet18()
    with torch.no_grad():
        model.layer3[1].conv2.weight.mul_(1e38).mul_(1e3)
        model.layer3[1].conv2.weight.clamp_(-3e38, 3e38)
    found = luthier.first_nonfinite(model, torch.randn(2, 3, 64, 64))
    assert found is not None
    assert found.name == "layer3.1.conv2"
