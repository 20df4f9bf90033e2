"""What an image goes through in training beside crop and flip, each drawn from the image's key.

RandAugment (Cubuk et al. 2020, arXiv:1909.13719), colour jitter (Krizhevsky et al. 2012; as
torchvision's ``ColorJitter``) and random erasing (Zhong et al. 2020, arXiv:1708.04896), in this
order. Parameters and arithmetic are those of ``torchvision.transforms.v2`` on float images.

An image comes out with the same bits whatever batch it is in: nothing is computed across images,
and the sums within one are exact, so that no order of adding and no number of threads matters.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from luthier.keys import key

OPERATIONS = (  # torchvision's list, which leaves out Invert and Cutout of the paper's
    "identity",
    "shear-x",
    "shear-y",
    "translate-x",
    "translate-y",
    "rotate",
    "brightness",
    "color",
    "contrast",
    "sharpness",
    "posterize",
    "solarize",
    "autocontrast",
    "equalize",
)
JITTERS = ("brightness", "contrast", "color")
_TRIES = 10  # rectangles drawn until one fits, as in torchvision
_LEVELS = 30  # the greatest magnitude


@dataclass(frozen=True)
class Drawn:
    """What was drawn for ``B`` images; what is off is None.

    Attributes:
        operations: int64 ``[B, 2]``, RandAugment's two, places in ``OPERATIONS``.
        signs: float64 ``[B, 2]``, -1 or 1, of the operations that have a direction.
        order: int64 ``[B, 3]``, colour jitter's three in their order, places in ``JITTERS``.
        factors: float64 ``[B, 3]``, their factors, in the order of ``JITTERS``.
        erased: bool ``[B]``, whether a rectangle is erased.
        rectangles: float64 ``[B, tries, 4]`` in [0, 1): area, ratio, top and left of every try.
    """

    operations: Tensor | None
    signs: Tensor | None
    order: Tensor | None
    factors: Tensor | None
    erased: Tensor | None
    rectangles: Tensor | None


@dataclass(frozen=True)
class Extras:
    """Which of them there are; false where there is none.

    Attributes:
        color_jitter: brightness, contrast and saturation change by factors within
            1 ± this (but not below 0), in random order.
        rand_augment: magnitude, of 30, of two operations out of ``OPERATIONS``.
        erase: probability of painting a random rectangle (2 to 33 % of the area) in the mean.
    """

    color_jitter: float | None = None
    rand_augment: int | None = None
    erase: float | None = None

    def __bool__(self) -> bool:
        return not (self.color_jitter is None and self.rand_augment is None and self.erase is None)

    def draw(self, keys: Sequence[int]) -> Drawn:
        """Draw for images with these keys; each kind from a stream of its own."""
        operations = signs = order = factors = erased = rectangles = None
        if self.rand_augment is not None:
            chance = _uniform(keys, "rand-augment", 4)
            operations = (chance[:, :2] * len(OPERATIONS)).long()
            signs = torch.where(chance[:, 2:] <= 0.5, -1.0, 1.0).double()
        if self.color_jitter is not None:
            chance = _uniform(keys, "color-jitter", 6)
            order = chance[:, :3].argsort(stable=True)
            low, high = max(0.0, 1.0 - self.color_jitter), 1.0 + self.color_jitter
            factors = low + chance[:, 3:] * (high - low)
        if self.erase is not None:
            chance = _uniform(keys, "erase", 1 + 4 * _TRIES)
            erased = chance[:, 0] < self.erase
            rectangles = chance[:, 1:].reshape(len(keys), _TRIES, 4)
        return Drawn(operations, signs, order, factors, erased, rectangles)

    def apply(self, images: Tensor, drawn: Drawn, fill: Sequence[float]) -> Tensor:
        """Return the images changed as drawn.

        Args:
            images: float32 ``[B, 3, H, W]`` in [0, 1], of any memory layout; may be overwritten.
            drawn: what ``draw`` gave for them.
            fill: RGB in [0, 1] of what comes in from outside, and of erased rectangles.
        """
        color = torch.tensor(fill, dtype=images.dtype).to(images.device).view(3, 1, 1)
        if drawn.operations is not None and drawn.signs is not None:
            magnitude = (self.rand_augment or 0) / _LEVELS
            for step in range(2):
                signed = magnitude * drawn.signs[:, step]
                images = _each(images, drawn.operations[:, step], signed, _OPERATORS, color)
        if drawn.order is not None and drawn.factors is not None:
            for step in range(len(JITTERS)):
                chosen = drawn.order[:, step]
                factors = drawn.factors.gather(1, chosen[:, None])[:, 0]
                images = _each(images, chosen, factors, _JITTER_OPERATORS, color)
        if drawn.erased is not None and drawn.rectangles is not None:
            height, width = images.shape[-2:]
            for index in drawn.erased.nonzero()[:, 0].tolist():
                box = rectangle(drawn.rectangles[index].tolist(), height, width)
                if box is not None:
                    top, left, rows, columns = box
                    images[index, :, top : top + rows, left : left + columns] = color
        return images


def rectangle(
    tries: Sequence[Sequence[float]], height: int, width: int
) -> tuple[int, int, int, int] | None:
    """Return the first rectangle that fits as (top, left, height, width); None if none does.

    Args:
        tries: (area, ratio, top, left) in [0, 1), ``scale=(0.02, 0.33), ratio=(0.3, 3.3)``.
        height: of the image, pixels.
        width: of the image, pixels.
    """
    low, high = math.log(0.3), math.log(3.3)
    for area, ratio, top, left in tries:
        pixels = height * width * (0.02 + area * (0.33 - 0.02))
        aspect = math.exp(low + ratio * (high - low))
        rows, columns = round(math.sqrt(pixels * aspect)), round(math.sqrt(pixels / aspect))
        if rows < height and columns < width:
            place = int(top * (height - rows + 1)), int(left * (width - columns + 1))
            return *place, rows, columns
    return None


def _uniform(keys: Sequence[int], purpose: str, count: int) -> Tensor:
    """Return float64 ``[len(keys), count]`` in [0, 1): row i depends on ``keys[i]`` alone.

    From raw Philox numbers (Salmon et al. 2011), a stream that numpy keeps stable.
    """
    raw = np.empty((len(keys), count), dtype=np.uint64)
    for row, of_image in zip(raw, keys, strict=True):
        row[:] = np.random.Philox(key=key(of_image, purpose)).random_raw(count)
    return torch.from_numpy((raw >> np.uint64(11)) * 2.0**-53)


# An operator takes images [n, 3, H, W], n signed magnitudes or factors on the CPU, and the fill.
_Operator = Callable[[Tensor, Tensor, Tensor], Tensor]


def _each(
    images: Tensor, chosen: Tensor, amounts: Tensor, operators: Sequence[_Operator], fill: Tensor
) -> Tensor:
    for choice, members in _groups(chosen, one_by_one=images.device.type == "cpu"):
        places = members.to(images.device)
        changed = operators[choice](images[places], amounts[members], fill)
        images[places] = changed
    return images


def _groups(chosen: Tensor, one_by_one: bool) -> Iterator[tuple[int, Tensor]]:
    """Give (choice, which images) until every image was given once.

    One by one is faster where an image fits into a core's cache; else few launches are.
    """
    if one_by_one:
        for index, choice in enumerate(chosen.tolist()):
            yield choice, torch.tensor([index])
        return
    for choice in chosen.unique().tolist():
        yield choice, (chosen == choice).nonzero()[:, 0]


def _scalars(amounts: Tensor, images: Tensor) -> Tensor:
    return amounts.to(images.dtype).to(images.device).view(-1, 1, 1, 1)


def _blend(images: Tensor, other: Tensor | float, factors: Tensor) -> Tensor:
    share = _scalars(factors, images)
    return (images * share + other * (1.0 - share)).clamp_(0.0, 1.0)


def _gray(images: Tensor) -> Tensor:
    red, green, blue = images.unbind(1)
    return (red * 0.2989 + green * 0.587 + blue * 0.114)[:, None]


def _exact_mean(images: Tensor) -> Tensor:
    """Return each image's mean, to 2^-21, with the same bits for every order of adding."""
    whole = (images * 2.0**20).round_().sum((1, 2, 3), keepdim=True, dtype=torch.float64)
    return (whole / (2.0**20 * images[0].numel())).to(images.dtype)


