"""Optimizers, schedulers and the rest of a loop's state: after a restore the same bits follow."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn, optim
from torch.optim import lr_scheduler, swa_utils

from luthier import checkpoint
from luthier.checkpoint import Captured, Checkpoint, Saved, Saver, State, store
from luthier.errors import DoesNotFitError, RunFolderError, UnsupportedStateError
from luthier.run.tracked import GRADIENTS, Tracked

Groups = list[dict[str, Any]]
Make = Callable[[Groups], optim.Optimizer]


class MasterSGD(optim.Optimizer):
    """Weights in bfloat16, their masters in float32, and a number that is no tensor."""

    def __init__(self, params: Any) -> None:
        super().__init__(params, {"lr": 0.1})

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        loss = None if closure is None else torch.enable_grad()(closure)()
        for group in self.param_groups:
            for parameter in group["params"]:
                state = self.state[parameter]
                state.setdefault("master", parameter.float())
                state["count"] = state.get("count", 0) + 1
                state["recent"] = [*state.get("recent", [])[-2:], parameter.grad.float()]
                state["master"] -= group["lr"] * sum(state["recent"]) / state["count"]
                parameter.copy_(state["master"])
        return loss


OPTIMIZERS: dict[str, Make] = {
    "Adadelta": lambda groups: optim.Adadelta(groups, lr=0.5),
    "Adafactor": lambda groups: optim.Adafactor(groups, lr=0.05),
    "Adagrad": lambda groups: optim.Adagrad(groups, lr=0.1, lr_decay=0.1),
    "Adam": lambda groups: optim.Adam(groups, lr=0.05),
    "Adam amsgrad": lambda groups: optim.Adam(groups, lr=0.05, amsgrad=True),
    "Adam with a tensor": lambda groups: optim.Adam(groups, lr=torch.tensor(0.05), foreach=False),
    "AdamW": lambda groups: optim.AdamW(groups, lr=0.05),
    "AdamW fused": lambda groups: optim.AdamW(groups, lr=0.05, fused=True),
    "AdamW foreach": lambda groups: optim.AdamW(groups, lr=0.05, foreach=True),
    "Adamax": lambda groups: optim.Adamax(groups, lr=0.05),
    "ASGD": lambda groups: optim.ASGD(groups, lr=0.05, t0=1, lambd=0.1),
    "LBFGS": lambda groups: optim.LBFGS(groups[0]["params"], lr=0.05, max_iter=3),
    "LBFGS with Wolfe": lambda groups: optim.LBFGS(
        groups[0]["params"], max_iter=3, history_size=2, line_search_fn="strong_wolfe"
    ),
    "Muon": lambda groups: optim.Muon(groups, lr=0.05),
    "NAdam": lambda groups: optim.NAdam(groups, lr=0.05),
    "RAdam": lambda groups: optim.RAdam(groups, lr=0.05),
    "RMSprop": lambda groups: optim.RMSprop(groups, lr=0.05),
    "RMSprop centred": lambda groups: optim.RMSprop(groups, lr=0.05, centered=True, momentum=0.5),
    "Rprop": lambda groups: optim.Rprop(groups, lr=0.05),
    "SGD": lambda groups: optim.SGD(groups, lr=0.05),
    "SGD with momentum": lambda groups: optim.SGD(groups, lr=0.05, momentum=0.9),
    "SGD with Nesterov": lambda groups: optim.SGD(
        groups, lr=0.05, momentum=0.9, nesterov=True, weight_decay=0.1
    ),
    "SGD with a tensor": lambda groups: optim.SGD(groups, lr=torch.tensor(0.05), foreach=False),
    "SparseAdam": lambda groups: optim.SparseAdam(groups, lr=0.05),
    "MasterSGD": MasterSGD,
}


class Net(nn.Module):
    """A convolution, a normalisation, a head and a parameter without dimensions."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 2)
        self.norm = nn.BatchNorm2d(4)
        self.fc = nn.Linear(4, 2)
        self.scale = nn.Parameter(torch.tensor(2.0))

    def forward(self, images: torch.Tensor) -> Any:
        return self.fc(self.norm(self.conv(images)).mean((2, 3))).float() * self.scale


