"""What may be done to the pixels of an image: brightness, shear, equalisation and so on.

Every operator takes float images ``[n, 3, height, width]`` in [0, 1] with a parameter for each,
and returns new ones; what it computes is what the function of that name in
``torchvision.transforms.v2.functional`` computes for float images.

Each image comes out with the same bits whatever others are in the batch: nothing is computed
across images, and sums within one are exact, so that no order of adding matters.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

_GRAY = (0.2989, 0.587, 0.114)  # ITU-R BT.601 luma, as torchvision rounds it
_GRID = 2.0**20  # sums of this many steps of [0, 1] are exact in float64


def brightness(images: Tensor, factors: Tensor) -> Tensor:
    """Blend with black."""
    return (images * _each(factors, images)).clamp_(0.0, 1.0)


def contrast(images: Tensor, factors: Tensor) -> Tensor:
    """Blend with the image's mean grey."""
    steps = _gray(images).mul_(_GRID).round_()
    mean = steps.sum((1, 2, 3), keepdim=True, dtype=torch.float64) / (_GRID * steps[0].numel())
    return _blend(images, mean.to(images.dtype), factors)


def saturation(images: Tensor, factors: Tensor) -> Tensor:
    """Blend with the image in grey."""
    return _blend(images, _gray(images), factors)


def sharpness(images: Tensor, factors: Tensor) -> Tensor:
    """Blend with a blurred image, but for the outermost pixels."""
    result = images.clone()
    if min(images.shape[-2:]) > 2:
        inner = images[..., 1:-1, 1:-1]
        rows = images[..., :-2, :] + images[..., 1:-1, :] + images[..., 2:, :]
        blurred = rows[..., :-2] + rows[..., 1:-1] + rows[..., 2:] + inner * 4.0
        result[..., 1:-1, 1:-1] = _blend(inner, blurred.div_(13.0), factors)
    return result


def posterize(images: Tensor, bits: Tensor) -> Tensor:
    """Keep ``2 ** bits`` levels."""
    levels = _each(2.0**bits, images)
    return torch.minimum((images * levels).floor_(), levels - 1.0).div_(levels)


def solarize(images: Tensor, thresholds: Tensor) -> Tensor:
    """Invert what is not darker than the threshold."""
    return torch.where(images >= _each(thresholds, images), 1.0 - images, images)


def autocontrast(images: Tensor) -> Tensor:
    """Stretch each channel to all of [0, 1]."""
    low, high = images.amin((2, 3), keepdim=True), images.amax((2, 3), keepdim=True)
    flat = low == high
    low, span = low.masked_fill(flat, 0.0), (high - low).masked_fill(flat, 1.0)
    return (images - low).div_(span).clamp_(0.0, 1.0)


def equalize(images: Tensor) -> Tensor:
    """Make each channel's 256 grey levels about equally frequent, as Pillow does."""
    levels = (images * 255.999).long().flatten(2)
    counts = torch.zeros(*levels.shape[:2], 256, dtype=torch.int64, device=images.device)
    counts.scatter_add_(2, levels, torch.ones_like(levels[..., :1]).expand_as(levels))
    brightest = counts.gather(2, levels.amax(2, keepdim=True))
    step = (levels.shape[2] - brightest) // 255
    darker = counts.cumsum(2) - counts
    table = ((darker + step // 2) // step.clamp(min=1)).clamp_(0, 255)
    table = torch.where(step == 0, torch.arange(256, device=images.device), table)
    return (table.to(images.dtype) / 255.0).gather(2, levels).view(images.shape)


def affine(images: Tensor, matrices: Tensor, fill: Tensor) -> Tensor:
    """Move pixels, bilinearly.

    Args:
        images: as above.
        matrices: ``[n, 2, 3]``: place in the result → place in the image, both (x, y) in pixels
            from the centre.
        fill: colour ``[3, 1, 1]`` of what lies outside of the image.
    """
    height, width = images.shape[-2:]
    x, y = _centred(width, images), _centred(height, images)[:, None]
    # Not by a matrix product, whose bits may depend on the number of images.
    by_x, by_y, offset = matrices.to(images)[..., None, None].unbind(2)
    places = by_x * x + by_y * y + offset
    grid = torch.stack([places[:, 0] * (2.0 / width), places[:, 1] * (2.0 / height)], dim=-1)
    # Sampling gives 0 outside of the image, so it is the difference from the fill that is sampled.
    return F.grid_sample(images - fill, grid, align_corners=False).add_(fill)


def _centred(edge: int, like: Tensor) -> Tensor:
    return torch.arange(edge, dtype=like.dtype, device=like.device) - (edge - 1) / 2


def _each(parameters: Tensor, images: Tensor) -> Tensor:
    return parameters.to(images).view(-1, 1, 1, 1)


def _gray(images: Tensor) -> Tensor:
    red, green, blue = images.unbind(1)
    return (red * _GRAY[0] + green * _GRAY[1] + blue * _GRAY[2])[:, None]


def _blend(images: Tensor, others: Tensor, factors: Tensor) -> Tensor:
    share = _each(factors, images)
    return (images * share).add_(others * (1.0 - share)).clamp_(0.0, 1.0)
