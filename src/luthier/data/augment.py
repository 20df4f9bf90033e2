"""What a training image goes through beside crop and flip, each drawn from the image's key.

RandAugment (Cubuk et al. 2020, arXiv:1909.13719), then colour jitter (as torchvision's
``ColorJitter``), then random erasing (Zhong et al. 2020, arXiv:1708.04896). Distributions and
operations are torchvision's. What an image becomes is a function of the image and its key, to
the bit, whatever batch it is in.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from luthier.data import operators
from luthier.keys import key

_STEPS = 2  # operations of RandAugment on an image
_TRIES = 10  # rectangles drawn until one fits


@dataclass(frozen=True)
class Drawn:
    """What was drawn for ``B`` images, on the CPU; what is off is None.

    Attributes:
        operations: int64 ``[B, 2]``, RandAugment's, by their places in ``OPERATIONS``.
        signs: float64 ``[B, 2]``, -1 or 1: their direction, where they have one.
        order: int64 ``[B, 3]``, which of ``JITTERS`` is first, second and last.
        factors: float64 ``[B, 3]``, the factors of brightness, contrast and saturation.
        erased: bool ``[B]``, whether a rectangle is erased.
        rectangles: float64 ``[B, tries, 4]`` in [0, 1), see ``rectangle``.
    """

    operations: Tensor | None
    signs: Tensor | None
    order: Tensor | None
    factors: Tensor | None
    erased: Tensor | None
    rectangles: Tensor | None


@dataclass(frozen=True)
class Extras:
    """Which there are, and how strong; false where all are off, which is 0.

    Attributes:
        color_jitter: brightness, contrast and saturation are changed, in random order, by
            factors from 1 - this (but not below 0) to 1 + this.
        rand_augment: magnitude, of 30, of two operations out of ``OPERATIONS``.
        erase: probability of painting a rectangle over, of 2 to 33 % of the area.
    """

    color_jitter: float = 0.0
    rand_augment: int = 0
    erase: float = 0.0

    def __bool__(self) -> bool:
        return bool(self.color_jitter or self.rand_augment or self.erase)

    def draw(self, keys: Sequence[int]) -> Drawn:
        """Draw for the images of these keys; row i is a function of ``keys[i]``.

        Each of the three has a stream of its own, so that what one draws does not depend on
        whether another is on.
        """
        operations = signs = order = factors = erased = rectangles = None
        if self.rand_augment:
            chances = _uniform(keys, "rand-augment", 2 * _STEPS)
            operations = (chances[:, :_STEPS] * len(OPERATIONS)).long()
            signs = torch.where(chances[:, _STEPS:] < 0.5, -1.0, 1.0).double()
        if self.color_jitter:
            chances = _uniform(keys, "color-jitter", 2 * len(JITTERS))
            order = chances[:, : len(JITTERS)].argsort(stable=True)
            low, high = max(0.0, 1.0 - self.color_jitter), 1.0 + self.color_jitter
            factors = low + chances[:, len(JITTERS) :] * (high - low)
        if self.erase:
            chances = _uniform(keys, "erase", 1 + 4 * _TRIES)
            erased = chances[:, 0] < self.erase
            rectangles = chances[:, 1:].reshape(-1, _TRIES, 4)
        return Drawn(operations, signs, order, factors, erased, rectangles)

    def apply(self, images: Tensor, drawn: Drawn, fill: Sequence[float]) -> Tensor:
        """Change images as drawn, in place.

        Args:
            images: float ``[B, 3, height, width]`` in [0, 1], on any device.
            drawn: what ``draw`` gave for them.
            fill: colour, as RGB in [0, 1], of erased rectangles and of what RandAugment moves in
                from outside: the mean, which is 0 once normalised.

        Returns:
            ``images``.
        """
        # One by one on a CPU: an image stays in a core's cache from its first change to the last.
        together = 1 if images.device.type == "cpu" else len(images)
        self.apply_in_parts(images, drawn, fill, together)
        return images

    def apply_in_parts(
        self, images: Tensor, drawn: Drawn, fill: Sequence[float], together: int
    ) -> None:
        """Change images in place, ``together`` of them at a time, which changes no bit."""
        color = torch.tensor(fill, dtype=images.dtype).to(images.device).view(3, 1, 1)
        steps = [*self._rand_augment_steps(drawn), *self._color_jitter_steps(drawn)]
        for first in range(0, len(images) if steps else 0, together):
            places = slice(first, first + together)
            part = images[places].contiguous()  # planes of a colour are faster than pixels
            for step in steps:
                part = step.changed(part, places, color)
            images[places] = part
        if drawn.erased is not None and drawn.rectangles is not None:
            height, width = images.shape[-2:]
            for index in drawn.erased.nonzero()[:, 0].tolist():
                top, left, rows, columns = rectangle(drawn.rectangles[index], height, width)
                images[index, :, top : top + rows, left : left + columns] = color

    def _rand_augment_steps(self, drawn: Drawn) -> list[_Step]:
        if drawn.operations is None or drawn.signs is None:
            return []
        amounts = drawn.signs * (self.rand_augment / 30.0)
        return [
            _Step(OPERATIONS, chosen, amount)
            for chosen, amount in zip(drawn.operations.T, amounts.T, strict=True)
        ]

    def _color_jitter_steps(self, drawn: Drawn) -> list[_Step]:
        if drawn.order is None or drawn.factors is None:
            return []
        amounts = drawn.factors.gather(1, drawn.order)
        return [
            _Step(JITTERS, chosen, amount)
            for chosen, amount in zip(drawn.order.T, amounts.T, strict=True)
        ]


def rectangle(tries: Tensor, height: int, width: int) -> tuple[int, int, int, int]:
    """Return the first rectangle that is smaller than the image as (top, left, height, width).

    Args:
        tries: ``[tries, 4]`` in [0, 1): where between the least and the greatest are area
            (2 to 33 %), logarithm of the ratio height:width (0.3 to 3.3), top and left.
        height: of the image, pixels.
        width: of the image, pixels.

    Returns:
        One of no pixels where none is smaller.
    """
    least, greatest = math.log(0.3), math.log(3.3)
    for area, ratio, top, left in tries.tolist():
        pixels = height * width * (0.02 + area * (0.33 - 0.02))
        aspect = math.exp(least + ratio * (greatest - least))
        rows, columns = round(math.sqrt(pixels * aspect)), round(math.sqrt(pixels / aspect))
        if rows < height and columns < width:
            return int(top * (height - rows + 1)), int(left * (width - columns + 1)), rows, columns
    return 0, 0, 0, 0


def _uniform(keys: Sequence[int], purpose: str, count: int) -> Tensor:
    """Return float64 ``[len(keys), count]`` in [0, 1), row i a function of ``keys[i]``.

    Made of raw Philox numbers (Salmon et al. 2011), a stream that numpy keeps stable.
    """
    raw = np.empty((len(keys), count), dtype=np.uint64)
    for row, of_image in zip(raw, keys, strict=True):
        row[:] = np.random.Philox(key=key(of_image, purpose)).random_raw(count)
    return torch.from_numpy((raw >> np.uint64(11)) * 2.0**-53)


# Images, an amount for each, and the colour of what lies outside → the images changed.
_Operator = Callable[[Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class _Step:
    """One change of every image: which of ``operators``, and how much."""

    operators: Mapping[str, _Operator]
    chosen: Tensor
    amounts: Tensor

    def changed(self, images: Tensor, places: slice, color: Tensor) -> Tensor:
        """Return the images that are at ``places`` of the batch, changed."""
        change = list(self.operators.values())
        chosen, amounts = self.chosen[places], self.amounts[places]
        choices: list[int] = sorted(set(chosen.tolist()))
        for choice in choices:
            members = (chosen == choice).nonzero()[:, 0]
            if len(members) == len(images):
                return change[choice](images, amounts, color)
            on_device = members.to(images.device)
            images[on_device] = change[choice](images[on_device], amounts[members], color)
        return images


# RandAugment's operations. Magnitudes are -1 to 1; the greatest change of each is torchvision's.


def _shear_x(images: Tensor, magnitudes: Tensor, color: Tensor) -> Tensor:
    slope = 0.3 * magnitudes
    return _moved(images, color, x=(1.0, slope, slope * images.shape[-2] / 2))


def _shear_y(images: Tensor, magnitudes: Tensor, color: Tensor) -> Tensor:
    slope = 0.3 * magnitudes
    return _moved(images, color, y=(slope, 1.0, slope * images.shape[-1] / 2))


def _translate_x(images: Tensor, magnitudes: Tensor, color: Tensor) -> Tensor:
    return _moved(images, color, x=(1.0, 0.0, -_whole_pixels(images.shape[-1], magnitudes)))


def _translate_y(images: Tensor, magnitudes: Tensor, color: Tensor) -> Tensor:
    return _moved(images, color, y=(0.0, 1.0, -_whole_pixels(images.shape[-2], magnitudes)))


def _rotate(images: Tensor, magnitudes: Tensor, color: Tensor) -> Tensor:
    angle = math.radians(30.0) * magnitudes
    cosine, sine = angle.cos(), angle.sin()
    return _moved(images, color, x=(cosine, -sine, 0.0), y=(sine, cosine, 0.0))


def _whole_pixels(edge: int, magnitudes: Tensor) -> Tensor:
    return (150.0 / 331.0 * edge * magnitudes).trunc()


_Row = tuple[float | Tensor, float | Tensor, float | Tensor]


def _moved(
    images: Tensor, color: Tensor, x: _Row = (1.0, 0.0, 0.0), y: _Row = (0.0, 1.0, 0.0)
) -> Tensor:
    entries = [torch.as_tensor(entry, dtype=torch.float64) for entry in (*x, *y)]
    matrices = torch.stack([entry.expand(len(images)) for entry in entries], dim=-1)
    return operators.affine(images, matrices.view(-1, 2, 3), color)


def _enhanced(operator: Callable[[Tensor, Tensor], Tensor]) -> _Operator:
    return lambda images, magnitudes, _: operator(images, 1.0 + 0.9 * magnitudes)


def _posterize(images: Tensor, magnitudes: Tensor, _: Tensor) -> Tensor:
    return operators.posterize(images, 8.0 - (4.0 * magnitudes.abs()).round())


def _solarize(images: Tensor, magnitudes: Tensor, _: Tensor) -> Tensor:
    return operators.solarize(images, 1.0 - magnitudes.abs())


OPERATIONS: dict[str, _Operator] = {  # torchvision's list: the paper's but Invert and Cutout
    "identity": lambda images, _magnitudes, _color: images,
    "shear-x": _shear_x,
    "shear-y": _shear_y,
    "translate-x": _translate_x,
    "translate-y": _translate_y,
    "rotate": _rotate,
    "brightness": _enhanced(operators.brightness),
    "saturation": _enhanced(operators.saturation),
    "contrast": _enhanced(operators.contrast),
    "sharpness": _enhanced(operators.sharpness),
    "posterize": _posterize,
    "solarize": _solarize,
    "autocontrast": lambda images, _magnitudes, _color: operators.autocontrast(images),
    "equalize": lambda images, _magnitudes, _color: operators.equalize(images),
}
JITTERS: dict[str, _Operator] = {
    "brightness": lambda images, factors, _: operators.brightness(images, factors),
    "contrast": lambda images, factors, _: operators.contrast(images, factors),
    "saturation": lambda images, factors, _: operators.saturation(images, factors),
}
