"""Which part of a photo a training image shows, and whether mirrored. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

_SCALE = (0.08, 1.0)  # of the photo's area
_RATIO = (3 / 4, 4 / 3)  # width / height
_TRIES = 10


class Box(NamedTuple):
    """A rectangle of a photo, in pixels: its upper left corner and its size."""

    top: int
    left: int
    height: int
    width: int


class View(NamedTuple):
    """What is shown, and whether left and right are exchanged."""

    box: Box
    flip: bool


@dataclass(frozen=True)
class Augment:
    """How training images are varied.

    Attributes:
        crop: a random part of the photo, of a random shape, in place of its centre.
        flip: mirror every other view.
        color_jitter: strength of random brightness, contrast and saturation; 0 is off.
        rand_augment: magnitude of RandAugment's two operations, of 30; 0 is off.
        erase: probability of erasing a random rectangle.
    """

    crop: bool = True
    flip: bool = True
    color_jitter: float = 0.0
    rand_augment: int = 0
    erase: float = 0.0

    @classmethod
    def of(
        cls,
        name: str,
        color_jitter: float | None = None,
        rand_augment: int | None = None,
        erase: float | None = None,
    ) -> Augment:
        """Return what a recipe asks for.

        Args:
            name: "crop-flip", "crop" (without the flip), or "none" (neither).
            color_jitter: as the attribute; None is off.
            rand_augment: likewise.
            erase: likewise.
        """
        return cls(
            "crop" in name, "flip" in name, color_jitter or 0.0, rand_augment or 0, erase or 0.0
        )


def draw_view(number: int, height: int, width: int, augment: Augment) -> View:
    """Draw a view of a photo, or of its centre where nothing is cropped.

    A box is drawn as by torchvision's ``RandomResizedCrop`` (Szegedy et al. 2015): area and shape
    at random, up to ten times until they fit, and then the largest central part of a shape that is
    allowed. The draws are raw Philox numbers, whose stream numpy keeps stable; the flip takes the
    first, so that it does not depend on the photo's size.

    Args:
        number: key of the decision, below 2**64.
        height: of the photo, in pixels.
        width: likewise.
        augment: what is varied.
    """
    whole = Box(0, 0, height, width)
    if not augment.crop and not augment.flip:
        return View(whole, False)
    raw = np.random.Philox(key=number).random_raw(1 + 4 * _TRIES)
    uniform: list[float] = ((raw >> np.uint64(11)) * 2.0**-53).tolist()
    box = _box(uniform[1:], height, width) if augment.crop else whole
    return View(box, augment.flip and uniform[0] < 0.5)


def _box(uniform: list[float], height: int, width: int) -> Box:
    low, high = map(math.log, _RATIO)
    for at in range(0, 4 * _TRIES, 4):
        area, shape, down, right = uniform[at : at + 4]
        pixels = height * width * (_SCALE[0] + area * (_SCALE[1] - _SCALE[0]))
        ratio = math.exp(low + shape * (high - low))
        tall, wide = round(math.sqrt(pixels / ratio)), round(math.sqrt(pixels * ratio))
        if 0 < tall <= height and 0 < wide <= width:
            top, left = int(down * (height - tall + 1)), int(right * (width - wide + 1))
            return Box(top, left, tall, wide)
    wide = min(width, max(1, round(height * _RATIO[1])))
    tall = min(height, max(1, round(width / _RATIO[0])))
    return Box((height - tall) // 2, (width - wide) // 2, tall, wide)
