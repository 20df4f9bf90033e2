"""Strategies: rates, blocks, groups, modes, and the audit of what moved."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from luthier.errors import FrozenMovedError
from luthier.models import build, find_head, replace_head
from luthier.run.own_loop import param_groups
from luthier.strategies import (
    apply_rates,
    blocks_of,
    digests,
    frozen_blocks,
    inspect_moves,
    new_groups,
    policy_of,
)
from luthier.strategies.blocks import is_norm
from luthier.values import Block
from test_models import TIMM, TORCHVISION, original_skeleton, skeleton

NAMES = (
    *("scratch", "full", "frozen", "zero-lr", "discriminative", "layerwise", "lp-ft", "gradual"),
    "probe",
)
SETTINGS = st.fixed_dictionaries(
    {
        "trunk_lr_scale": st.floats(0.001, 1.0),
        "layer_decay": st.floats(0.1, 0.99),
        "head_epochs": st.integers(1, 10),
        "unfreeze_epochs": st.integers(1, 10),
    }
)
STRATEGIES = st.sampled_from(NAMES)
BLOCKS = st.integers(0, 40)
PLAIN = {"trunk_lr_scale": 0.1, "layer_decay": 0.5, "head_epochs": 2, "unfreeze_epochs": 3}


@settings(deadline=None)
@given(STRATEGIES, SETTINGS, BLOCKS, st.integers(0, 30))
def test_every_block_has_a_rate_and_the_head_always_learns(
    strategy: str, chosen: dict[str, Any], blocks: int, epoch: int
) -> None:
    rates = policy_of(strategy, chosen).rates(blocks, epoch)
    assert len(rates) == blocks + 1
    assert rates[-1] == 1.0
    assert all(rate is None or 0.0 <= rate <= 1.0 for rate in rates)


@settings(deadline=None)
@given(STRATEGIES, SETTINGS, BLOCKS, st.integers(0, 30))
def test_no_block_freezes_again(
    strategy: str, chosen: dict[str, Any], blocks: int, epoch: int
) -> None:
    policy = policy_of(strategy, chosen)
    now, then = policy.rates(blocks, epoch), policy.rates(blocks, epoch + 1)
    assert all(b == a for a, b in zip(now, then, strict=True) if a is not None)


@settings(deadline=None)
@given(SETTINGS, BLOCKS)
def test_gradual_unfreezes_from_the_head_down_and_ends_in_time(
    chosen: dict[str, Any], blocks: int
) -> None:
    policy, last = policy_of("gradual", chosen), chosen["unfreeze_epochs"]
    learning = [[rate is not None for rate in policy.rates(blocks, e)] for e in range(last + 2)]
    assert sum(learning[0]) == 1
    assert all(learning[last])
    assert all(now == sorted(now) for now in learning)  # frozen below, learning above
    counts = [sum(now) for now in learning]
    assert counts == sorted(counts)
    steps = [b - a for a, b in itertools.pairwise(counts[: last + 1])]
    assert max(steps) - min(steps) <= 1


@settings(deadline=None)
@given(SETTINGS, BLOCKS)
def test_layerwise_rates_rise_by_one_factor_towards_the_head(
    chosen: dict[str, Any], blocks: int
) -> None:
    rates = policy_of("layerwise", chosen).rates(blocks, 0)
    for low, high in itertools.pairwise(rates):
        assert low is not None
        assert high is not None
        assert low < high
        assert low == pytest.approx(high * chosen["layer_decay"], rel=1e-12)


def test_each_strategy_is_what_its_name_says() -> None:
    first = {name: policy_of(name, PLAIN).rates(3, 0) for name in NAMES}
    assert first == {
        "scratch": (1.0, 1.0, 1.0, 1.0),
        "full": (1.0, 1.0, 1.0, 1.0),
        "frozen": (None, None, None, 1.0),
        "zero-lr": (0.0, 0.0, 0.0, 1.0),
        "discriminative": (0.1, 0.1, 0.1, 1.0),
        "layerwise": (0.125, 0.25, 0.5, 1.0),
        "lp-ft": (None, None, None, 1.0),
        "gradual": (None, None, None, 1.0),
        "probe": (None, None, None, 1.0),
    }
    head_first = policy_of("lp-ft", PLAIN)
    assert head_first.rates(2, 1) == (None, None, 1.0)
    assert head_first.rates(2, 2) == (1.0, 1.0, 1.0)
    with pytest.raises(ValueError, match="'partial'"):
        policy_of("partial", PLAIN)


@settings(deadline=None)
@given(STRATEGIES, SETTINGS, BLOCKS, st.integers(1, 12))
def test_frozen_blocks_are_those_that_never_learn(
    strategy: str, chosen: dict[str, Any], blocks: int, epochs: int
) -> None:
    policy = policy_of(strategy, chosen)
    frozen = frozen_blocks(policy, blocks, epochs)
    for block in range(blocks + 1):
        ever = any(policy.rates(blocks, epoch)[block] for epoch in range(epochs))
        assert (block in frozen) == (not ever)
    if strategy in ("frozen", "zero-lr", "probe"):
        assert frozen == set(range(blocks))
    if strategy in ("scratch", "full", "discriminative", "layerwise"):
        assert frozen == set()


def assert_partition(model: nn.Module, head: str, blocks: tuple[Block, ...]) -> None:
    cut = [tensor for block in blocks for tensor in block.tensors]
    assert sorted(cut) == sorted(model.state_dict())
    parameters = [name for block in blocks for name in block.parameters]
    assert sorted(parameters) == sorted(name for name, _ in model.named_parameters())
    assert all(set(block.parameters) <= set(block.tensors) for block in blocks)
    assert blocks[-1].name == head
    assert blocks[-1].modules == (head,)
    assert all(tensor.startswith(f"{head}.") for tensor in blocks[-1].tensors)
    assert len({block.name for block in blocks}) == len(blocks)
    for block in blocks:
        assert block.name == block.modules[0]
        assert block.parameters
        inner = [model.get_submodule(name) for name in block.modules]
        leaves = [m for module in inner for m in module.modules() if not list(m.children())]
        with_state = [m for m in leaves if m.state_dict(keep_vars=True)]
        assert not with_state or not all(map(is_norm, with_state))


@pytest.mark.parametrize("name", TORCHVISION)
def test_every_torchvision_model_is_cut_into_blocks_without_gap_or_overlap(name: str) -> None:
    model = original_skeleton(name)
    head = find_head(model).name
    blocks = blocks_of(model, head)
    assert_partition(model, head, blocks)
    assert len(blocks) > 2


@pytest.mark.parametrize("name", ["mobilenet_v2", "efficientnet_b0", "squeezenet1_1", "vgg11"])
def test_the_cut_does_not_depend_on_the_number_of_classes(name: str) -> None:
    model = skeleton(name)
    head = find_head(model)
    cuts = []
    for classes in (2, 1000, 100_000):
        with torch.device("meta"):
            replace_head(model, head, classes)
        cuts.append([block.modules for block in blocks_of(model, head.name)])
    assert cuts[0] == cuts[1] == cuts[2]


@pytest.mark.parametrize("name", TIMM)
def test_every_timm_model_is_cut_into_blocks_without_gap_or_overlap(name: str) -> None:
    model = build(name, 3)
    head = find_head(model).name
    blocks = blocks_of(model, head)
    assert_partition(model, head, blocks)
    assert len(blocks) > 2


def test_blocks_go_from_the_input_to_the_head() -> None:
    model = original_skeleton("resnet18")
    names = [block.name for block in blocks_of(model, "fc")]
    assert names == ["conv1", "layer1", "layer2", "layer3", "layer4", "fc"]
    first = blocks_of(model, "fc")[0]
    assert first.modules == ("conv1", "bn1")  # a norm belongs to what is before it
    assert "bn1.running_mean" in first.tensors
    vit = blocks_of(original_skeleton("vit_b_16"), "heads.head")
    assert {"class_token", "encoder.pos_embedding"} <= set(vit[0].tensors)
    assert vit[-2].modules == ("encoder.layers.encoder_layer_11", "encoder.ln")


def test_a_model_that_is_nothing_but_a_head_is_one_block() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    blocks = blocks_of(model, "1")
    assert [block.tensors for block in blocks] == [("1.weight", "1.bias")]


class Small(nn.Module):
    """Two convolutions with BatchNorm and dropout, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 4, 3)
        self.bn1 = nn.BatchNorm2d(4)
        self.block = nn.Sequential(nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5))
        self.fc = nn.Linear(4, 2)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.bn1(self.conv1(images)))
        return self.fc(torch.relu(self.block(x)).mean((2, 3)))