class Matrices(nn.Module):
    """Nothing but matrices."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(6, 4, bias=False), nn.Linear(4, 4, bias=False)

    def forward(self, images: torch.Tensor) -> Any:
        return self.b(torch.tanh(self.a(images[:, 0, :2, :].flatten(1))))


class Table(nn.Module):
    """A table whose gradients are sparse."""

    def __init__(self) -> None:
        super().__init__()
        self.rows = nn.Embedding(8, 3, sparse=True)

    def forward(self, images: torch.Tensor) -> Any:
        return self.rows((images.flatten(1).sum(1) * 10).long() % 8)


def model_for(name: str, seed: int) -> Any:
    torch.manual_seed(seed)
    kind = {"Muon": Matrices, "SparseAdam": Table}.get(name, Net)
    return kind().to(torch.bfloat16) if name == "MasterSGD" else kind()


def take_step(model: nn.Module, optimizer: optim.Optimizer, step: int) -> None:
    generator = torch.Generator().manual_seed(step)
    first = next(model.parameters())
    images = torch.randn(3, 3, 3, 3, generator=generator).to(first.dtype)

    def closure() -> Any:
        optimizer.zero_grad()
        loss = (model(images) - 1).square().mean()
        loss.backward()
        return loss

    optimizer.step(closure)


def names_in(model: nn.Module) -> dict[torch.Tensor, str]:
    return {parameter: name for name, parameter in model.named_parameters()}


def groups_of(model: nn.Module, *groups: Iterable[str], **options: list[Any]) -> Groups:
    named = dict(model.named_parameters())
    return [
        {"params": [named[name] for name in group]} | {k: v[i] for k, v in options.items()}
        for i, group in enumerate(groups)
    ]


def one_group(model: nn.Module) -> Groups:
    return [{"params": list(model.parameters())}]


def bits(value: Any) -> Any:
    """Return something that is equal only where every bit is."""
    if isinstance(value, torch.Tensor):
        flat = value.detach().contiguous().view(-1).view(torch.uint8)
        return str(value.dtype), tuple(value.shape), flat.tolist()
    if isinstance(value, Mapping):
        return {key: bits(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [bits(item) for item in value]
    return repr(value)


def state_of(model: nn.Module, optimizer: optim.Optimizer) -> Any:
    """Return every bit of a model and an optimizer, by name."""
    return bits(
        {
            "model": model.state_dict(),
            "state": {n: dict(optimizer.state.get(p, {})) for n, p in model.named_parameters()},
            "options": [
                {k: v for k, v in group.items() if k != "params"}
                for group in optimizer.param_groups
            ],
        }
    )


def save(folder: Path, step: int, parts: Mapping[str, Captured]) -> Checkpoint:
    """Write a state to the disk, and read it."""
    saver = Saver(folder, keep=99)
    saver.save(State(step, parts, {}, {}))
    saver.wait()
    saver.close()
    return store.read(store.directory_of(folder, step))


def track(found: Checkpoint | None, *calls: Mapping[str, Any]) -> Tracked:
    """Track objects, in one call or in several."""
    tracked = Tracked(Saver(Path()))
    for objects in calls:
        tracked.add(objects, found)
    return tracked


# --- every optimizer --------------------------------------------------------------------------


def test_no_optimizer_is_forgotten() -> None:
    kinds = [kind for kind in vars(optim).values() if isinstance(kind, type)]
    names = {kind.__name__ for kind in kinds if issubclass(kind, optim.Optimizer)}
    assert names - {"Optimizer"} == {name.split()[0] for name in OPTIMIZERS} - {"MasterSGD"}


@pytest.mark.parametrize("steps", [0, 1, 4])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_steps_after_a_restore_are_the_same_to_the_bit(
    tmp_path: Path, name: str, steps: int
) -> None:
    model = model_for(name, 0)
    optimizer = OPTIMIZERS[name](one_group(model))
    for step in range(steps):
        take_step(model, optimizer, step)
    tracked = track(None, {"model": model, "optimizer": optimizer})
    tracked._stepped.add(id(optimizer))  # as after a step
    found = save(tmp_path, steps, tracked.capture())
    assert checkpoint.newest(tmp_path).path == found.path  # type: ignore[union-attr]

    other = model_for(name, 1)
    restored = OPTIMIZERS[name](one_group(other))
    again = track(found, {"model": other, "optimizer": restored})
    assert again.notices() == []
    assert state_of(other, restored) == state_of(model, optimizer)
    before = state_of(other, restored)
    for step in range(steps, steps + 3):
        take_step(model, optimizer, step)
        take_step(other, restored, step)
        assert state_of(other, restored) == state_of(model, optimizer)
    assert before != state_of(other, restored)
    assert all(  # and what was read has not been trained
        bits(part.tensors) == bits(store.read(found.path).parts[name].tensors)
        for name, part in found.parts.items()
    )


@pytest.mark.parametrize("name", ["SGD with momentum", "AdamW", "Adagrad", "ASGD"])
def test_state_takes_the_memory_format_of_its_parameter(tmp_path: Path, name: str) -> None:
    model = model_for(name, 0)
    optimizer = OPTIMIZERS[name](one_group(model))
    take_step(model, optimizer, 0)
    found = save(tmp_path, 1, track(None, {"model": model, "optimizer": optimizer}).capture())
    other = model_for(name, 1).to(memory_format=torch.channels_last)
    restored = OPTIMIZERS[name](one_group(other))
    track(found, {"model": other, "optimizer": restored})
    assert state_of(other, restored) == state_of(model, optimizer)
    weight = other.conv.weight
    assert weight.is_contiguous(memory_format=torch.channels_last)
    for value in restored.state[weight].values():
        if value.dim() == 4:
            assert value.stride() == weight.stride()


def test_state_of_channels_last_is_saved_and_comes_back(tmp_path: Path) -> None:
    made = []
    for seed in (0, 1):
        model = model_for("Adam", seed).to(memory_format=torch.channels_last)
        made.append((model, OPTIMIZERS["Adam"](one_group(model))))
    (model, optimizer), (other, restored) = made
    take_step(model, optimizer, 0)
    found = save(tmp_path, 1, track(None, {"model": model, "optimizer": optimizer}).capture())
    track(found, {"model": other, "optimizer": restored})
    for step in (1, 2, 3):
        take_step(model, optimizer, step)
        take_step(other, restored, step)
        assert state_of(other, restored) == state_of(model, optimizer)


def test_a_rate_that_is_a_tensor_stays_the_same_tensor(tmp_path: Path) -> None:
    model = model_for("SGD", 0)
    optimizer = optim.SGD(one_group(model), lr=torch.tensor(0.1), foreach=False)
    optimizer.param_groups[0]["lr"].fill_(0.025)
    found = save(tmp_path, 1, track(None, {"model": model, "optimizer": optimizer}).capture())
    rate = torch.tensor(0.1)
    restored = optim.SGD(one_group(model), lr=rate, foreach=False)
    track(found, {"model": model, "optimizer": restored})
    assert restored.param_groups[0]["lr"] is rate  # what else holds it sees the value
    assert rate == torch.tensor(0.025)


def test_a_rate_saved_as_a_tensor_is_not_shared_with_the_checkpoint(tmp_path: Path) -> None:
    model = model_for("SGD", 0)
    optimizer = optim.SGD(one_group(model), lr=torch.tensor(0.1), foreach=False)
    found = save(tmp_path, 1, track(None, {"model": model, "optimizer": optimizer}).capture())
    restored = optim.SGD(one_group(model), lr=0.5, foreach=False)
    track(found, {"model": model, "optimizer": restored})
    restored.param_groups[0]["lr"].fill_(7)
    again = optim.SGD(one_group(model), lr=0.5, foreach=False)
    track(found, {"model": model, "optimizer": again})
    assert again.param_groups[0]["lr"] == torch.tensor(0.1)


# --- by name ----------------------------------------------------------------------------------


def saved(optimizer: optim.Optimizer, names: Mapping[torch.Tensor, str]) -> Saved:
    """Return the state as it would be read, without a disk."""
    captured = checkpoint.capture_optimizer(optimizer, names)
    copies = {n: t.detach().clone() for n, t in {**captured.later, **captured.now}.items()}
    return Saved(copies, json.loads(store.to_json(captured.plain)))


NAMES = ["p0", "p1", "p2", "p3", "p4"]


@st.composite
def arrangements(draw: st.DrawFn) -> list[list[str]]:
    chosen = draw(st.lists(st.sampled_from(NAMES), unique=True, min_size=1))
    cuts = draw(st.sets(st.integers(1, len(chosen) - 1), max_size=2)) if len(chosen) > 1 else ()
    edges = [0, *sorted(cuts), len(chosen)]
    return [chosen[start:end] for start, end in itertools.pairwise(edges)]


@pytest.mark.parametrize("make", [optim.Adam, lambda g: optim.SGD(g, lr=0.01, momentum=0.9)])
@given(then=arrangements(), now=arrangements())
def test_state_lands_on_the_parameter_of_its_name(
    make: Make, then: list[list[str]], now: list[list[str]]
) -> None:
    def built(groups: list[list[str]], lr: float) -> tuple[nn.ParameterDict, optim.Optimizer]:
        model = nn.ParameterDict({name: torch.zeros(2, 2) for name in NAMES})
        rates = [lr + number for number in range(len(groups))]
        return model, make(groups_of(model, *groups, lr=rates))

    model, optimizer = built(then, 0.1)
    for number, parameter in enumerate(model.values()):
        parameter.grad = torch.full((2, 2), number + 1.0)
    optimizer.step()
    other, restored = built(now, 0.5)
    for parameter in other.values():  # state of its own, which must go
        parameter.grad = torch.full((2, 2), -7.0)
    restored.step()
    report = checkpoint.restore_optimizer(
        restored,
        names_in(other),
        saved(optimizer, names_in(model)),
    )
    held_then, held_now = [*itertools.chain(*then)], [*itertools.chain(*now)]
    for name in NAMES:
        kept = name in held_then and name in held_now
        expected = optimizer.state[model[name]] if kept else {}
        assert bits(dict(restored.state.get(other[name], {}))) == bits(dict(expected))
    assert report.restored == tuple(name for name in held_now if name in held_then)
    assert report.empty == tuple(name for name in held_now if name not in held_then)
    assert sorted(report.left_out) == sorted(set(held_then) - set(held_now))
    sets = [set(group) for group in then]
    assert report.regrouped == tuple(n for group in now if set(group) not in sets for n in group)
    assert report.complete == (sorted(map(sorted, then)) == sorted(map(sorted, now)))
    for number, group in enumerate(now):
        same = sets.index(set(group)) if set(group) in sets else None
        rate = 0.5 + number if same is None else 0.1 + same
        assert restored.param_groups[number]["lr"] == rate


@pytest.mark.parametrize("name", [n for n in OPTIMIZERS if n not in ("Muon", "SparseAdam")])
@pytest.mark.parametrize("change", ["frozen", "unfrozen", "reordered"])
def test_training_goes_on_after_a_change_of_what_learns(name: str, change: str) -> None:
    model = model_for(name, 0)
    everything = [n for n, _ in model.named_parameters()]
    some = everything[2:]
    then = some if change == "unfrozen" else everything
    now = {"frozen": some, "unfrozen": everything, "reordered": everything[::-1]}[change]
    optimizer = OPTIMIZERS[name](groups_of(model, then))
    for step in range(3):
        take_step(model, optimizer, step)
    names = names_in(model)
    kept = saved(optimizer, names)
    restored = OPTIMIZERS[name](groups_of(model, now))
    report = checkpoint.restore_optimizer(restored, names, kept)
    together = name.startswith("LBFGS")  # one state for the vector of all parameters
    assert report.restored == (() if together else tuple(n for n in now if n in then))
    assert set(report.empty) == set(now if together else set(now) - set(then))
    for parameter, own in names.items():
        expected = optimizer.state.get(parameter, {}) if own in report.restored else {}
        assert bits(dict(restored.state.get(parameter, {}))) == bits(dict(expected))
    take_step(model, restored, 3)


def test_a_changed_head_starts_empty_and_is_reported() -> None:
    model, other = model_for("Adam", 0), model_for("Adam", 1)
    other.fc = nn.Linear(4, 5)
    optimizer = OPTIMIZERS["Adam"](one_group(model))
    take_step(model, optimizer, 0)
    restored = OPTIMIZERS["Adam"](one_group(other))
    kept = saved(optimizer, names_in(model))
    report = checkpoint.restore_optimizer(restored, names_in(other), kept)
    assert report.empty == report.left_out == ("fc.weight", "fc.bias")
    assert "starts empty: fc.weight, fc.bias" in str(report)
    assert "left out: fc.weight, fc.bias" in str(report)
    assert not report.complete
    assert not restored.state.get(other.fc.weight)
    assert bits(dict(restored.state[other.scale])) == bits(dict(optimizer.state[model.scale]))
    take_step(other, restored, 1)


def test_a_head_of_another_name_does_not_take_the_old_ones_state() -> None:
    model, other = model_for("Adam", 0), model_for("Adam", 1)
    optimizer = OPTIMIZERS["Adam"](one_group(model))
    take_step(model, optimizer, 0)
    named: Any = {p: n.replace("fc.", "head.") for n, p in other.named_parameters()}
    restored = OPTIMIZERS["Adam"](one_group(other))
    kept = saved(optimizer, names_in(model))
    report = checkpoint.restore_optimizer(restored, named, kept)
    assert report.empty == ("head.weight", "head.bias")
    assert report.left_out == ("fc.weight", "fc.bias")
    assert not restored.state.get(other.fc.weight)


def test_state_of_another_kind_of_optimizer_is_an_error_and_changes_nothing() -> None:
    model = model_for("Adam", 0)
    names = names_in(model)
    adam = OPTIMIZERS["Adam"](one_group(model))
    take_step(model, adam, 0)
    adamw = OPTIMIZERS["AdamW"](one_group(model))
    take_step(model, adamw, 0)
    before = state_of(model, adamw)
    with pytest.raises(DoesNotFitError, match="the state of Adam, and the optimizer is AdamW"):
        checkpoint.restore_optimizer(adamw, names, saved(adam, names))
    assert state_of(model, adamw) == before


def test_a_parameter_of_no_module_is_an_error_that_gives_its_place_and_shape() -> None:
    model = model_for("SGD", 0)
    stray = nn.Parameter(torch.zeros(3, 1))
    optimizer = optim.SGD([*one_group(model), {"params": [nn.Parameter(torch.zeros(1)), stray]}])
    named = names_in(model)
    named[optimizer.param_groups[1]["params"][0]] = "known"
    with pytest.raises(DoesNotFitError, match=r"parameter 1 of group 1 of SGD, of shape \(3, 1\)"):
        checkpoint.capture_optimizer(optimizer, named)
    with pytest.raises(DoesNotFitError, match=r"parameter 0 of group 1 of SGD, of shape \(1,\)"):
        track(None, {"model": model, "optimizer": optimizer})


def test_state_of_no_parameter_is_refused() -> None:
    model = model_for("SGD", 0)
    optimizer = OPTIMIZERS["SGD"](one_group(model))
    optimizer.state["calls"] = 3  # type: ignore[index]
    with pytest.raises(UnsupportedStateError, match="SGD keeps state of no parameter: 'calls'"):
        checkpoint.capture_optimizer(optimizer, names_in(model))


def test_state_that_is_neither_a_tensor_nor_plain_is_refused_by_place() -> None:
    model = model_for("SGD", 0)
    optimizer = OPTIMIZERS["SGD"](one_group(model))
    optimizer.state[model.scale]["hook"] = print
    with pytest.raises(UnsupportedStateError, match="hook/scale"):
        checkpoint.capture_optimizer(optimizer, names_in(model))


def test_options_are_not_taken_for_state(tmp_path: Path) -> None:
    class Meta(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lr = nn.Parameter(torch.tensor(3.0))

    model: Any = nn.Sequential(Meta())  # its parameter is "0.lr", as is the option "lr" of group 0
    optimizer = optim.SGD(model.parameters(), lr=torch.tensor(0.1), momentum=0.9, foreach=False)
    model[0].lr.grad = torch.tensor(1.0)
    optimizer.step()
    found = save(tmp_path, 1, track(None, {"model": model, "optimizer": optimizer}).capture())
    restored = optim.SGD(model.parameters(), lr=torch.tensor(1.0), momentum=0.9, foreach=False)
    track(found, {"model": model, "optimizer": restored})
    assert state_of(model, restored) == state_of(model, optimizer)


# --- several modules --------------------------------------------------------------------------


def test_a_module_tracked_later_renames_nothing(tmp_path: Path) -> None:
    def built() -> tuple[Any, ...]:
        model = model_for("Adam", 0)
        return model, OPTIMIZERS["Adam"](one_group(model)), swa_utils.AveragedModel(model)

    model, optimizer, average = built()
    take_step(model, optimizer, 0)
    tracked = track(None, {"model": model, "optimizer": optimizer}, {"average": average})
    found = save(tmp_path, 1, tracked.capture())
    other, restored, beside = built()
    again = track(found, {"model": other, "optimizer": restored}, {"average": beside})
    assert again.notices() == []
    assert state_of(other, restored) == state_of(model, optimizer)


@pytest.mark.parametrize("later", [True, False])
def test_another_module_beside_is_no_reason_to_lose_state(tmp_path: Path, later: bool) -> None:
    # The average is new, or is no longer wanted, when the run goes on.
    def objects(average: bool, seed: int) -> dict[str, Any]:
        model = model_for("Adam", seed)
        own = {"model": model, "optimizer": OPTIMIZERS["Adam"](one_group(model))}
        return own | ({"average": swa_utils.AveragedModel(model)} if average else {})

    first = objects(not later, 0)
    take_step(first["model"], first["optimizer"], 0)
    found = save(tmp_path, 1, track(None, first).capture())
    second = objects(later, 1)
    notices = track(found, second).notices()
    assert notices == (["average is not in the checkpoint and starts as it is"] if later else [])
    expected = state_of(first["model"], first["optimizer"])
    assert state_of(second["model"], second["optimizer"]) == expected


def test_a_tensor_and_a_parameter_of_one_name_are_two(tmp_path: Path) -> None:
    def objects() -> dict[str, Any]:
        model = model_for("Adam", 0)
        scale = torch.tensor(1.0, requires_grad=True)
        optimizer = optim.Adam([*model.parameters(), scale])
        return {"model": model, "scale": scale, "optimizer": optimizer}

    first, second = objects(), objects()
    first["scale"].grad = torch.tensor(5.0)
    first["model"].scale.grad = torch.tensor(-1.0)
    first["optimizer"].step()
    track(save(tmp_path, 1, track(None, first).capture()), second)
    for one, other in (
        (first["scale"], second["scale"]),
        (first["model"].scale, second["model"].scale),
    ):
        assert bits(other) == bits(one)
        kept = second["optimizer"].state[other], first["optimizer"].state[one]
        assert bits(dict(kept[0])) == bits(dict(kept[1]))


def test_two_optimizers_of_two_modules(tmp_path: Path) -> None:
    def objects(seed: int) -> dict[str, Any]:
        one, two = model_for("Adam", seed), model_for("Adam", seed + 1)
        return {
            "generator": one,
            "critic": two,
            "first": optim.Adam(one.parameters()),
            "second": optim.SGD(two.parameters(), momentum=0.9),
        }

    first, second = objects(0), objects(2)
    take_step(first["generator"], first["first"], 0)
    take_step(first["critic"], first["second"], 0)
    again = track(save(tmp_path, 1, track(None, first).capture()), second)
    assert again.notices() == []
    for model, optimizer in (("generator", "first"), ("critic", "second")):
        expected = state_of(first[model], first[optimizer])
        assert state_of(second[model], second[optimizer]) == expected


# --- schedulers -------------------------------------------------------------------------------

Scheduler = Callable[[optim.Optimizer], Any]
S = lr_scheduler


def in_sequence(optimizer: optim.Optimizer) -> Any:
    parts = [S.LinearLR(optimizer, 0.1, total_iters=4), S.CosineAnnealingLR(optimizer, 5)]
    return S.SequentialLR(optimizer, [*parts, S.ExponentialLR(optimizer, 0.8)], [4, 8])


def chained(optimizer: optim.Optimizer) -> Any:
    parts = [S.ConstantLR(optimizer, 0.1, 3), S.ExponentialLR(optimizer, 0.9)]
    return S.ChainedScheduler([*parts, S.MultiStepLR(optimizer, [2, 5, 5])], optimizer)


class Ramp:
    """A rule with a state of its own."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, epoch: int) -> float:
        self.calls += 1
        return 1 / (1 + epoch) + self.calls / 100


