"""The memory of training, told without training, against what torch's allocator gives out."""

from __future__ import annotations

import copy
import itertools
import random
import threading
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional as F
from torch.nn.utils import parametrizations
from torch.profiler import ProfilerActivity, profile

import luthier
import luthier.vision
from luthier.devices import MemoryReport, memory_report
from luthier.devices.live import LiveBytes
from luthier.devices.simulated import choose_foreach, default_loss
from luthier.errors import ModelError, RecipeError

OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "sgd": lambda learning: torch.optim.SGD(learning, lr=1e-3),
    "momentum": lambda learning: torch.optim.SGD(learning, lr=1e-3, momentum=0.9),
    "adam": lambda learning: torch.optim.Adam(learning, lr=1e-3),
    "adamw": lambda learning: torch.optim.AdamW(learning, lr=1e-3),
}


class Words(nn.Module):
    """A small transformer."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(500, 128)
        layer = nn.TransformerEncoderLayer(128, 4, 256, batch_first=True)
        self.blocks = nn.TransformerEncoder(layer, 2)
        self.head = nn.Linear(128, 10)

    def forward(self, words: torch.Tensor) -> torch.Tensor:
        scores: torch.Tensor = self.head(self.blocks(self.embed(words)).mean(1))
        return scores


class Photos(nn.Module):
    """Everything that has a state: batch norm, dropout, a parametrized weight, frozen layers."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3)
        self.norm = nn.BatchNorm2d(8)
        self.drop = nn.Dropout(0.5)
        self.hidden = parametrizations.spectral_norm(nn.Linear(8, 8))
        self.head = nn.Linear(8, 4)
        self.calls = 0
        self.stem.requires_grad_(False)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        random.random()
        np.random.rand()
        features = self.drop(F.relu(self.norm(self.stem(images)))).mean((2, 3))
        scores: torch.Tensor = self.head(self.hidden(features))
        return scores


