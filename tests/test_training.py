"""Training: schedules as torch's own, exact accumulation, averages, evaluation, divergence."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F
from torch.optim import lr_scheduler

from luthier.errors import DivergedError
from luthier.recipe import Optimizer, Regularisation, Schedule
from luthier.training import (
    Learner,
    Precision,
    Rates,
    WeightAverage,
    check_finite,
    evaluate,
    make_criterion,
    make_mix,
    make_optimizer,
    rates_at,
    train_epoch,
)
from luthier.values import Position, Step

CPU = Precision("cpu")
Batches = list[tuple[torch.Tensor, torch.Tensor]]


def parameters() -> list[nn.Parameter]:
    return [nn.Parameter(torch.ones(1))]


def optimizer_of(kind: str, lr: float) -> torch.optim.Optimizer:
    if kind == "sgd":
        return torch.optim.SGD(parameters(), lr=lr, momentum=0.9)
    return torch.optim.AdamW(parameters(), lr=lr)


@pytest.mark.parametrize(("size", "gamma", "each"), [(7, 0.1, 13), (1, 0.5, 1), (3, 0.9, 4)])
def test_step_is_torchs_step_lr(size: int, gamma: float, each: int) -> None:
    optimizer = optimizer_of("sgd", 0.3)
    scheduler = lr_scheduler.StepLR(optimizer, size, gamma)
    schedule = Schedule("step", step_size=size, gamma=gamma, warmup_epochs=0.0)
    for epoch in range(25):
        for step in range(epoch * each, (epoch + 1) * each):
            ours = rates_at(schedule, step, each, 25 * each)
            assert 0.3 * ours.factor == pytest.approx(scheduler.get_last_lr()[0], rel=1e-12, abs=0)
            assert ours.momentum is None
        optimizer.step()
        scheduler.step()


@pytest.mark.parametrize("steps", [1, 2, 10, 333])
def test_cosine_is_torchs_cosine_annealing_at_every_step(steps: int) -> None:
    optimizer = optimizer_of("sgd", 0.3)
    scheduler = lr_scheduler.CosineAnnealingLR(optimizer, T_max=steps)
    schedule = Schedule("cosine", warmup_epochs=0.0)
    for step in range(steps):
        ours = 0.3 * rates_at(schedule, step, 5, steps).factor
        # torch multiplies step by step, whose rounding near the end is relative to the start
        assert ours == pytest.approx(scheduler.get_last_lr()[0], rel=1e-12, abs=1e-12 * 0.3)
        optimizer.step()
        scheduler.step()


@pytest.mark.parametrize("kind", ["sgd", "adamw"])
@pytest.mark.parametrize("steps", [1, 2, 3, 4, 5, 10, 100, 257])
def test_one_cycle_is_torchs_one_cycle(kind: str, steps: int) -> None:
    optimizer = optimizer_of(kind, 0.3)
    scheduler = lr_scheduler.OneCycleLR(optimizer, max_lr=0.3, total_steps=steps)
    schedule = Schedule("one-cycle")
    for step in range(steps):
        ours, theirs = rates_at(schedule, step, 5, steps), optimizer.param_groups[0]
        momentum = theirs["momentum"] if kind == "sgd" else theirs["betas"][0]
        assert 0.3 * ours.factor == pytest.approx(theirs["lr"], rel=1e-12, abs=0)
        assert ours.momentum == pytest.approx(momentum, rel=1e-12, abs=0)
        optimizer.step()
        if step + 1 < steps:
            scheduler.step()


def test_constant_stays() -> None:
    schedule = Schedule("constant", warmup_epochs=0.0)
    assert {rates_at(schedule, step, 4, 40) for step in range(40)} == {Rates(1.0)}


@settings(deadline=None)
@given(
    st.sampled_from(["step", "cosine", "constant"]),
    st.integers(1, 20),
    st.integers(2, 8),
    st.floats(0.01, 1.9),
)
def test_warm_up_rises_evenly_and_then_the_schedule_begins(
    name: str, each: int, epochs: int, warmup: float
) -> None:
    schedule = Schedule(name, step_size=3, gamma=0.5, warmup_epochs=warmup)
    steps, rising = each * epochs, round(warmup * each)
    factors = [rates_at(schedule, step, each, steps).factor for step in range(steps)]
    assert factors[:rising] == pytest.approx([(i + 1) / rising for i in range(rising)])
    assert all(0.0 < factor <= 1.0 for factor in factors)
    if rising < steps:
        assert factors[rising] == 1.0
    cold = Schedule(name, step_size=3, gamma=0.5, warmup_epochs=0.0)
    if name == "cosine":
        rest = [rates_at(cold, step, each, steps - rising).factor for step in range(steps - rising)]
    else:
        rest = [rates_at(cold, step, each, steps).factor for step in range(rising, steps)]
    assert factors[rising:] == pytest.approx(rest, rel=1e-12)


def net(dropout: float = 0.0) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.Tanh(), nn.Flatten(), nn.Dropout(dropout), nn.Linear(4 * 36, 3)
    )


def batches_of(sizes: Iterable[int], seed: int = 1) -> Batches:
    generator = torch.Generator().manual_seed(seed)
    return [
        (
            torch.randn(size, 3, 8, 8, generator=generator),
            torch.randint(0, 3, (size,), generator=generator),
        )
        for size in sizes
    ]


def groups_of(model: nn.Module) -> list[dict[str, Any]]:
    return [{"params": list(model.parameters()), "rate": 1.0}]


def learner_of(model: nn.Module, lr: float = 0.1, **given: Any) -> Learner:
    base: dict[str, Any] = {
        "optimizer": torch.optim.SGD(groups_of(model), lr=lr),
        "criterion": nn.CrossEntropyLoss(),
        "precision": CPU,
        "schedule": lambda _: Rates(1.0),
        "lr": lr,
    }
    return Learner(model, **(base | given))


def train(learner: Learner, batches: Batches, epoch: int = 0, step: int = 0) -> list[Step]:
    sizes = [len(labels) for _, labels in batches]
    return list(train_epoch(learner, batches, sizes, Position(epoch, 0, step)))


def weights(model: nn.Module) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in model.parameters()]).clone()


def same_state(a: nn.Module, b: nn.Module) -> bool:
    theirs = b.state_dict()
    return all(torch.equal(t, theirs[n]) for n, t in a.state_dict().items())


def balanced() -> Any:
    return make_criterion(
        Regularisation(label_smoothing=0.0, class_weights="balanced"), [9, 3, 1], "cpu"
    )


CRITERIA = {
    "plain": nn.CrossEntropyLoss,
    "smoothed": lambda: nn.CrossEntropyLoss(label_smoothing=0.2),
    "balanced": balanced,
}


@pytest.mark.parametrize("criterion", CRITERIA)
@pytest.mark.parametrize(
    ("sizes", "accumulate"), [([4, 4, 4, 4, 3], 3), ([4, 4], 2), ([4, 2], 5), ([3, 3, 1], 1)]
)
def test_accumulated_gradients_are_that_of_one_large_batch(
    sizes: list[int], accumulate: int, criterion: str
) -> None:
    batches = batches_of(sizes)
    model, whole = net(), net()
    loss = CRITERIA[criterion]()
    steps = train(learner_of(model, accumulate=accumulate, criterion=loss), batches)
    starts = range(0, len(sizes), accumulate)
    large = [
        (torch.cat([b[0] for b in group]), torch.cat([b[1] for b in group]))
        for group in (batches[start : start + accumulate] for start in starts)
    ]
    train(learner_of(whole, criterion=loss), large)
    torch.testing.assert_close(weights(model), weights(whole), rtol=1e-5, atol=1e-6)
    stepped = [(i + 1) % accumulate == 0 or i + 1 == len(sizes) for i in range(len(sizes))]
    assert [step.stepped for step in steps] == stepped
    assert [step.step for step in steps] == [sum(stepped[: i + 1]) for i in range(len(sizes))]
    assert [step.images for step in steps] == sizes


def test_a_step_is_one_of_torchs_own() -> None:
    model, by_hand = net(), net()
    batches = batches_of([4, 4])
    steps = train(learner_of(model, lr=0.2), batches)
    optimizer = torch.optim.SGD(by_hand.parameters(), lr=0.2)
    for (images, labels), step in zip(batches, steps, strict=True):
        optimizer.zero_grad()
        scores = by_hand(images)
        loss = F.cross_entropy(scores, labels)
        assert step.loss == pytest.approx(loss.item(), rel=1e-6)
        assert step.correct == int((scores.argmax(1) == labels).sum())
        assert (step.lr, step.epoch) == (0.2, 0)
        loss.backward()
        optimizer.step()
    torch.testing.assert_close(weights(model), weights(by_hand), rtol=1e-6, atol=1e-7)


def test_the_schedule_reaches_every_group_at_its_rate() -> None:
    model = net()
    schedules = [Rates(0.5, 0.8), Rates(0.25, 0.7)]
    for kind in (torch.optim.SGD, torch.optim.AdamW):
        groups = [
            {"params": list(model[0].parameters()), "rate": 0.5},
            {"params": list(model[4].parameters()), "rate": 1.0},
        ]
        optimizer = kind(groups, lr=1.0)
        learner = learner_of(
            model, lr=0.1, optimizer=optimizer, schedule=lambda step: schedules[step - 5]
        )
        batches = batches_of([2, 2])
        seen = []
        for step in train_epoch(learner, batches, [2, 2], Position(0, 0, 5)):
            low, high = optimizer.param_groups
            seen.append((step.lr, low["lr"], high["lr"], low.get("momentum", low.get("betas"))))
        assert [s[:3] for s in seen] == [(0.05, 0.025, 0.05), (0.025, 0.0125, 0.025)]
        sgd = [0.8, 0.7]
        adam = [(0.8, 0.999), (0.7, 0.999)]
        assert [s[3] for s in seen] == (sgd if isinstance(optimizer, torch.optim.SGD) else adam)


@pytest.mark.parametrize("limit", [0.01, 1e6])
def test_the_gradient_is_clipped_to_its_norm(limit: float) -> None:
    model, free = net(), net()
    start = weights(model)
    train(learner_of(model, lr=1.0, clip_norm=limit), batches_of([4]))
    train(learner_of(free, lr=1.0), batches_of([4]))
    moved, would = weights(model) - start, weights(free) - start
    if limit == 0.01:
        assert float(would.norm()) > 0.1
        assert float(moved.norm()) == pytest.approx(limit, rel=1e-3)
        torch.testing.assert_close(moved / moved.norm(), would / would.norm(), rtol=0, atol=1e-4)
    else:
        assert torch.equal(moved, would)


def test_the_optimizer_is_the_recipes() -> None:
    groups = [{"params": parameters(), "rate": 1.0, "weight_decay": 0.05}]
    sgd = make_optimizer(Optimizer("sgd", lr=0.2, momentum=0.5), copy.deepcopy(groups))
    assert isinstance(sgd, torch.optim.SGD)
    facts = sgd.param_groups[0]
    assert (facts["lr"], facts["momentum"], facts["weight_decay"]) == (0.2, 0.5, 0.05)
    adamw = make_optimizer(Optimizer("adamw", lr=0.2), copy.deepcopy(groups))
    assert isinstance(adamw, torch.optim.AdamW)
    assert adamw.param_groups[0]["weight_decay"] == 0.05


def test_balanced_weights_make_classes_count_the_same() -> None:
    scores = torch.randn(13, 3, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([0] * 9 + [1] * 3 + [2])  # as the criterion was told
    each = F.cross_entropy(scores, labels, reduction="none")
    by_class = torch.stack([each[labels == c].mean() for c in range(3)])
    torch.testing.assert_close(balanced()(scores, labels), by_class.mean())
    plain = make_criterion(Regularisation(class_weights="none"), [9, 3, 1], "cpu")
    torch.testing.assert_close(plain(scores, labels), each.mean())
    smooth = make_criterion(Regularisation(label_smoothing=0.3), [9, 3, 1], "cpu")
    spread = -scores.log_softmax(1).mean(1)
    torch.testing.assert_close(smooth(scores, labels), (0.7 * each + 0.3 * spread).mean())


def test_mixing_makes_class_shares_and_is_decided_by_seed_and_batch() -> None:
    assert make_mix(Regularisation(), 3) is None
    mix = make_mix(Regularisation(mixup=0.4, cutmix=1.0), 3)
    assert mix is not None
    seen: list[torch.Tensor] = []

    def watched(images: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        mixed = mix(images, labels)
        seen.append(mixed[1])
        return mixed

    models = [net(), net(), net()]
    for model, seed, noise in zip(models, (1, 1, 2), (5, 6, 7), strict=True):
        torch.manual_seed(noise)
        steps = train(learner_of(model, mix=watched, seed=seed), batches_of([6, 6]))
        assert all(0 <= step.correct <= 6 for step in steps)
    assert all(tuple(shares.shape) == (6, 3) for shares in seen)
    torch.testing.assert_close(seen[0].sum(1), torch.ones(6))
    assert same_state(models[0], models[1])
    assert not same_state(models[0], models[2])


def test_dropout_is_decided_by_seed_and_batch_and_nothing_else() -> None:
    batches = batches_of([4, 4])

    def trained(noise: int, **given: Any) -> nn.Module:
        model = net(0.5)
        learner = learner_of(model, **given)
        torch.manual_seed(noise)
        train(learner, batches)
        return model

    assert same_state(trained(1, seed=3), trained(2, seed=3))
    assert not same_state(trained(1, seed=3), trained(1, seed=4))
    masks = []
    model = net(0.5)
    model[3].register_forward_hook(lambda _, __, out: masks.append(out.detach() == 0))
    train(learner_of(model, lr=1e-9), [batches[0], batches[0]])
    train(learner_of(model, lr=1e-9), [batches[0], batches[0]], epoch=1)
    train(learner_of(model, lr=1e-9), [batches[0], batches[0]])
    assert all(not torch.equal(masks[i], masks[j]) for i in range(4) for j in range(i))
    assert torch.equal(masks[0], masks[4])
    assert torch.equal(masks[1], masks[5])


def test_an_epoch_may_begin_in_its_middle() -> None:
    batches = batches_of([4, 4, 4, 2])
    whole, cut = net(0.5), net(0.5)
    learner = learner_of(whole, accumulate=2)
    train(learner, batches)
    first = learner_of(cut, accumulate=2)
    for step in train_epoch(first, batches, [4, 4, 4, 2], Position()):
        if step.batch == 2:
            break
    list(train_epoch(first, batches[2:], [4, 4, 4, 2], Position(0, 2, 1)))
    assert same_state(whole, cut)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_stops_before_it_moves_a_weight(bad: float) -> None:
    model = net()
    learner = learner_of(
        model, optimizer=torch.optim.SGD(groups_of(model), lr=0.1, momentum=0.9, weight_decay=0.1)
    )
    batches = batches_of([4, 4])
    train(learner, batches)
    before = copy.deepcopy(model)
    batches[0][0][0, 0, 0, 0] = bad
    with torch.no_grad():
        model[4].bias.fill_(0.0)
        before[4].bias.fill_(0.0)
    model[1] = nn.Identity()  # infinity would be one after tanh
    with pytest.raises(DivergedError, match=r"the loss became .* in batch 3 of the run") as error:
        train(learner, batches, epoch=1)
    assert error.value.exit_status == 1
    assert "not finite" in str(error.value)
    assert same_state(model, before)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("bad", [[math.nan], [math.inf], [math.inf, -math.inf]], ids=str)
def test_weights_that_are_not_finite_are_named(bad: list[float], dtype: torch.dtype) -> None:
    most = torch.finfo(dtype).max
    weights = {"large": torch.full((4,), most, dtype=dtype), "count": torch.tensor(3)}
    check_finite(weights)  # though their sum is infinite
    weights["bad"] = torch.ones(5, dtype=dtype)
    weights["bad"][: len(bad)] = torch.tensor(bad, dtype=dtype)
    with pytest.raises(DivergedError, match="the weights bad are no longer finite"):
        check_finite(weights)


class WithBuffers(nn.Module):
    """A parameter, buffers that move, and buffers that never do."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([1.0, 2.0]))
        self.register_buffer("running", torch.zeros(2))
        self.register_buffer("count", torch.tensor(0))
        self.register_buffer("mask", torch.tensor([[0.0, -torch.inf], [-0.0, 0.1]]))


