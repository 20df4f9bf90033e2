"""Colour jitter, RandAugment and erasing: torchvision's, but a function of the image's key."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from luthier import vision
from luthier.data import operators
from luthier.data.augment import JITTERS, OPERATIONS, Extras, rectangle
from luthier.keys import key

MEAN = (0.485, 0.456, 0.406)
ALL = Extras(color_jitter=0.4, rand_augment=9, erase=0.5)
SIZES = st.tuples(st.integers(1, 40), st.integers(1, 40))


def photos(count: int, height: int, width: int, seed: int = 0) -> Tensor:
    """Images that are smooth, as photos are, of any grey between the levels."""
    noise = torch.rand(count, 3, height, width, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.avg_pool2d(noise, 5, 1, 2, count_include_pad=False)


def keys_of(count: int) -> list[int]:
    return [key(0, "augment", 0, index) for index in range(count)]


def done(
    extras: Extras, images: Tensor, keys: Sequence[int], together: int | None = None
) -> Tensor:
    images, drawn = images.clone(), extras.draw(keys)
    if together is None:
        return extras.apply(images, drawn, MEAN)
    extras.apply_in_parts(images, drawn, MEAN, together)
    return images


@contextmanager
def threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


# What torchvision does.


@settings(deadline=None, max_examples=30)
@given(size=SIZES, factor=st.floats(0.0, 2.0), seed=st.integers(0, 99))
@pytest.mark.parametrize("name", ["brightness", "contrast", "saturation", "sharpness"])
def test_a_factor_does_what_it_does_in_torchvision(
    name: str, size: tuple[int, int], factor: float, seed: int
) -> None:
    theirs = getattr(vision.load("torchvision.transforms.v2.functional"), f"adjust_{name}")
    images = photos(2, *size, seed=seed)
    ours = getattr(operators, name)(images, torch.tensor([factor, 1.0]))
    torch.testing.assert_close(ours[0], theirs(images[0], factor), rtol=0, atol=3e-6)
    torch.testing.assert_close(ours[1], images[1], rtol=0, atol=3e-6)


@settings(deadline=None, max_examples=60)
@given(
    size=SIZES,
    level=st.integers(0, 30),
    sign=st.sampled_from((-1, 1)),
    seed=st.integers(0, 99),
)
@pytest.mark.parametrize("name", OPERATIONS)
def test_an_operation_of_rand_augment_is_torchvisions(
    name: str, size: tuple[int, int], level: int, sign: int, seed: int
) -> None:
    image, amount = photos(1, *size, seed=seed), torch.tensor([sign * level / 30]).double()
    black, mean = torch.zeros(3, 1, 1), torch.tensor(MEAN)[:, None, None]
    expected = by_torchvision(name, image, level, sign)
    # A place that is rounded otherwise moves a pixel's grey by a little.
    ours = OPERATIONS[name](image, amount, black)
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-4)
    if name.startswith(("shear", "translate", "rotate")):
        # Its own fill makes what lies partly outside darker: it weighs the image twice.
        covered = by_torchvision(name, torch.ones_like(image), level, sign)
        ours = OPERATIONS[name](image, amount, mean)
        torch.testing.assert_close(ours, expected + (1 - covered) * mean, rtol=0, atol=2e-4)


def by_torchvision(name: str, image: Tensor, level: int, sign: int) -> Tensor:
    v2 = vision.load("torchvision.transforms.v2")
    theirs = v2.RandAugment(interpolation=v2.InterpolationMode.BILINEAR)
    magnitudes, signed = theirs._AUGMENTATION_SPACE[their_name(name)]
    magnitude = magnitudes(31, *image.shape[-2:])
    amount = 0.0 if magnitude is None else float(magnitude[level]) * (sign if signed else 1)
    result: Tensor = theirs._apply_image_or_video_transform(
        image, their_name(name), amount, theirs.interpolation, theirs._fill
    )
    return result


def their_name(name: str) -> str:
    other = {"saturation": "Color", "autocontrast": "AutoContrast"}
    return other.get(name, name.title().replace("-", ""))


def test_the_operations_are_torchvisions_in_their_order() -> None:
    space = vision.load("torchvision.transforms.v2").RandAugment._AUGMENTATION_SPACE
    assert [their_name(name) for name in OPERATIONS] == list(space)


@given(chances=st.lists(st.floats(0, 1, exclude_max=True), min_size=40, max_size=40), size=SIZES)
def test_a_rectangle_lies_inside_the_image(chances: list[float], size: tuple[int, int]) -> None:
    top, left, height, width = rectangle(torch.tensor(chances).view(10, 4).double(), *size)
    assert 0 <= top <= top + height <= size[0]
    assert 0 <= left <= left + width <= size[1]
    assert height < size[0]
    assert width < size[1]


# What chance decides.


def distance(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """Greatest difference of two samples' distribution functions (Kolmogorov, Smirnov)."""
    places = np.sort(np.concatenate([ours, theirs]))
    of_ours, of_theirs = (
        np.searchsorted(np.sort(x), places, side="right") / len(x) for x in (ours, theirs)
    )
    return float(np.abs(of_ours - of_theirs).max())