SCHEDULERS: dict[str, Scheduler] = {
    "LambdaLR": lambda o: S.LambdaLR(o, [lambda n: 0.9**n, lambda n: 1 / (n + 1)]),
    "LambdaLR with an object": lambda o: S.LambdaLR(o, Ramp()),
    "MultiplicativeLR": lambda o: S.MultiplicativeLR(o, lambda n: 0.5 + n / 20),
    "StepLR": lambda o: S.StepLR(o, 3),
    "MultiStepLR": lambda o: S.MultiStepLR(o, [2, 3, 3, 9]),
    "ConstantLR": lambda o: S.ConstantLR(o, 0.3, 5),
    "LinearLR": lambda o: S.LinearLR(o, 0.2, 1.0, 6),
    "ExponentialLR": lambda o: S.ExponentialLR(o, 0.77),
    "PolynomialLR": lambda o: S.PolynomialLR(o, 9, 2.0),
    "CosineAnnealingLR": lambda o: S.CosineAnnealingLR(o, 5, 1e-4),
    "CosineAnnealingWarmRestarts": lambda o: S.CosineAnnealingWarmRestarts(o, 3, 2),
    "CyclicLR": lambda o: S.CyclicLR(o, [0.01, 0.02], [0.1, 0.3], 3, 2, mode="exp_range"),
    "CyclicLR with a rule": lambda o: S.CyclicLR(o, 0.01, 0.1, 2, scale_fn=lambda x: 1 / (1 + x)),
    "OneCycleLR": lambda o: S.OneCycleLR(o, [0.1, 0.4], total_steps=13),
    "OneCycleLR in three": lambda o: S.OneCycleLR(
        o, 0.2, total_steps=13, three_phase=True, anneal_strategy="linear"
    ),
    "ReduceLROnPlateau": lambda o: S.ReduceLROnPlateau(o, patience=1, cooldown=1, factor=0.5),
    "SequentialLR": in_sequence,
    "ChainedScheduler": chained,
    "SWALR": lambda o: swa_utils.SWALR(o, [0.01, 0.2], anneal_epochs=5),  # type: ignore[arg-type]
    "SWALR linear": lambda o: swa_utils.SWALR(o, 0.3, anneal_epochs=4, anneal_strategy="linear"),
}
LAST = 12


