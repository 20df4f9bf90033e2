"""The part that stands still: the same scores, gradients and random numbers as the model's."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import fx, nn
from torch.nn import functional as F

from luthier.models import build, check_split, find_head, replace_head, split_frozen
from luthier.models.prefix import Split
from luthier.strategies import apply_rates, blocks_of, digests

SMALL = (
    "alexnet",
    "densenet121",
    "efficientnet_b0",
    "googlenet",
    "mnasnet0_5",
    "mobilenet_v2",
    "mobilenet_v3_small",
    "regnet_y_400mf",
    "resnet18",
    "shufflenet_v2_x0_5",
    "squeezenet1_1",
    "timm/efficientnet_lite0",
    "timm/mobilenetv3_small_050",
    "timm/convnext_atto",
)


def lively(model: nn.Module) -> nn.Module:
    """Give weights of a size that lets signals through, and norms statistics of their own."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.running_mean.normal_(0, 0.1, generator=generator)
                module.running_var.uniform_(0.5, 2, generator=generator)
                module.weight.uniform_(0.8, 1.5, generator=generator)
            elif isinstance(module, nn.Conv2d | nn.Linear):
                fan_in = module.weight[0].numel()
                module.weight.normal_(0, (2 / fan_in) ** 0.5, generator=generator)
    return model


def part_frozen(name: str, learning: int) -> tuple[nn.Module, Any]:
    """Build a model whose last ``learning`` blocks learn; 1 is the head alone."""
    torch.manual_seed(0)
    model = build(name, 3)
    head = replace_head(model, find_head(model), 3)
    lively(model)
    blocks = blocks_of(model, head.name)
    apply_rates(model, blocks, [None] * (len(blocks) - learning) + [1.0] * learning)
    return model, model.get_submodule(head.name)


def images(count: int = 3, size: int = 64) -> torch.Tensor:
    made = torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(1))
    return made.to(memory_format=torch.channels_last)  # the order in which dropout draws


def must_split(model: nn.Module, dtype: torch.dtype = torch.float32) -> Split:
    split = split_frozen(model, dtype)
    assert split is not None
    return split


def weights_of(split: Split) -> int:
    prefix: nn.Module = split._prefix  # type: ignore[assignment]
    return sum(t.numel() for t in (*prefix.parameters(), *prefix.buffers()))


@pytest.mark.parametrize("name", SMALL)
def test_a_frozen_trunk_is_cut_off_before_the_head_in_every_family(name: str) -> None:
    model, head = part_frozen(name, 1)
    before, modes = digests(model.state_dict()), [m.training for m in model.modules()]
    state = torch.get_rng_state()
    split = must_split(model)
    assert (found := check_split(split, model, images())).explained, str(found)
    (features,) = split.features(images())
    if name == "alexnet":  # dropout comes before a frozen layer of its classifier
        assert not split.whole
    else:
        assert split.whole
        assert features.shape[:2] == (3, head.weight.shape[1])
        assert features.ndim == head.weight.ndim
        frozen = sum(p.numel() for p in model.parameters() if not p.requires_grad)
        norms = sum(2 * m.num_features for m in model.modules() if isinstance(m, nn.BatchNorm2d))
        assert weights_of(split) >= frozen - norms  # all of it: norms went into convolutions
    assert digests(model.state_dict()) == before
    assert [m.training for m in model.modules()] == modes
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("learning", [2, 3, 4])
@pytest.mark.parametrize("name", ["densenet121", "mobilenet_v2", "resnet18"])
def test_a_trunk_frozen_up_to_a_block_is_cut_off_there(name: str, learning: int) -> None:
    model, _ = part_frozen(name, learning)
    split = must_split(model)
    assert not split.whole
    assert (found := check_split(split, model, images())).explained, str(found)
    more = must_split(part_frozen(name, learning - 1)[0])
    assert weights_of(split) < weights_of(more)


@pytest.mark.parametrize("name", ["resnet18", "timm/vit_tiny_patch16_224"])
def test_the_prefix_in_bfloat16_differs_no_more_than_autocast(name: str) -> None:
    model, _ = part_frozen(name, 1)
    split = must_split(model, torch.bfloat16)
    size = 224 if "vit" in name else 64
    found = check_split(split, model, images(size=size))
    assert found.explained
    assert found.found > 1e-4  # it is in bfloat16 indeed
    assert split.features(images(size=size))[0].dtype == torch.bfloat16
    assert split.rest(*split.features(images(size=size))).dtype == torch.float32