def parameters_of(transform: Any, images: Tensor, count: int) -> list[dict[str, Any]]:
    torch.manual_seed(0)
    return [transform.make_params([images]) for _ in range(count)]


def test_rectangles_are_as_likely_as_torchvisions() -> None:
    image, count = torch.zeros(3, 64, 48), 4000
    erasing = vision.load("torchvision.transforms.v2").RandomErasing()
    theirs = [(p["i"], p["j"], p["h"], p["w"]) for p in parameters_of(erasing, image, count)]
    drawn = Extras(erase=0.25).draw(keys_of(count))
    assert drawn.rectangles is not None
    assert drawn.erased is not None
    ours = [rectangle(tries, 64, 48) for tries in drawn.rectangles]
    for a, b in zip(np.array(ours).T, np.array(theirs).T, strict=True):
        assert distance(a, b) < 1.95 * (2 / count) ** 0.5  # one in a thousand, of equal ones
    assert abs(drawn.erased.double().mean() - 0.25) < 0.025
    apart = abs(np.corrcoef(np.array(ours)[:, 0], drawn.erased.numpy())[0, 1])
    assert apart < 0.06


@pytest.mark.parametrize("strength", [0.4, 1.5])
def test_factors_and_their_order_are_as_likely_as_torchvisions(strength: float) -> None:
    count = 4000
    jitter = vision.load("torchvision.transforms.v2").ColorJitter(strength, strength, strength)
    theirs = parameters_of(jitter, torch.zeros(3, 4, 4), count)
    drawn = Extras(color_jitter=strength).draw(keys_of(count))
    assert drawn.factors is not None
    assert drawn.order is not None
    for column, name in zip(drawn.factors.T.tolist(), JITTERS, strict=True):
        expected = [p[f"{name}_factor"] for p in theirs]
        assert distance(column, expected) < 1.95 * (2 / count) ** 0.5
    orders = drawn.order.unique(dim=0, return_counts=True)
    assert len(orders[0]) == 6
    assert orders[1].max() - orders[1].min() < 6 * (count / 6) ** 0.5


def test_operations_are_equally_likely_and_independent() -> None:
    count = 14 * 14 * 30
    drawn = Extras(rand_augment=9).draw(keys_of(count))
    assert drawn.operations is not None
    assert drawn.signs is not None
    pairs = (drawn.operations[:, 0] * 14 + drawn.operations[:, 1]).bincount(minlength=14 * 14)
    chi_squared = float(((pairs - 30.0) ** 2 / 30.0).sum())
    assert chi_squared < 195 + 3.3 * (2 * 195) ** 0.5
    assert set(drawn.signs.unique().tolist()) == {-1.0, 1.0}
    assert drawn.signs.mean(0).abs().max() < 0.05