@settings(deadline=None, max_examples=40)
@given(STRATEGIES, SETTINGS, st.floats(0.001, 0.1))
def test_groups_hold_every_learning_parameter_once_and_add_up_over_the_epochs(
    strategy: str, chosen: dict[str, Any], decay: float
) -> None:
    model = Small()
    blocks = blocks_of(model, "fc")
    policy = policy_of(strategy, chosen)
    named = dict(model.named_parameters())
    gathered: list[dict[str, Any]] = []
    before = None
    for epoch in range(12):
        rates = policy.rates(len(blocks) - 1, epoch)
        apply_rates(model, blocks, rates)
        gathered += new_groups(model, blocks, rates, before, weight_decay=decay)
        held = [name for group in gathered for name in group["names"]]
        assert len(held) == len(set(held))
        assert set(held) == {name for name, p in named.items() if p.requires_grad}
        before = rates
    assert before is not None
    rate_of = {n: r for b, r in zip(blocks, before, strict=True) for n in b.parameters}
    for group in gathered:
        assert [named[name] for name in group["names"]] == group["params"]
        assert {rate_of[name] for name in group["names"]} == {group["rate"]}
        wide = {named[name].ndim >= 2 for name in group["names"]}
        assert len(wide) == 1
        assert group["weight_decay"] == (decay if wide == {True} and group["rate"] else 0.0)
    whole = new_groups(model, blocks, before, weight_decay=decay)
    assert sorted(n for g in whole for n in g["names"]) == sorted(
        n for g in gathered for n in g["names"]
    )