def test_no_scheduler_is_forgotten() -> None:
    kinds = [k for k in (*vars(S).values(), swa_utils.SWALR) if isinstance(k, type)]
    names = {kind.__name__ for kind in kinds if issubclass(kind, S.LRScheduler)}
    expected = {name.split()[0] for name in SCHEDULERS}
    assert names - {"LRScheduler", "_LRScheduler"} == expected
    assert {name for name in S.__all__ if name != "LRScheduler"} <= expected


def with_momentum(groups: Groups) -> optim.Optimizer:
    return optim.SGD(groups, momentum=0.9)


def with_betas(groups: Groups) -> optim.Optimizer:
    return optim.AdamW(groups)


def with_tensors(groups: Groups) -> optim.Optimizer:
    for group in groups:
        group["lr"] = torch.tensor(group["lr"], dtype=torch.float64)
    return optim.SGD(groups, momentum=0.9, foreach=False)


def two_groups(make: Make, seed: int) -> tuple[nn.Module, optim.Optimizer]:
    torch.manual_seed(seed)
    model = nn.Linear(2, 1)
    return model, make(groups_of(model, ["weight"], ["bias"], lr=[0.1, 0.037]))


def rates_and_weights(model: nn.Module, optimizer: optim.Optimizer) -> Any:
    groups = [{k: v for k, v in g.items() if k != "params"} for g in optimizer.param_groups]
    return bits(groups), bits(model.state_dict())