def _brightness(images: Tensor, factors: Tensor, fill: Tensor) -> Tensor:
    return (images * _scalars(factors, images)).clamp_(0.0, 1.0)


def _contrast(images: Tensor, factors: Tensor, fill: Tensor) -> Tensor:
    return _blend(images, _exact_mean(_gray(images)), factors)


def _color(images: Tensor, factors: Tensor, fill: Tensor) -> Tensor:
    return _blend(images, _gray(images), factors)


def _sharpness(images: Tensor, factors: Tensor, fill: Tensor) -> Tensor:
    if min(images.shape[-2:]) <= 2:
        return images
    rows = images[..., :-2, :] + images[..., 1:-1, :] + images[..., 2:, :]
    ones = rows[..., :-2] + rows[..., 1:-1] + rows[..., 2:]
    inner = images[..., 1:-1, 1:-1]
    result = images.clone()
    result[..., 1:-1, 1:-1] = _blend(inner, (ones + inner * 4.0) / 13.0, factors)
    return result


def _posterize(images: Tensor, amounts: Tensor, fill: Tensor) -> Tensor:
    levels = 2.0 ** (8 - (amounts.abs() * 4).round())
    share = _scalars(levels, images)
    return torch.minimum((images * share).floor_(), share - 1) / share


def _solarize(images: Tensor, amounts: Tensor, fill: Tensor) -> Tensor:
    return torch.where(images >= _scalars(1.0 - amounts.abs(), images), 1.0 - images, images)


