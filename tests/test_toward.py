"""Weight decay toward the start, against torch's own decay and the formula."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from luthier.recipe import Optimizer
from luthier.training import TowardStart, make_optimizer
from luthier.training.toward import KEY

SGD = Optimizer(optimizer="sgd", lr=0.1, momentum=0.9)
ADAMW = Optimizer(optimizer="adamw", lr=0.1)


def net(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3))


def groups_of(model: nn.Module, decay: float) -> list[dict[str, Any]]:
    named = dict(model.named_parameters())
    return [
        {"params": [p], "names": [n], "weight_decay": decay if p.ndim >= 2 else 0.0}
        for n, p in named.items()
    ]


def wide(model: nn.Module) -> dict[str, torch.Tensor]:
    return {n: p.detach().clone() for n, p in model.named_parameters() if p.ndim >= 2}


def learn(
    model: nn.Module, how: Optimizer, decay: float, toward: TowardStart | None, steps: int = 5
) -> nn.Module:
    groups = groups_of(model, decay)
    optimizer = make_optimizer(how, toward.claim(groups) if toward is not None else groups)
    generator = torch.Generator().manual_seed(1)
    for _ in range(steps):
        optimizer.zero_grad()
        inputs = torch.randn(8, 4, generator=generator)
        F.cross_entropy(model(inputs), torch.arange(8) % 3).backward()
        if toward is not None:
            toward.pull_gradients(optimizer)
        optimizer.step()
        if toward is not None:
            toward.pull_weights(optimizer)
    return model


def test_toward_zeros_sgd_moves_as_torchs_own_decay_to_the_bit() -> None:
    model = net()
    zeros = {name: torch.zeros_like(t) for name, t in wide(model).items()}
    theirs = learn(copy.deepcopy(model), SGD, 0.1, None)
    ours = learn(model, SGD, 0.1, TowardStart(model, zeros))
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.equal(a, b)


def test_adamw_pulls_beside_its_own_step() -> None:
    model = net()
    starts = {name: torch.full_like(t, 0.5) for name, t in wide(model).items()}
    plain = learn(copy.deepcopy(model), ADAMW, 0.0, None, steps=1)
    ours = learn(model, ADAMW, 0.3, TowardStart(model, starts), steps=1)
    before = dict(plain.named_parameters())
    for name, after in ours.named_parameters():
        moved = before[name].detach()
        wanted = moved - 0.1 * 0.3 * (moved - starts[name]) if name in starts else moved
        torch.testing.assert_close(after.detach(), wanted)


@settings(deadline=None, max_examples=20)
@given(
    how=st.sampled_from([SGD, ADAMW]),
    decay=st.floats(1e-4, 3.0),
    seed=st.integers(0, 99),
    steps=st.integers(1, 30),
)
def test_without_a_gradient_the_start_does_not_move_by_a_bit(
    how: Optimizer, decay: float, seed: int, steps: int
) -> None:
    model = net(seed)
    toward = TowardStart(model, wide(model))
    began = copy.deepcopy(model.state_dict())
    optimizer = make_optimizer(how, toward.claim(groups_of(model, decay)))
    for _ in range(steps):
        for parameter in model.parameters():
            parameter.grad = torch.zeros_like(parameter)
        toward.pull_gradients(optimizer)
        optimizer.step()
        toward.pull_weights(optimizer)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, began[name])


@pytest.mark.parametrize("how", [SGD, ADAMW], ids=["sgd", "adamw"])
def test_what_was_moved_comes_back(how: Optimizer) -> None:
    model = net()
    toward = TowardStart(model, wide(model))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1.0)
    optimizer = make_optimizer(how, toward.claim(groups_of(model, 0.5)))
    for _ in range(200):
        for parameter in model.parameters():
            parameter.grad = torch.zeros_like(parameter)
        toward.pull_gradients(optimizer)
        optimizer.step()
        toward.pull_weights(optimizer)
    for name, parameter in model.named_parameters():
        if name in toward.tensors:
            torch.testing.assert_close(parameter.detach(), toward.tensors[name], rtol=0, atol=0.02)
        else:  # a bias has no decay
            assert parameter.detach().min() > 0.4


def test_only_groups_whose_starts_are_known_change_hands() -> None:
    model = net()
    toward = TowardStart(model, {"0.weight": model[0].weight.detach().clone()})
    groups = toward.claim(groups_of(model, 0.1))
    told = {g["names"][0]: (g["weight_decay"], g.get(KEY)) for g in groups}
    assert told == {
        "0.weight": (0.0, 0.1),
        "0.bias": (0.0, None),
        "2.weight": (0.1, None),
        "2.bias": (0.0, None),
    }


def test_a_parameter_without_a_gradient_is_left_alone() -> None:
    model = net()
    toward = TowardStart(model, {n: torch.zeros_like(t) for n, t in wide(model).items()})
    for how in (SGD, ADAMW):
        optimizer = make_optimizer(how, toward.claim(groups_of(model, 0.1)))
        began = copy.deepcopy(model.state_dict())
        toward.pull_gradients(optimizer)
        optimizer.step()
        toward.pull_weights(optimizer)
        assert all(torch.equal(t, began[n]) for n, t in model.state_dict().items())