def advance(model: nn.Module, optimizer: optim.Optimizer, scheduler: Any, step: int) -> None:
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, math.sin(step))
    optimizer.step()
    if isinstance(scheduler, S.ReduceLROnPlateau):
        scheduler.step(math.cos(step) + (step > 5))
    else:
        scheduler.step()


Parts = tuple[nn.Module, optim.Optimizer, Any]


def all_at_once(make: Make, schedule: Scheduler, found: Checkpoint | None) -> Parts:
    model, optimizer = two_groups(make, 1)
    scheduler = schedule(optimizer)
    track(found, {"model": model, "optimizer": optimizer, "scheduler": scheduler})
    return model, optimizer, scheduler


def all_at_once_scheduler_first(make: Make, schedule: Scheduler, found: Checkpoint | None) -> Parts:
    model, optimizer = two_groups(make, 1)
    scheduler = schedule(optimizer)
    track(found, {"scheduler": scheduler, "optimizer": optimizer, "model": model})
    return model, optimizer, scheduler


def tracked_later(make: Make, schedule: Scheduler, found: Checkpoint | None) -> Parts:
    model, optimizer = two_groups(make, 1)
    scheduler = schedule(optimizer)
    track(found, {"model": model, "optimizer": optimizer}, {"scheduler": scheduler})
    return model, optimizer, scheduler