@pytest.mark.parametrize(("rate", "asks"), [(None, False), (0.0, True), (0.1, True)])
def test_modes_follow_the_rates(rate: float | None, asks: bool) -> None:
    model = Small().eval()
    blocks = blocks_of(model, "fc")
    apply_rates(model, blocks, (rate, rate, 1.0))
    modes = {name: module.training for name, module in model.named_modules()}
    for name in ("conv1", "bn1", "block", "block.1", "block.2"):
        assert modes[name] == bool(rate)
    assert modes[""]
    assert modes["fc"]
    for name, parameter in model.named_parameters():
        assert parameter.requires_grad == (asks or name.startswith("fc."))
    apply_rates(model, blocks, (1.0, 1.0, 1.0))
    assert all(module.training for module in model.modules())
    assert all(parameter.requires_grad for parameter in model.parameters())


def sgd(groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
    return torch.optim.SGD(groups, lr=0.1, momentum=0.9)


def adamw(groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
    return torch.optim.AdamW(groups, lr=0.1)


def bits(model: nn.Module) -> dict[str, bytes]:
    return {
        n: t.clone().reshape(-1).view(torch.uint8).numpy().tobytes()
        for n, t in model.state_dict().items()
    }


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int = 3) -> None:
    generator = torch.Generator().manual_seed(0)
    for _ in range(steps):
        images = torch.randn(4, 3, 8, 8, generator=generator)
        loss = nn.functional.cross_entropy(model(images), torch.tensor([0, 1, 0, 1]))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


@pytest.mark.parametrize("make", [sgd, adamw])
@pytest.mark.parametrize("strategy", ["zero-lr", "frozen"])
def test_a_trunk_at_rest_keeps_every_bit(make: Any, strategy: str) -> None:
    torch.manual_seed(0)
    model = Small()
    before, start = bits(model), digests(model.state_dict())
    optimizer = make(param_groups(model, strategy, 0.1, weight_decay=0.1))
    train(model, optimizer)
    after = bits(model)
    changed = [name for name in after if after[name] != before[name]]
    assert changed == ["fc.weight", "fc.bias"]
    blocks = blocks_of(model, "fc")
    frozen = frozen_blocks(policy_of(strategy, {}), len(blocks) - 1, 1)
    audit = inspect_moves(blocks, start, digests(model.state_dict()), frozen)
    assert audit.moved == (("conv1", 0, 7), ("block", 0, 7), ("fc", 2, 2))
    assert str(audit) == "moved: fc; did not move: conv1, block"


@pytest.mark.parametrize("make", [sgd, adamw])
def test_a_trunk_that_learns_moves(make: Any) -> None:
    torch.manual_seed(0)
    model = Small()
    before = bits(model)
    train(model, make(param_groups(model, "layerwise", 0.1, weight_decay=0.1)))
    still = [name for name, after in bits(model).items() if after == before[name]]
    assert set(still) <= {"conv1.bias", "block.0.bias"}  # BatchNorm takes their gradient away


def test_groups_for_a_loop_of_ones_own_carry_the_rates() -> None:
    model = Small()
    groups = param_groups(model, "discriminative", 0.5, weight_decay=0.1, trunk_lr_scale=0.2)
    for optimizer in (sgd(groups), adamw(groups)):
        rates = {
            id(p): (g["lr"], g["weight_decay"]) for g in optimizer.param_groups for p in g["params"]
        }
        assert rates[id(model.conv1.weight)] == (pytest.approx(0.1), 0.1)
        assert rates[id(model.conv1.bias)] == (pytest.approx(0.1), 0.0)
        assert rates[id(model.fc.weight)] == (0.5, 0.1)
        assert rates[id(model.fc.bias)] == (0.5, 0.0)
        assert len(rates) == len(list(model.parameters()))
    frozen = param_groups(Small(), "frozen", 0.5)
    assert sum(len(group["params"]) for group in frozen) == 2
    named = param_groups(Small(), "frozen", 0.5, head="block.0")
    assert [p.shape for g in named for p in g["params"]] == [(4, 4, 3, 3), (4,)]


@pytest.mark.parametrize("strategy", ["lp-ft", "gradual", "probe", "partial"])
def test_strategies_that_a_loop_of_ones_own_cannot_have_are_refused(strategy: str) -> None:
    model = Small()
    with pytest.raises(ValueError, match=strategy):
        param_groups(model, strategy, 0.1)
    assert all(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize("tensor", ["bn1.running_mean", "bn1.num_batches_tracked", "conv1.weight"])
def test_the_audit_names_a_frozen_tensor_that_moved(tensor: str) -> None:
    model = Small()
    blocks = blocks_of(model, "fc")
    start = digests(model.state_dict())
    with torch.no_grad():
        changed = model.state_dict()[tensor].view(-1)[:1]
        if changed.is_floating_point():
            changed.copy_(torch.nextafter(changed, changed + 1))  # by the last bit
        else:
            changed += 1
    with pytest.raises(FrozenMovedError, match=f"1 frozen tensors moved: {tensor}"):
        inspect_moves(blocks, start, digests(model.state_dict()), {0, 1})
    audit = inspect_moves(blocks, start, digests(model.state_dict()), {1})
    assert audit.moved[0] == ("conv1", 1, 7)
    assert "moved in part: conv1 (1 of 7 tensors)" in str(audit)


def test_the_sign_of_zero_is_no_move() -> None:
    for dtype in (torch.float32, torch.bfloat16, torch.float64):
        zero = torch.zeros(2, dtype=dtype)
        assert digests({"a": -zero}) == digests({"a": zero})
        assert bool(torch.signbit(-zero).all())


DIFFERENT = {
    "one": torch.ones(2),
    "another value": torch.tensor([1.0, 1.0000001]),
    "another shape": torch.ones(2, 1),
    "bfloat16": torch.ones(2, dtype=torch.bfloat16),
    "int64": torch.ones(2, dtype=torch.int64),
    "the same bits as an integer": torch.ones(2).view(torch.int32),
    "bool": torch.ones(2, dtype=torch.bool),
    "empty": torch.ones(0),
    "empty of another shape": torch.ones(0, 2),
    "empty integers": torch.ones(0, dtype=torch.int64),
    "scalar": torch.tensor(1.0),
    "scalar integer": torch.tensor(1),
    "NaN": torch.tensor([1.0, float("nan")]),
    "complex": torch.ones(2, dtype=torch.complex64),
    "float8": torch.ones(2, dtype=torch.float8_e4m3fn),
}


def test_digests_differ_where_anything_differs() -> None:
    found = digests(DIFFERENT)
    assert len(set(found.values())) == len(DIFFERENT)
    again = digests({name: tensor.clone() for name, tensor in DIFFERENT.items()})
    assert again == found


def test_digests_are_of_values_and_not_of_layout() -> None:
    images = torch.arange(24.0).reshape(1, 2, 3, 4)
    laid_out = images.to(memory_format=torch.channels_last)
    assert digests({"a": images}) == digests({"a": laid_out})
    assert digests({"a": images}) != digests({"a": images.transpose(2, 3).contiguous()})