def test_the_average_is_the_sum_of_its_formula() -> None:
    model = WithBuffers()
    average = WeightAverage(model, 0.9)
    mean = model.weight.detach().double().clone()
    running = model.running.double().clone()
    for n in range(120):
        with torch.no_grad():
            model.weight += torch.tensor([0.5, -0.25])
            model.running += 1
            model.count += 1
        decay = min(0.9, (1 + n) / (10 + n))
        mean = decay * mean + (1 - decay) * model.weight.detach().double()
        running = decay * running + (1 - decay) * model.running.double()
        average.update(n)
        torch.testing.assert_close(average.tensors["weight"].double(), mean, rtol=1e-5, atol=0)
        torch.testing.assert_close(average.tensors["running"].double(), running, rtol=1e-5, atol=0)
        assert int(average.tensors["count"]) == n + 1


def test_what_never_moves_keeps_its_bits_in_the_average() -> None:
    model = WithBuffers()
    average = WeightAverage(model, 0.9)
    for n in range(3):
        average.update(n)
    for name, tensor in model.state_dict().items():
        kept = average.tensors[name]
        assert torch.equal(kept, tensor), name
        if tensor.is_floating_point():
            assert torch.equal(torch.signbit(kept), torch.signbit(tensor)), name


def test_the_average_stands_in_for_the_weights_and_gives_them_back() -> None:
    model = WithBuffers()
    average = WeightAverage(model, 0.9)
    with torch.no_grad():
        model.weight += 1
    own = {n: t.clone() for n, t in model.state_dict().items()}
    with average.in_place_of_weights():
        assert torch.equal(model.weight, torch.tensor([1.0, 2.0]))
    assert all(torch.equal(t, own[n]) for n, t in model.state_dict().items())
    with pytest.raises(KeyboardInterrupt), average.in_place_of_weights():
        raise KeyboardInterrupt
    assert all(torch.equal(t, own[n]) for n, t in model.state_dict().items())
    assert torch.equal(average.tensors["weight"], torch.tensor([1.0, 2.0]))