def tracked_before_the_optimizer(
    make: Make, schedule: Scheduler, found: Checkpoint | None
) -> Parts:
    model, optimizer = two_groups(make, 1)
    scheduler = schedule(optimizer)
    track(found, {"model": model, "scheduler": scheduler}, {"optimizer": optimizer})
    return model, optimizer, scheduler


def built_on_what_was_restored(make: Make, schedule: Scheduler, found: Checkpoint | None) -> Parts:
    model, optimizer = two_groups(make, 1)
    tracked = track(found, {"model": model, "optimizer": optimizer})
    scheduler = schedule(optimizer)
    tracked.add({"scheduler": scheduler}, found)
    return model, optimizer, scheduler


ORDERS = [
    all_at_once,
    all_at_once_scheduler_first,
    tracked_later,
    tracked_before_the_optimizer,
    built_on_what_was_restored,
]


@pytest.mark.parametrize("make", [with_momentum, with_betas, with_tensors])
@pytest.mark.parametrize("name", SCHEDULERS)
def test_after_a_restore_the_rates_are_those_of_the_uninterrupted_run(
    tmp_path: Path, name: str, make: Make
) -> None:
    schedule = SCHEDULERS[name]
    model, optimizer = two_groups(make, 0)
    scheduler = schedule(optimizer)
    tracked = track(None, {"model": model, "optimizer": optimizer, "scheduler": scheduler})
    trace, found = [], []
    for step in range(LAST + 1):
        found.append(save(tmp_path, step, tracked.capture()))
        trace.append(rates_and_weights(model, optimizer))
        if step < LAST:
            advance(model, optimizer, scheduler, step)
    assert len({str(rates) for rates, _ in trace}) > 1, "it does something"
    for order in ORDERS:
        for stop in range(LAST + 1):
            parts = order(make, schedule, found[stop])
            for step in range(stop, LAST + 1):
                now = rates_and_weights(parts[0], parts[1])
                assert now == trace[step], (order.__name__, stop, step)
                if step < LAST:
                    advance(*parts, step)