def test_normalisation_is_folded_and_the_copies_are_counted() -> None:
    model, _ = part_frozen("resnet18", 1)
    split = must_split(model)
    prefix: nn.Module = split._prefix  # type: ignore[assignment]
    assert not [m for m in prefix.modules() if isinstance(m, nn.BatchNorm2d)]
    folded = [m for m in model.modules() if isinstance(m, nn.Conv2d)]
    assert split.copied == 4 * sum(m.weight.numel() + m.out_channels for m in folded)
    assert must_split(model, torch.bfloat16).copied == split.copied // 2
    assert must_split(part_frozen("squeezenet1_1", 1)[0]).copied == 0  # nothing to fold


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    "activation", [nn.ReLU(inplace=True), nn.ReLU6(), nn.SiLU(), nn.Hardswish()]
)
def test_an_activation_in_the_kernel_of_its_convolution_is_the_activation(
    activation: nn.Module, dtype: torch.dtype
) -> None:
    convolution = nn.Conv2d(3, 16, 3, stride=2, padding=2, dilation=2)
    trunk = nn.Sequential(convolution, nn.BatchNorm2d(16), activation)
    model = nn.Sequential(lively(trunk), nn.Flatten(), nn.Linear(16 * 17 * 17, 2)).eval()
    trunk.requires_grad_(False)
    split = must_split(model, dtype)
    wanted = trunk(images(size=33)).flatten(1)
    (found,) = split.features(images(size=33))
    torch.testing.assert_close(found.float(), wanted, rtol=0, atol=wanted.max() * 2**-6)
    if dtype == torch.float32:
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)


# --- nets of all kinds ------------------------------------------------------------------------


class Residual(nn.Module):
    """Draws by a function, as its mode says."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)
        self.norm = nn.BatchNorm2d(channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = F.dropout(self.norm(self.conv(x)), 0.3, training=self.training)
        return F.relu_(x + y)


class Untraceable(nn.Module):
    """Looks at what it gets."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.full((channels, 1, 1), 1.25))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.scale if x.mean() > 0 else x - self.scale


class Noisy(nn.Module):
    """Draws in both modes."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + 0.1 * torch.randn_like(x)


class Branches(nn.Module):
    """Keeps its first half as it is."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels // 2, channels // 2, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        kept, changed = x.chunk(2, dim=1)
        return torch.cat([changed, self.conv(kept)], dim=1)