def mlp(*widths: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for before, after in itertools.pairwise(widths):
        layers += [nn.Linear(before, after), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def build(name: str, channels_last: bool = False, **options: Any) -> nn.Module:
    if name == "words":
        return Words()
    if name == "mlp":
        return nn.Sequential(nn.Flatten(), mlp(3 * 32 * 32, 256, 256, 10))
    model: nn.Module = luthier.vision.load("torchvision.models").__dict__[name](
        num_classes=10, **options
    )
    return model.to(memory_format=torch.channels_last) if channels_last else model


def freeze_trunk(model: nn.Module) -> list[nn.Parameter]:
    for parameter in list(model.parameters())[:-2]:
        parameter.requires_grad_(False)
    return list(model.parameters())[-2:]


def classified(*shape: int) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(*shape), torch.arange(shape[0]) % 4


def step(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    batch: Any,
    precision: str = "fp32",
    set_to_none: bool = True,
) -> None:
    optimizer.zero_grad(set_to_none=set_to_none)
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
        scores = model(batch[0])
        loss = F.cross_entropy(scores, batch[1])
    loss.backward()
    optimizer.step()


def most_taken(run: Callable[[], object]) -> int:
    """Return the most bytes that torch's allocator has given out beyond those at the start."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        run()
    now = most = 0
    for event in profiled.profiler.kineto_results.events():
        if event.name() == "[memory]":
            now += event.nbytes()
            most = max(most, now)
    return most


def measured(model: nn.Module, optimizer: torch.optim.Optimizer, batch: Any, **how: Any) -> int:
    held = sum(t.nbytes for t in [*model.parameters(), *model.buffers(), *batch])
    return held + most_taken(lambda: [step(model, optimizer, batch, **how) for _ in range(2)])


@pytest.mark.parametrize(
    ("name", "options", "shape", "optimizer", "precision", "frozen", "set_to_none"),
    [
        ("resnet18", {}, (8, 3, 64, 64), "momentum", "fp32", False, True),
        ("resnet18", {}, (8, 3, 64, 64), "sgd", "bf16", False, False),
        ("resnet18", {}, (4, 3, 64, 64), "adam", "bf16", True, True),
        ("mobilenet_v2", {}, (4, 3, 64, 64), "adamw", "fp32", False, False),
        ("mobilenet_v2", {"channels_last": True}, (4, 3, 48, 48), "sgd", "bf16", False, True),
        ("efficientnet_b0", {"channels_last": True}, (16, 3, 48, 48), "adam", "fp32", True, True),
        ("vit_b_16", {"image_size": 32}, (4, 3, 32, 32), "sgd", "fp32", False, True),
        ("mlp", {}, (16, 3, 32, 32), "adam", "fp32", False, True),
        ("mlp", {}, (16, 3, 32, 32), "momentum", "bf16", False, False),
        ("words", {}, (8, 24), "adamw", "fp32", False, False),
        ("words", {}, (8, 24), "momentum", "bf16", False, True),
        ("words", {}, (16, 24), "sgd", "bf16", True, True),
    ],
)
def test_the_peak_is_what_the_allocator_gives_out(
    name: str,
    options: dict[str, Any],
    shape: tuple[int, ...],
    optimizer: str,
    precision: str,
    frozen: bool,
    set_to_none: bool,
) -> None:
    model = build(name, **options)
    learning = freeze_trunk(model) if frozen else list(model.parameters())
    inputs = torch.randint(500, shape) if name == "words" else torch.randn(shape)
    batch = inputs, torch.arange(shape[0]) % 10
    how: dict[str, Any] = {"precision": precision, "set_to_none": set_to_none}
    updates = OPTIMIZERS[optimizer](learning)
    report = memory_report(model, updates, batch, **how)
    assert report.peak == pytest.approx(measured(model, updates, batch, **how), rel=0.15)


@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    widths=st.lists(st.integers(1, 300), min_size=2, max_size=5),
    images=st.integers(4, 16),
    optimizer=st.sampled_from(sorted(OPTIMIZERS)),
    frozen=st.booleans(),
    set_to_none=st.booleans(),
)
def test_the_peak_of_linear_layers_is_exact(
    widths: list[int], images: int, optimizer: str, frozen: bool, set_to_none: bool
) -> None:
    model = mlp(*widths)
    learning = freeze_trunk(model) if frozen else list(model.parameters())
    updates = OPTIMIZERS[optimizer](learning)
    batch = torch.randn(images, widths[0]), torch.zeros(images, dtype=torch.long)
    report = memory_report(model, updates, batch, set_to_none=set_to_none)
    # Scalars that only pass through Python are not followed.
    true = measured(model, updates, batch, set_to_none=set_to_none)
    assert report.peak == pytest.approx(true, abs=64)


def test_the_parts_are_the_sizes_of_what_they_name() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Flatten(), nn.LazyLinear(4))
    batch = classified(8, 3, 16, 16)
    model(batch[0])
    parameters = sum(p.nbytes for p in model.parameters())
    updates = torch.optim.Adam(model.parameters())
    report = luthier.memory_report(model, updates, batch, set_to_none=False)
    assert report.parameters == parameters
    assert report.buffers == sum(b.nbytes for b in model.buffers())
    assert report.gradients == parameters
    assert report.optimizer == 2 * parameters + 4 * len(list(model.parameters()))
    assert report.batch == batch[0].nbytes + batch[1].nbytes
    assert (
        report.activations > 2 * 8 * 8 * 14 * 14 * 4
    )  # what follows the convolution, and the norm


def state_of(model: Photos, optimizer: torch.optim.Optimizer) -> list[Any]:
    """Return copies of everything that training would change."""
    grads = [None if p.grad is None else p.grad.clone() for p in model.parameters()]
    return [
        {name: tensor.clone() for name, tensor in model.state_dict().items()},
        copy.deepcopy(optimizer.state_dict()),
        grads,
        [p.requires_grad for p in model.parameters()],
        [(m.training, [*m._forward_hooks], [*m._forward_pre_hooks]) for m in model.modules()],
        [type(p) for p in model.parameters()],
        (model.calls, random.getstate(), torch.get_rng_state()),
        [part.tolist() if isinstance(part, np.ndarray) else part for part in np.random.get_state()],
        torch.is_grad_enabled(),
    ]


def same(one: Any, other: Any) -> bool:
    if isinstance(one, dict):
        return [*one] == [*other] and same([*one.values()], [*other.values()])
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return torch.equal(one, other) if isinstance(one, torch.Tensor) else bool(one == other)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_nothing_is_changed(precision: str) -> None:
    model = Photos()
    model.norm.eval()
    model.head.register_forward_hook(lambda *_: None)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad])
    hooks = []
    optimizer.register_step_post_hook(lambda *_: hooks.append("optimizer"))
    model.head.weight.register_hook(lambda _: hooks.append("gradient"))
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 1)
    batch = classified(4, 3, 8, 8)
    step(model, optimizer, batch)
    schedule.step()
    hooks.clear()
    before, grads = state_of(model, optimizer), [p.grad for p in model.parameters()]
    inputs = batch[0].clone()
    memory_report(model, optimizer, batch, precision=precision)
    assert same(state_of(model, optimizer), before)
    assert all(p.grad is grad for p, grad in zip(model.parameters(), grads, strict=True))
    assert torch.equal(batch[0], inputs)
    assert hooks == []


def test_a_layer_that_a_function_holds_keeps_its_gradient() -> None:
    layer = nn.Linear(4, 4)
    model = nn.Sequential(nn.Linear(8, 4), Router(lambda scores: layer(scores) + scores))
    model[1].gate = layer
    memory_report(model, torch.optim.SGD(model.parameters()), classified(4, 8))
    assert layer.weight.grad is None


def test_the_memory_is_not_taken() -> None:
    model = mlp(64, 512, 512, 4)
    optimizer = torch.optim.Adam(model.parameters())
    batch = classified(4096, 64)
    reports = []
    taken = most_taken(lambda: reports.append(memory_report(model, optimizer, batch)))
    assert reports[0].activations > 16 * 2**20
    assert taken < 64 * 2**10


class Router(nn.Module):
    def __init__(self, rule: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.gate = nn.Linear(8, 4)
        self.rule = rule

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return self.rule(self.gate(features))


@pytest.mark.parametrize(
    ("rule", "named"),
    [
        (lambda t: t * t.sum().item(), r"_local_scalar_dense.* \(\.item\(\)"),
        (lambda t: t if t.sum() > 0 else -t, "_local_scalar_dense"),
        (lambda t: t[t.sum(1) > 0].sum(), r"aten\.nonzero"),
        (lambda t: t * float(t.detach().numpy().sum()), "numpy"),
        (lambda t: t.view(3, 3), "view|shape"),
    ],
    ids=["item", "branch", "mask", "numpy", "shape"],
)
def test_what_cannot_be_simulated_is_named(
    rule: Callable[[torch.Tensor], torch.Tensor],
    named: str,
    capfd: pytest.CaptureFixture[str],
) -> None:
    model = nn.Sequential(nn.Linear(8, 8), Router(rule))
    with pytest.raises(ModelError, match=named) as raised:
        memory_report(model, torch.optim.SGD(model.parameters()), classified(4, 8))
    assert "in 1 (Router)" in raised.value.what
    assert raised.value.cure is not None
    assert "torch.profiler" in raised.value.cure
    assert capfd.readouterr().err == ""


def test_models_that_cannot_be_trained_or_copied_are_refused() -> None:
    model = nn.Linear(8, 4)
    optimizer = torch.optim.SGD(model.parameters())
    with pytest.raises(RecipeError, match="precision 'fp8'"):
        memory_report(model, optimizer, classified(4, 8), precision="fp8")
    with pytest.raises(ModelError, match="closure"):
        memory_report(model, torch.optim.LBFGS(model.parameters()), classified(4, 8))
    model.lock = threading.Lock()
    with pytest.raises(ModelError, match="lock"):
        memory_report(model, optimizer, classified(4, 8))
    del model.lock
    model.requires_grad_(False)
    with pytest.raises(ModelError, match="does not require grad"):
        memory_report(model, optimizer, classified(4, 8))


class Sum(nn.Module):
    """Takes inputs as it is told to, and asserts that."""

    def __init__(self, check: Callable[..., bool]) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 4)
        self.check = check

    def forward(self, *args: Any, **named: Any) -> Any:
        assert self.check(*args, **named)
        return {"scores": [self.layer(torch.ones(2, 8)), torch.ones(2, dtype=torch.long)]}


@pytest.mark.parametrize(
    ("batch", "numbers", "check"),
    [
        (torch.ones(4), 4, lambda x: x.shape == (4,)),
        ([torch.ones(4), [torch.ones(2)], 3], 6, lambda x: x[1][0].shape == (2,)),
        ({"x": torch.ones(4), "scale": 2}, 4, lambda x, scale: x.shape == (4,) and scale == 2),
        (((torch.ones(4), {"y": torch.ones(2)}), None), 6, lambda _, more: more["y"].shape == (2,)),
        (({"x": torch.ones(4)}, torch.ones(2)), 6, lambda x: x.shape == (4,)),
    ],
    ids=["tensor", "list", "keywords", "arguments", "keywords and targets"],
)
def test_a_batch_is_nested_as_one_likes(
    batch: Any, numbers: int, check: Callable[..., bool]
) -> None:
    model = Sum(check)
    report = memory_report(model, torch.optim.SGD(model.parameters()), batch)
    assert report.batch == 4 * numbers


def test_the_criterion_is_the_users_with_its_tensors() -> None:
    model = nn.Linear(8, 4)
    weight = torch.ones(4)
    optimizer = torch.optim.SGD(model.parameters())
    for criterion in (
        nn.CrossEntropyLoss(weight=weight),
        lambda scores, targets: F.cross_entropy(scores, targets, weight=weight),
    ):
        report = memory_report(model, optimizer, classified(4, 8), criterion=criterion)
        assert report.peak < 2048


def test_the_default_loss() -> None:
    scores, targets = torch.randn(6, 3), torch.arange(6) % 3
    expected = F.cross_entropy(scores, targets)
    assert default_loss(scores, targets) == expected
    assert default_loss(SimpleNamespace(logits=scores), targets) == expected
    assert (
        default_loss(scores.view(2, 3, 3), targets.view(2, 3)) == expected
    )  # a class for each word
    assert default_loss(scores.T[None], targets[None]).isclose(expected)  # for each pixel
    assert default_loss(SimpleNamespace(loss=scores.sum()), None) == scores.sum()
    assert default_loss([scores, {"more": (targets, scores)}], None) == 2 * scores.mean()
    assert default_loss(scores, scores) == scores.mean()


class Own(torch.optim.Optimizer):
    """Keeps tensors beside the state, as ``deepcopy`` of an optimizer does not."""

    def __init__(self, parameters: Any) -> None:
        super().__init__(parameters, {"lr": 0.1})
        self.sums = [torch.zeros_like(p) for p in self.param_groups[0]["params"]]

    @torch.no_grad()
    def step(self) -> None:
        for parameter, total in zip(self.param_groups[0]["params"], self.sums, strict=True):
            parameter.sub_(total.add_(parameter.grad))


def test_an_optimizer_of_ones_own() -> None:
    model = nn.Linear(8, 4)
    report = memory_report(model, Own(model.parameters()), classified(4, 8))
    assert report.optimizer == report.parameters == 4 * 36


def test_accelerators_round_up_and_update_all_parameters_at_once() -> None:
    live = LiveBytes(torch.device("cuda:0"))
    with FakeTensorMode(), live:
        kept = [torch.empty(1, device="cuda"), torch.empty(129, device="cuda"), torch.empty(9)]
    assert live.now.total() == 3 * 512
    del kept
    assert live.now.total() == 0
    optimizer = torch.optim.AdamW(nn.Linear(2, 2).parameters())
    choose_foreach(optimizer, torch.device("cpu"))
    assert optimizer.param_groups[0]["foreach"] is None
    choose_foreach(optimizer, torch.device("cuda"))
    assert optimizer.param_groups[0]["foreach"] is True


def test_the_table() -> None:
    report = MemoryReport(45 * 2**20, 2**19, 0, 90 * 2**20, 2**20, 2**28, "cpu", 2**34)
    assert str(report) == (
        "parameters    45.00 MiB\n"
        "buffers        0.50 MiB\n"
        "gradients      0.00 MiB\n"
        "optimizer     90.00 MiB\n"
        "batch          1.00 MiB\n"
        "activations  256.00 MiB\n"
        "peak         392.50 MiB  2.4 % of 16.0 GiB on cpu"
    )
    large = MemoryReport(2**30, 0, 0, 0, 0, 2**30)
    assert str(large).splitlines()[-1] == "peak         2.00 GiB"