def test_a_scheduler_for_other_groups_does_not_fit(tmp_path: Path) -> None:
    model, optimizer = two_groups(with_momentum, 0)
    scheduler = S.StepLR(optimizer, 3)
    tracked = track(None, {"model": model, "optimizer": optimizer, "scheduler": scheduler})
    found = save(tmp_path, 1, tracked.capture())
    other = with_momentum(one_group(model))
    with pytest.raises(DoesNotFitError, match=r"scheduler had 2 parameter groups.*has 1 now"):
        track(found, {"model": model, "optimizer": other, "scheduler": S.StepLR(other, 3)})


# --- other state ------------------------------------------------------------------------------


@pytest.mark.parametrize("stop", range(7))
def test_a_gradient_scaler_goes_on(tmp_path: Path, stop: int) -> None:
    def built(seed: int) -> dict[str, Any]:
        model = model_for("SGD", seed)
        optimizer = optim.SGD(model.parameters(), lr=0.01)
        scaler = torch.amp.GradScaler("cpu", init_scale=64.0, growth_interval=2)
        return {"model": model, "optimizer": optimizer, "scaler": scaler}

    def advance(parts: dict[str, Any], step: int) -> None:
        images = torch.randn(3, 3, 3, 3, generator=torch.Generator().manual_seed(step))
        parts["optimizer"].zero_grad()
        loss = parts["model"](images).square().mean() * (math.inf if step == 3 else 1)
        parts["scaler"].scale(loss).backward()
        parts["scaler"].step(parts["optimizer"])
        parts["scaler"].update()

    def state(parts: dict[str, Any]) -> Any:
        return bits([parts["model"].state_dict(), parts["scaler"].state_dict()])

    first = built(0)
    for step in range(stop):
        advance(first, step)
    first["optimizer"].zero_grad()
    second = built(1)
    again = track(save(tmp_path, stop, track(None, first).capture()), second)
    assert again.notices() == []
    for step in range(stop, 8):
        assert state(second) == state(first)
        advance(first, step)
        advance(second, step)


def test_an_averaged_model_goes_on(tmp_path: Path) -> None:
    def built(seed: int) -> dict[str, Any]:
        model = model_for("SGD", seed)
        average = swa_utils.AveragedModel(model, use_buffers=True)
        return {"model": model, "optimizer": optim.SGD(model.parameters()), "average": average}

    def advance(parts: dict[str, Any], step: int) -> None:
        take_step(parts["model"], parts["optimizer"], step)
        parts["average"].update_parameters(parts["model"])

    first, second = built(0), built(1)
    for step in range(3):
        advance(first, step)
    assert track(save(tmp_path, 3, track(None, first).capture()), second).notices() == []
    for step in range(3, 6):
        assert bits(second["average"].state_dict()) == bits(first["average"].state_dict())
        advance(first, step)
        advance(second, step)


class Sampler:
    """A user's own object."""

    def __init__(self, seed: int) -> None:
        self.generator = torch.Generator().manual_seed(seed)
        self.seen: dict[Any, Any] = {}

    def next(self) -> int:
        number = int(torch.randint(100, (), generator=self.generator))
        self.seen[number, "times"] = self.seen.get((number, "times"), 0) + 1
        return number

    def state_dict(self) -> dict[str, Any]:
        return {"generator": self.generator.get_state(), "seen": self.seen}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.generator.set_state(state["generator"])
        self.seen = state["seen"]


def test_an_object_of_ones_own_goes_on(tmp_path: Path) -> None:
    first, second = Sampler(0), Sampler(1)
    for _ in range(3):
        first.next()
    found = save(tmp_path, 1, track(None, {"sampler": first}).capture())
    track(found, {"sampler": second})
    assert [second.next() for _ in range(5)] == [first.next() for _ in range(5)]
    assert second.seen == first.seen


def test_what_an_object_was_given_is_its_own(tmp_path: Path) -> None:
    class Holder:
        value = torch.tensor([1.0])

        def state_dict(self) -> Any:
            return {"value": self.value}

        def load_state_dict(self, state: Any) -> None:
            self.value = state["value"]

    found = save(tmp_path, 1, track(None, {"holder": Holder()}).capture())
    first, second = Holder(), Holder()
    track(found, {"holder": first})
    first.value.fill_(9)
    track(found, {"holder": second})
    assert second.value == 1


def test_a_tensor_is_put_back_in_place(tmp_path: Path) -> None:
    first = {"centre": torch.tensor([1.0, math.nan]), "count": torch.tensor(3)}
    found = save(tmp_path, 1, track(None, first).capture())
    second = {"centre": torch.zeros(2), "count": torch.tensor(0)}
    track(found, second)
    assert bits(second) == bits(first)
    for wrong in (torch.zeros(3), torch.zeros(2, dtype=torch.float64)):
        with pytest.raises(DoesNotFitError, match=r"centre is torch.float32 of shape \(2,\)"):
            track(found, {"centre": wrong})


def test_an_object_without_a_state_is_refused() -> None:
    with pytest.raises(UnsupportedStateError, match="clock is a object, which has no state_dict"):
        track(None, {"clock": object()})


@pytest.mark.parametrize("name", [GRADIENTS, "data"])
def test_names_that_are_luthiers_own_are_refused(name: str) -> None:
    with pytest.raises(RunFolderError, match=f"the name '{name}' is luthier's own"):
        track(None, {name: torch.zeros(1)})