class Beside(nn.Module):
    """Uses a convolution's values with and without the normalisation after it."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 1)
        self.norm, self.side = nn.BatchNorm2d(channels), nn.Conv2d(channels, channels, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.conv(x)
        side = self.side(x)
        return side + self.norm(x)


CHANNELS = 4
LAYERS: dict[str, Callable[[], nn.Module]] = {
    "conv": lambda: nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1, bias=False),
    "norm": lambda: nn.BatchNorm2d(CHANNELS),
    "relu": lambda: nn.Sequential(nn.Conv2d(CHANNELS, CHANNELS, 1), nn.ReLU(inplace=True)),
    "relu6": nn.ReLU6,
    "dropout": lambda: nn.Dropout(0.5),
    "rrelu": nn.RReLU,
    "residual": lambda: Residual(CHANNELS),
    "untraceable": lambda: Untraceable(CHANNELS),
    "noisy": Noisy,
    "branches": lambda: Branches(CHANNELS),
    "instance": lambda: nn.InstanceNorm2d(CHANNELS, affine=True),
    "beside": lambda: Beside(CHANNELS),
}


class Net(nn.Module):
    """Layers in a row, a shortcut over the last ones, dropout by a function, a head."""

    def __init__(self, layers: list[str], shortcut: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, CHANNELS, 3, padding=1)
        self.layers = nn.ModuleList(LAYERS[name]() for name in layers)
        self.shortcut = shortcut
        self.fc = nn.Linear(CHANNELS, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        kept = x
        for number, layer in enumerate(self.layers):
            if number == self.shortcut:
                kept = x.clone()
            x = layer(x)
        x = (x + kept).mean((2, 3))
        return self.fc(F.dropout(x, 0.25, training=self.training))


@st.composite
def nets(draw: st.DrawFn) -> Net:
    layers = draw(st.lists(st.sampled_from(sorted(LAYERS)), max_size=7))
    torch.manual_seed(draw(st.integers(0, 9)))
    net = Net(layers, draw(st.integers(0, 7)))
    lively(net)
    for layer in (net.stem, *net.layers):
        layer.requires_grad_(draw(st.booleans()))
        layer.train(draw(st.booleans()))
    return net


def outcome(model: nn.Module, run: Callable[[], torch.Tensor]) -> list[torch.Tensor]:
    """Return scores, gradients and buffers after a step with given random numbers."""
    torch.manual_seed(3)
    scores = run()
    scores.square().sum().backward()  # type: ignore[no-untyped-call]
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    return [scores.detach(), *gradients, *(b.double() for b in model.buffers())]


@settings(max_examples=60, deadline=None)
@given(nets())
def test_any_net_learns_and_draws_as_the_whole_does(net: Net) -> None:
    split = split_frozen(net)
    if split is None:
        assert net.stem.weight.requires_grad
        return
    whole = copy.deepcopy(net)
    x = images(4, 8)
    for mode in (None, False):  # as it is, and in evaluation
        if mode is not None:
            net.train(mode), whole.train(mode)
        features = split.features(x)
        kept = [f.clone() for f in features]
        mine = outcome(net, lambda features=features: split.rest(*features))
        theirs = outcome(whole, lambda: whole(x))
        assert len(mine) == len(theirs)
        for one, other in zip(mine, theirs, strict=True):
            torch.testing.assert_close(one, other, rtol=2e-4, atol=2e-4)
        assert all(torch.equal(a, b) for a, b in zip(kept, features, strict=True))
        net.zero_grad(), whole.zero_grad()
        whole.load_state_dict(net.state_dict())


def test_what_draws_is_not_cut_off_and_draws_the_same_numbers() -> None:
    net = Net(["conv", "noisy", "conv"], 0)
    net.stem.requires_grad_(False), net.layers.requires_grad_(False)
    split = must_split(net)
    torch.manual_seed(5)
    wanted = net(images(size=8))
    features = split.features(images(size=8))
    torch.manual_seed(5)
    torch.testing.assert_close(split.rest(*features), wanted)
    assert len(features) >= 1
    assert weights_of(split) == sum(
        p.numel() for part in (net.stem, net.layers[0]) for p in part.parameters()
    )


def test_a_norm_that_gathers_statistics_is_not_cut_off() -> None:
    net = Net(["conv", "norm", "relu"], 0)
    net.requires_grad_(False).fc.requires_grad_(True)
    net.train()
    split = must_split(net)
    before = net.layers[1].running_mean.clone()
    split.rest(*split.features(images(size=8)))
    assert not torch.equal(net.layers[1].running_mean, before)


def test_values_that_skip_the_learning_part_cross_too() -> None:
    net = Net(["conv", "relu", "conv"], 0).eval()
    net.requires_grad_(False).fc.requires_grad_(True)
    net.layers[2].requires_grad_(True)
    assert [tuple(f.shape) for f in must_split(net).features(images(size=8))] == [
        (3, CHANNELS, 8, 8)
    ] * 2


def test_features_keep_their_values_where_the_head_drops_out_in_place() -> None:
    model, _ = part_frozen("efficientnet_b0", 1)
    split = must_split(model)
    (features,) = split.features(images())
    before = features.clone()
    split.rest(features).sum().backward()  # type: ignore[no-untyped-call]
    assert torch.equal(features, before)


def test_two_names_of_one_value_that_the_rest_changes_in_place_are_found_out() -> None:
    net = Net(["dropout"], 7)
    net.layers.append(nn.Dropout(0.5, inplace=True))
    net.layers[0].eval()
    net.requires_grad_(False).fc.requires_grad_(True)
    assert not check_split(must_split(net), net, images(size=8)).explained


class Standardised(nn.Conv2d):
    """Standardises its weights (Qiao et al. 2019), as timm's does."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        flat = self.weight.reshape(1, self.out_channels, -1)
        weight = F.batch_norm(flat, None, None, training=True).reshape_as(self.weight)
        return self._conv_forward(x, weight, self.bias)


def test_what_depends_on_frozen_weights_alone_is_computed_once() -> None:
    model = nn.Sequential(
        Standardised(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)
    )
    model.requires_grad_(False)[4].requires_grad_(True)
    split = must_split(model)
    assert split.whole
    assert check_split(split, model, images(size=8)).explained
    prefix: fx.GraphModule = split._prefix  # type: ignore[assignment]
    assert not [n for n in prefix.graph.nodes if n.target is F.batch_norm]