def test_what_is_drawn_stays_the_same_for_ever() -> None:
    drawn = ALL.draw([5, 2**63 - 1])
    assert drawn.operations is not None
    assert drawn.order is not None
    assert drawn.factors is not None
    assert drawn.rectangles is not None
    assert drawn.operations.tolist() == [[2, 12], [1, 10]]
    assert drawn.order.tolist() == [[1, 0, 2], [2, 1, 0]]
    assert drawn.factors[0].tolist() == pytest.approx([0.84745990805, 1.24897591482, 0.8882731149])
    assert drawn.rectangles[1, 0].tolist() == pytest.approx(
        [0.34959817975, 0.26087683111, 0.0882379616, 0.96766414516]
    )


# What must not matter.


@settings(deadline=None, max_examples=25)
@given(
    batch=st.lists(st.integers(0, 11), min_size=1, max_size=12),
    size=SIZES,
    magnitude=st.integers(1, 30),
    together=st.integers(1, 12),
)
def test_an_image_has_the_same_bits_in_any_batch(
    batch: list[int], size: tuple[int, int], magnitude: int, together: int
) -> None:
    extras = Extras(0.4, magnitude, 0.5)
    keys, images = keys_of(12), photos(12, *size)
    alone = [done(extras, images[i : i + 1], keys[i : i + 1])[0] for i in range(12)]
    given_keys = [keys[i] for i in batch]
    for result in (
        done(extras, images[batch], given_keys),
        done(extras, images[batch], given_keys, together),
        done(extras, images[batch].contiguous(memory_format=torch.channels_last), given_keys),
    ):
        for row, index in zip(result, batch, strict=True):
            assert torch.equal(row, alone[index])


@pytest.mark.parametrize("together", [1, 16])
def test_the_number_of_threads_changes_no_bit(together: int) -> None:
    images, keys = photos(16, 223, 225), keys_of(16)
    results = []
    for count in (1, 2, 3):
        with threads(count):
            results.append(done(ALL, images, keys, together))
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])


def test_each_is_drawn_and_done_whether_the_others_are_on_or_not() -> None:
    images, keys = photos(32, 20, 24), keys_of(32)
    alone = images
    for extras in (Extras(rand_augment=9), Extras(color_jitter=0.4), Extras(erase=0.5)):
        before, alone = alone, done(extras, alone, keys)
        assert not torch.equal(before, alone)
    assert torch.equal(done(ALL, images, keys), alone)


def test_what_is_erased_has_the_mean_and_the_rest_is_as_it_was() -> None:
    images, keys, extras = photos(64, 32, 32) / 3, keys_of(64), Extras(erase=0.5)
    drawn = extras.draw(keys)
    result = done(extras, images, keys)
    is_mean = (result == torch.tensor(MEAN)[:, None, None]).all(1)
    assert torch.equal(is_mean.flatten(1).any(1), drawn.erased)
    share = is_mean.flatten(1).float().mean(1)[drawn.erased]
    assert share.min() > 0.01
    assert share.max() < 0.35
    assert torch.equal(result, torch.where(is_mean[:, None], result, images))


def test_the_images_given_are_changed_in_place_in_their_own_layout() -> None:
    images = photos(4, 16, 16).contiguous(memory_format=torch.channels_last)
    result = ALL.apply(images, ALL.draw(keys_of(4)), MEAN)
    assert result is images
    assert images.is_contiguous(memory_format=torch.channels_last)


def test_nothing_is_done_where_nothing_is_asked_for() -> None:
    images = photos(2, 8, 8)
    assert not Extras()
    assert all((Extras(color_jitter=0.1), Extras(rand_augment=1), Extras(erase=0.1)))
    assert torch.equal(done(Extras(), images, keys_of(2)), images)


def test_no_batch_at_all_is_left_alone() -> None:
    assert done(ALL, photos(1, 8, 8)[:0], []).shape == (0, 3, 8, 8)
