"""What happens to a tensor on its way: what the plan says of its shape is what comes out."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from luthier import vision
from luthier.adapt import How, load, match
from luthier.adapt.making import made
from luthier.adapt.transforms import (
    Channels,
    Concat,
    Copy,
    Interpolate,
    Part,
    Reshape,
    Rows,
    Transform,
)
from luthier.errors import DoesNotFitError

vision.load()
timm = pytest.importorskip("timm")

SHAPES = st.lists(st.integers(0, 4), max_size=4).map(tuple)
TRANSFORMS: st.SearchStrategy[Transform] = st.one_of(
    st.just(Copy()),
    st.lists(st.none() | st.integers(0, 3), max_size=3).map(lambda rows: Rows(tuple(rows))),
    st.just(Concat()),
    st.builds(Part, st.integers(0, 2), st.just(3)),
    SHAPES.map(Reshape),
    st.builds(Channels, st.integers(1, 4), st.integers(1, 6)),
    st.builds(Interpolate, st.integers(0, 2), st.integers(1, 3), st.integers(1, 3)),
)


@settings(deadline=None, max_examples=300)
@given(transform=TRANSFORMS, shapes=st.lists(SHAPES, min_size=1, max_size=3))
def test_the_shape_that_is_told_is_the_shape_that_comes_out(
    transform: Transform, shapes: list[tuple[int, ...]]
) -> None:
    told = transform.shape(shapes)
    if told is None:
        return
    sources = [torch.randn(shape) for shape in shapes]
    before = [source.clone() for source in sources]
    found = made(transform, sources, torch.zeros(told))
    assert tuple(found.shape) == told
    assert all(torch.equal(a, b) for a, b in zip(sources, before, strict=True))


def stem(channels: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(channels, 6, 3), nn.ReLU(), nn.Conv2d(6, 2, 3))


@pytest.mark.parametrize(("of", "to"), [(3, 1), (1, 3), (3, 6)])
def test_equal_channels_give_what_they_gave_before(of: int, to: int) -> None:
    source, model = stem(of), stem(to)
    plan = load(model, source.state_dict())
    assert f"input channels {of} → {to}" in str(plan)
    grey = torch.randn(2, 1, 9, 9)
    expected = source(grey.expand(-1, of, -1, -1))
    torch.testing.assert_close(model(grey.expand(-1, to, -1, -1)), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("to", [1, 2, 4, 7])
def test_channels_are_those_of_timm(to: int) -> None:
    weight = torch.randn(8, 3, 3, 3)
    expected = timm.models.adapt_input_conv(to, weight)
    assert torch.equal(made(Channels(3, to), [weight], torch.empty(0)), expected)


def test_only_the_first_convolution_is_given_other_channels() -> None:
    source = nn.Sequential(nn.Conv2d(3, 3, 3), nn.Conv2d(3, 5, 3))
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 5, 3))
    plan = match(model, source.state_dict())
    assert [name for name, _, _ in plan.misshapen] == ["0.weight", "0.bias", "1.weight"]


def test_nothing_is_adjusted_where_that_is_not_wanted() -> None:
    with pytest.raises(DoesNotFitError, match=r"float32\[6, 3, 3, 3\] in the file"):
        load(stem(1), stem(3).state_dict(), how=How(adjust=False))


def vit(edge: int, **options: Any) -> nn.Module:
    small = {"patch_size": 8, "embed_dim": 32, "depth": 1, "num_heads": 2, "num_classes": 3}
    model: nn.Module = timm.models.VisionTransformer(img_size=edge, **small, **options)
    return model


@pytest.mark.parametrize(
    ("options", "tokens"),
    [
        ({}, 1),
        ({"class_token": False, "global_pool": "avg"}, 0),
        ({"reg_tokens": 4}, 5),
        ({"reg_tokens": 4, "no_embed_class": True}, 0),
    ],
)
def test_position_embeddings_are_resampled_as_timm_does(
    options: dict[str, Any], tokens: int
) -> None:
    source, model = vit(32, **options), vit(48, **options)
    plan = load(model, source.state_dict())
    expected = timm.layers.resample_abs_pos_embed(
        source.pos_embed.detach(), [6, 6], [4, 4], num_prefix_tokens=tokens
    )
    assert torch.equal(model.pos_embed, expected)
    assert torch.equal(model.pos_embed[:, :tokens], source.pos_embed[:, :tokens])
    assert "position embeddings 4x4 → 6x6, bicubic with antialiasing" in str(plan)
    assert len(plan.assignments) == len(source.state_dict())


def test_position_embeddings_of_no_square_are_refused() -> None:
    source, model = vit(32), vit(48)
    state = dict(source.state_dict())
    state["pos_embed"] = torch.randn(1, 14, 32)
    with pytest.raises(DoesNotFitError, match=r"pos_embed float32\[1, 14, 32\] in the file"):
        load(model, state)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_resampled_in_full(dtype: torch.dtype) -> None:
    grid = torch.randn(1, 16, 8).to(dtype)
    found = made(Interpolate(0, 4, 6), [grid], torch.empty(0))
    image = grid.float().reshape(1, 4, 4, 8).permute(0, 3, 1, 2)
    expected = F.interpolate(image, size=(6, 6), mode="bicubic", antialias=True)
    assert torch.equal(found, expected.permute(0, 2, 3, 1).reshape(1, 36, 8))


@settings(deadline=None)
@given(parts=st.integers(1, 4), rows=st.integers(0, 3))
def test_parts_put_together_are_the_whole(parts: int, rows: int) -> None:
    whole = torch.randn(parts * rows, 3)
    cut = [made(Part(i, parts), [whole], torch.empty(0)) for i in range(parts)]
    assert torch.equal(made(Concat(), cut, torch.empty(0)), whole)