def test_a_head_beside_another_way_to_the_scores_is_not_all_of_the_rest() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.one, self.two = nn.Conv2d(3, 4, 3), nn.Linear(4, 2), nn.Linear(4, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.conv(x).mean((2, 3))
            scores: torch.Tensor = self.one(x) + self.two(x)
            return scores

    model = Two().requires_grad_(False)
    model.two.requires_grad_(True)
    split = must_split(model)
    assert not split.whole
    assert check_split(split, model, images(size=8)).explained


# --- models that cannot be traced -------------------------------------------------------------


class Looking(nn.Module):
    """No graph can say what it does."""

    def __init__(self, dropout: float = 0.0, *, twice: bool = False) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)
        self.drop, self.fc, self.twice = nn.Dropout(dropout), nn.Linear(4, 2), twice

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.norm(self.conv(x))
        if float(x.mean()) > 1e9:
            x = -x
        scores: torch.Tensor = self.fc(self.drop(x.mean((2, 3))))
        return scores * 2 if self.twice else scores


def looking(**how: Any) -> Looking:
    model = Looking(**how)
    model.conv.requires_grad_(False), model.norm.requires_grad_(False).eval()
    return model


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_model_without_a_graph_is_cut_at_its_head(dtype: torch.dtype) -> None:
    model = looking()
    split = must_split(model, dtype)
    assert split.whole
    assert check_split(split, model, images(size=8)).explained
    assert split.features(images(size=8))[0].shape == (3, 4)
    assert isinstance(model.fc, nn.Linear)


def test_a_model_without_a_graph_that_draws_is_not_cut() -> None:
    assert split_frozen(looking(dropout=0.5)) is None


def test_a_model_without_a_graph_that_goes_on_after_its_head_is_found_out() -> None:
    model = looking(twice=True)
    found = check_split(must_split(model), model, images(size=8))
    assert not found.explained
    assert "differ by" in str(found)


# --- refusals and safety ----------------------------------------------------------------------


def test_nothing_is_cut_off_where_nothing_or_all_stands_still() -> None:
    model = Net(["conv"], 0)
    assert split_frozen(model) is None
    apply_rates(model, blocks_of(model, "fc"), [0.0] * 2 + [1.0])
    assert split_frozen(model) is None  # at rate 0 gradients are asked for
    assert split_frozen(model.requires_grad_(False)) is None


def test_a_prefix_that_has_become_old_is_found_out() -> None:
    model, _ = part_frozen("resnet18", 1)
    split = must_split(model)
    with torch.no_grad():
        model.get_parameter("layer4.1.conv2.weight").mul_(-1)
    assert not check_split(split, model, images()).explained


class Hidden(nn.Module):
    """Draws where no graph shows it, in evaluation too."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.dropout(x, 0.5) if bool(x.isfinite().all()) else x


def test_a_draw_that_no_graph_shows_is_found_out() -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3), Hidden(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)
    ).eval()
    model.requires_grad_(False)[4].requires_grad_(True)
    found = check_split(must_split(model), model, images(size=8))
    assert not found.explained
    assert "each time" in str(found)


class Choosing(nn.Module):
    """Draws a number that decides what is done."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 4, 3), nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.conv(x).mean((2, 3))
        scores: torch.Tensor = self.fc(-x if torch.rand(()) < 0.5 else x)
        return scores


def test_a_number_drawn_while_tracing_never_becomes_a_part_of_the_graph() -> None:
    model = Choosing().train()
    model.conv.requires_grad_(False)
    split = split_frozen(model)
    assert split is None or not check_split(split, model, images(size=8)).explained


def test_a_hooked_module_runs_as_itself() -> None:
    model, _ = part_frozen("resnet18", 1)
    seen: list[torch.Size] = []
    hook = model.get_submodule("layer3").register_forward_hook(
        lambda _module, _args, output: seen.append(output.shape)
    )
    split = must_split(model)
    split.rest(*split.features(images()))
    assert seen == [(3, 256, 4, 4)]
    hook.remove()
    model.register_forward_hook(lambda *_: None)
    assert split_frozen(model) is None


class Marking(nn.Module):
    """Keeps what it saw."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc, self.seen = nn.Conv2d(3, 4, 3), nn.Linear(4, 2), 0
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls.add_(1)
        self.seen = x = self.conv(x).mean((2, 3))
        scores: torch.Tensor = self.fc(x)
        return scores


def test_tracing_leaves_no_mark_and_the_rest_keeps_what_is_counted() -> None:
    model = Marking()
    model.conv.requires_grad_(False)
    split = must_split(model)
    assert model.seen == 0
    assert float(model.calls) == 0
    assert check_split(split, model, images(size=8)).explained
    assert float(model.calls) == 0
    split.rest(*split.features(images(size=8)))
    assert float(model.calls) == 1