def _autocontrast(images: Tensor, amounts: Tensor, fill: Tensor) -> Tensor:
    low, high = images.amin((2, 3), keepdim=True), images.amax((2, 3), keepdim=True)
    flat = low == high
    low, span = low.masked_fill(flat, 0.0), (high - low).masked_fill(flat, 1.0)
    return ((images - low) / span).clamp_(0.0, 1.0)


def _equalize(images: Tensor, amounts: Tensor, fill: Tensor) -> Tensor:
    """Equalise each channel's histogram of 256 grey levels, as Pillow does."""
    levels = (images * 255.999).long().flatten(2)
    counts = torch.zeros(*levels.shape[:2], 256, dtype=torch.int64, device=images.device)
    counts.scatter_add_(2, levels, torch.ones_like(levels))
    below = counts.cumsum(2)
    brightest = counts.gather(2, levels.amax(2, keepdim=True))
    step = (levels.shape[2] - brightest) // 255
    table = (below - counts + step // 2) // step.clamp(min=1)
    table = torch.where(step == 0, torch.arange(256, device=images.device), table.clamp(0, 255))
    return (table.to(images.dtype) / 255.0).gather(2, levels).view(images.shape)


def _identity(images: Tensor, amounts: Tensor, fill: Tensor) -> Tensor:
    return images


# Where a pixel comes from: (magnitudes, height, width) → its place, in pixels from the image's
# centre, as a function of the place in the result: x' = a·x + b·y + c, y' = d·x + e·y + f.
_Map = Callable[[Tensor, int, int], tuple[Tensor | float, ...]]


def _shear_x(magnitudes: Tensor, height: int, width: int) -> tuple[Tensor | float, ...]:
    slope = 0.3 * magnitudes
    return 1.0, slope, slope * (0.5 * height), 0.0, 1.0, 0.0


def _shear_y(magnitudes: Tensor, height: int, width: int) -> tuple[Tensor | float, ...]:
    slope = 0.3 * magnitudes
    return 1.0, 0.0, 0.0, slope, 1.0, slope * (0.5 * width)


def _translate_x(magnitudes: Tensor, height: int, width: int) -> tuple[Tensor | float, ...]:
    return 1.0, 0.0, -(150.0 / 331.0 * width * magnitudes).trunc(), 0.0, 1.0, 0.0


def _translate_y(magnitudes: Tensor, height: int, width: int) -> tuple[Tensor | float, ...]:
    return 1.0, 0.0, 0.0, 0.0, 1.0, -(150.0 / 331.0 * height * magnitudes).trunc()


def _rotate(magnitudes: Tensor, height: int, width: int) -> tuple[Tensor | float, ...]:
    angle = magnitudes * math.radians(30.0)
    return angle.cos(), -angle.sin(), 0.0, angle.sin(), angle.cos(), 0.0


def _moved(place: _Map) -> _Operator:
    def move(images: Tensor, magnitudes: Tensor, fill: Tensor) -> Tensor:
        height, width = images.shape[-2:]
        a, b, c, d, e, f = (
            _scalars(torch.as_tensor(x, dtype=torch.float64).expand(len(images)), images)[:, 0]
            for x in place(magnitudes, height, width)
        )
        x = torch.arange(width, dtype=images.dtype, device=images.device) - (width - 1) / 2
        y = torch.arange(height, dtype=images.dtype, device=images.device) - (height - 1) / 2
        y = y[:, None]
        grid = torch.stack(
            [(a * x + b * y + c) / (width / 2), (d * x + e * y + f) / (height / 2)], dim=-1
        )
        # Outside there are zeros, so what is sampled is the difference from the fill.
        sampled = F.grid_sample(images - fill, grid, mode="bilinear", align_corners=False)
        return sampled.add_(fill)

    return move


def _enhanced(blend: _Operator) -> _Operator:
    return lambda images, magnitudes, fill: blend(images, 1.0 + 0.9 * magnitudes, fill)


_OPERATORS: tuple[_Operator, ...] = (
    _identity,
    _moved(_shear_x),
    _moved(_shear_y),
    _moved(_translate_x),
    _moved(_translate_y),
    _moved(_rotate),
    _enhanced(_brightness),
    _enhanced(_color),
    _enhanced(_contrast),
    _enhanced(_sharpness),
    _posterize,
    _solarize,
    _autocontrast,
    _equalize,
)
_JITTER_OPERATORS: tuple[_Operator, ...] = (_brightness, _contrast, _color)