def test_a_saved_average_goes_on_as_if_never_saved() -> None:
    model = WithBuffers()
    average = WeightAverage(model, 0.9)
    with torch.no_grad():
        model.weight += 1
    average.update(0)
    saved = {n: t.clone() for n, t in average.tensors.items()}
    again = WeightAverage(model, 0.9)
    again.load(saved)
    average.update(1)
    again.update(1)
    assert torch.equal(again.tensors["weight"], average.tensors["weight"])
    assert not torch.equal(saved["weight"], again.tensors["weight"])  # a copy was taken


def test_training_keeps_the_average_step_by_step() -> None:
    model = net()
    average = WeightAverage(model, 0.9)
    by_hand = average.tensors["4.bias"].clone()
    learner = learner_of(model, average=average, accumulate=2)
    batches = batches_of([4, 4, 4, 4])
    for step in train_epoch(learner, batches, [4] * 4, Position()):
        if step.stepped:
            decay = min(0.9, step.step / (9 + step.step))
            by_hand = decay * by_hand + (1 - decay) * model[4].bias.detach()
    torch.testing.assert_close(average.tensors["4.bias"], by_hand, rtol=1e-5, atol=1e-7)


def test_evaluation_is_plain_cross_entropy_and_leaves_every_mode() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), *net(0.5)[2:])
    model.train()
    model[1].eval()
    model[3].p = 0.5
    modes = [module.training for module in model.modules()]
    before = copy.deepcopy(model)
    batches = batches_of([5, 5, 2])
    tally = evaluate(model, iter(batches), CPU)
    assert [module.training for module in model.modules()] == modes
    assert same_state(model, before)
    images = torch.cat([images for images, _ in batches])
    labels = torch.cat([labels for _, labels in batches])
    with torch.no_grad():
        scores = before.eval()(images)
    assert tally.images == 12
    assert tally.loss == pytest.approx(F.cross_entropy(scores, labels).item(), rel=1e-6)
    assert tally.correct == int((scores.argmax(1) == labels).sum())
    assert all(p.grad is None for p in model.parameters())


def test_modes_come_back_where_evaluation_fails() -> None:
    model = net(0.5)
    model[3].eval()
    modes = [module.training for module in model.modules()]
    with pytest.raises(RuntimeError):
        evaluate(model, [(torch.ones(2, 1, 8, 8), torch.zeros(2, dtype=torch.long))], CPU)
    assert [module.training for module in model.modules()] == modes