@pytest.mark.parametrize("name", ["", "..", "a/b", "../x", "model.fc", "a\0"])
def test_names_that_no_file_can_have_are_refused(name: str) -> None:
    with pytest.raises(RunFolderError, match="names no file"):
        track(None, {name: torch.zeros(1)})


def test_a_name_is_given_once() -> None:
    with pytest.raises(RunFolderError, match="'x' is tracked already"):
        track(None, {"x": torch.zeros(1)}, {"x": torch.zeros(1)})


def test_state_of_something_that_is_not_tracked_is_an_error(tmp_path: Path) -> None:
    model = model_for("SGD", 0)
    objects = {"model": model, "average": torch.zeros(1)}
    found = save(tmp_path, 1, track(None, objects).capture())
    with pytest.raises(DoesNotFitError, match=r"the state of 'average'.*did you mean 'averages'"):
        track(found, {"model": model, "averages": torch.zeros(1)}).check_complete(found)
    track(found, objects).check_complete(found)


def test_a_model_that_does_not_fit_is_an_error_and_nothing_of_it_changes(tmp_path: Path) -> None:
    model, other = model_for("SGD", 0), model_for("SGD", 1)
    found = save(tmp_path, 1, track(None, {"model": model}).capture())
    other.fc = nn.Linear(4, 7)
    del other.scale
    before = bits(other.state_dict())
    with pytest.raises(DoesNotFitError, match=r"fc.bias .*\n.*fc.weight(.|\n)*scale .* missing"):
        track(found, {"model": other})
    assert bits(other.state_dict()) == before


# --- gradients --------------------------------------------------------------------------------


def backward(model: nn.Module, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    model(torch.randn(3, 3, 3, 3, generator=generator)).square().mean().backward()


def test_gradients_that_accumulate_are_saved_and_come_back(tmp_path: Path) -> None:
    def objects(seed: int) -> dict[str, Any]:
        model = model_for("Adam", seed).to(memory_format=torch.channels_last)
        return {"model": model, "optimizer": optim.Adam(model.parameters())}

    first, second = objects(0), objects(1)
    tracked = track(None, first)
    tracked.boundary()
    backward(first["model"], 1)
    tracked.boundary()
    backward(first["model"], 2)
    found = save(tmp_path, 2, tracked.capture())
    track(found, second)
    for (name, one), other in zip(
        first["model"].named_parameters(), second["model"].parameters(), strict=True
    ):
        assert other.grad is not None, name
        assert bits(other.grad) == bits(one.grad)
        assert not other.grad.requires_grad
    for objects_ in (first, second):
        backward(objects_["model"], 3)
        objects_["optimizer"].step()
    assert bits(second["model"].state_dict()) == bits(first["model"].state_dict())


def test_gradients_are_not_saved_after_a_step() -> None:
    model, critic = model_for("Adam", 0), model_for("Adam", 1)
    optimizer, other = optim.Adam(model.parameters()), optim.SGD(critic.parameters())
    parts = {"model": model, "critic": critic, "optimizer": optimizer, "other": other}
    tracked = track(None, parts)
    tracked.boundary()
    assert GRADIENTS not in tracked.capture()
    backward(model, 0)
    backward(critic, 0)
    assert len(tracked.capture()[GRADIENTS].now) == len(tracked.names())
    optimizer.step()
    found = tracked.capture()[GRADIENTS].now  # one of two has stepped
    assert {id(p) for p, n in tracked.names().items() if n in found} == set(
        map(id, critic.parameters())
    )
    other.step()
    assert GRADIENTS not in tracked.capture()
    tracked.boundary()
    backward(model, 1)  # the next round has begun
    assert GRADIENTS in tracked.capture()


def test_what_a_module_keeps_beside_its_tensors_comes_back(tmp_path: Path) -> None:
    class Counting(nn.Linear):
        calls: Any = (0, None)

        def get_extra_state(self) -> Any:
            return {"calls": self.calls, "last": torch.tensor(self.calls[0])}

        def set_extra_state(self, state: Any) -> None:
            assert state["last"] == state["calls"][0]
            self.calls = state["calls"]

    first: Any = nn.Sequential(Counting(1, 1))
    second: Any = nn.Sequential(Counting(1, 1))
    first[0].calls = (7, "x")
    track(save(tmp_path, 1, track(None, {"model": first}).capture()), {"model": second})
    assert second[0].calls == (7, "x")
    assert bits(second[0].weight) == bits(first[0].weight)


def test_tied_weights_stay_tied_and_are_equal(tmp_path: Path) -> None:
    def tied(seed: int) -> Any:
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
        model[1].weight = model[0].weight
        return model

    first, second = tied(0), tied(1)
    made = [optim.SGD(m.parameters(), lr=0.1, momentum=0.9) for m in (first, second)]
    first[0].weight.grad = torch.ones(3, 3)
    made[0].step()
    found = save(tmp_path, 1, track(None, {"model": first, "optimizer": made[0]}).capture())
    again = track(found, {"model": second, "optimizer": made[1]})
    assert again.notices() == []
    assert second[1].weight is second[0].weight
    assert state_of(second, made[1]) == state_of(first, made[0])


def test_a_wrapped_module_is_the_module(tmp_path: Path) -> None:
    model = model_for("SGD", 0)
    found = save(tmp_path, 1, track(None, {"model": nn.DataParallel(model)}).capture())
    other = model_for("SGD", 1)
    track(found, {"model": other})
    assert bits(other.state_dict()) == bits(model.state_dict())
