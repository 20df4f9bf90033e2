"""A decoded photo → what the model sees of it.

Photos and views are uint8; only whole batches become floating point. ``preprocess`` is what
validation and prediction have in common.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image

from luthier.data.views import Box
from luthier.values import Preprocessing

AVERAGED = ("none", "flip", "ten-crop")  # views of a photo whose answers are averaged

Pixels = NDArray[np.uint8]  # [height, width, 3], RGB


def preprocess(photo: Image.Image, how: Preprocessing) -> torch.Tensor:
    """Return what the model sees of a photo outside of training.

    To the bit what validation sees, if the photo was decoded as there: by ``decode(content,
    decoded_edge(how))``.

    Returns:
        float32 ``[3, size, size]``.
    """
    return views(photo, how)[0]


def views(photo: Image.Image, how: Preprocessing, averaged: str = "none") -> torch.Tensor:
    """Return what the model sees of a photo where its answers to several views are averaged.

    Args:
        photo: see ``preprocess``.
        how: likewise.
        averaged: "none" for what ``preprocess`` returns alone; "flip" adds its mirror image;
            "ten-crop" is the centre and the four corners of the resized photo, and the mirror
            images of all five (Krizhevsky et al. 2012, section 4.1).

    Returns:
        float32 ``[views, 3, size, size]``; the first view is that of ``preprocess``.
    """
    pixels = np.asarray(photo.convert("RGB"))
    squares = _crops(pixels, how) if averaged == "ten-crop" else [centre(pixels, how)]
    if averaged != "none":
        squares += [square[:, ::-1] for square in squares]
    return Normaliser(how)(torch.from_numpy(np.stack(squares)))


def centre(photo: Pixels, how: Preprocessing) -> Pixels:
    """Resize a photo's shorter edge and cut the square from its middle.

    Sizes and places are those of torchvision's ``Resize`` and ``CenterCrop``; a photo that is
    smaller than the square is laid over black.
    """
    fitted, size = _fitted(photo, how), how.image_size
    tall, wide = fitted.shape[:2]
    return _square(fitted, round((tall - size) / 2), round((wide - size) / 2), size)


def _crops(photo: Pixels, how: Preprocessing) -> list[Pixels]:
    fitted, size = _fitted(photo, how), how.image_size
    bottom, right = fitted.shape[0] - size, fitted.shape[1] - size
    middle = round(bottom / 2), round(right / 2)
    places = (middle, (0, 0), (0, right), (bottom, 0), (bottom, right))
    return [_square(fitted, top, left, size) for top, left in places]


def _square(photo: Pixels, top: int, left: int, size: int) -> Pixels:
    return np.ascontiguousarray(photo[top : top + size, left : left + size])


def _fitted(photo: Pixels, how: Preprocessing) -> Pixels:
    """Resize a photo's shorter edge, and lay it over black where it is smaller than the square."""
    height, width = photo.shape[:2]
    shorter = min(height, width)
    tall, wide = int(how.resize * height / shorter), int(how.resize * width / shorter)
    resized = _resized(photo, tall, wide, how.interpolation)
    size = how.image_size
    down, right = max(0, size - tall), max(0, size - wide)
    if down or right:
        before = ((down // 2, down - down // 2), (right // 2, right - right // 2), (0, 0))
        resized = np.pad(resized, before)
    return resized


def cut(photo: Pixels, box: Box, how: Preprocessing) -> Pixels:
    """Return a part of a photo, resized to ``[size, size, 3]``."""
    top, left, height, width = box
    part = photo[top : top + height, left : left + width]
    return _resized(part, how.image_size, how.image_size, how.interpolation)


def _resized(photo: Pixels, height: int, width: int, interpolation: str) -> Pixels:
    # torch has a fast path for uint8 in channels-last order, which lets go of Python's lock. Its
    # sums are of integers: they do not depend on the number of threads. A copy, as torch warns
    # of arrays that must not be written to.
    images = torch.from_numpy(np.array(photo, order="C"))[None].permute(0, 3, 1, 2)
    resized = F.interpolate(images, size=(height, width), mode=interpolation, antialias=True)
    pixels: Pixels = resized[0].permute(1, 2, 0).numpy()
    return pixels


class Normaliser:
    """Makes a batch of uint8 squares what a model sees.

    Args:
        how: mean and standard deviation of values in [0, 1].
        device: of the batches.
    """

    def __init__(self, how: Preprocessing, device: torch.device | str = "cpu") -> None:
        mean, std = torch.tensor([how.mean, how.std], dtype=torch.float64)
        factors = (1 / (255 * std), 1 / std, -mean / std)
        # Rows of pixels, as three channels would make an inner loop of three.
        rows = [factor.float().repeat(how.image_size).to(device) for factor in factors]
        self._of_grey, self._of_unit, self._bias = rows

    def __call__(
        self, squares: torch.Tensor, change: Callable[[torch.Tensor], object] | None = None
    ) -> torch.Tensor:
        """Normalise a batch.

        Args:
            squares: grey levels, uint8 or float ``[batch, size, size, 3]``.
            change: is given the images, float ``[batch, 3, size, size]`` in [0, 1], before they
                are normalised, and changes them in place.

        Returns:
            float32 ``[batch, 3, size, size]``, channels-last.
        """
        values = squares.to(torch.float32, copy=True)
        images = values.permute(0, 3, 1, 2)
        if change is None:
            self.in_place(values)
        else:
            values.div_(255)
            change(images)
            self._scale(values, self._of_unit)
        return images

    def in_place(self, values: torch.Tensor) -> None:
        """Normalise grey levels, float32 ``[…, size, size, 3]``, in place."""
        self._scale(values, self._of_grey)

    def _scale(self, values: torch.Tensor, factor: torch.Tensor) -> None:
        # Two roundings: whether a product and a sum are fused is the compiler's choice.
        values.flatten(-2).mul_(factor).add_(self._bias)
