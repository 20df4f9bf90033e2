"""Crop, resize and flip of many photos at once, on any device, as matrix products.

Antialiased resizing is separable and linear: for a crop of an image, the result is
``W_y · crop · W_xᵀ``, with a matrix each for rows and columns whose entries are the filter's
weights. They are those of torch's and Pillow's antialiased resize: the filter (a triangle, or
Keys' cubic with a = -0.5, Keys 1981) is stretched by the scale where the image gets smaller.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

Box = tuple[int, int, int, int]


def resample(
    photos: Sequence[Tensor],
    boxes: Sequence[Box],
    flips: Sequence[bool],
    size: int,
    interpolation: str,
) -> Tensor:
    """Return the crops of the photos, resized and flipped, as one batch.

    Args:
        photos: uint8 ``[height, width, 3]`` each, all on the device that is to compute.
        boxes: crop of each as (top, left, height, width), pixels, inside the photo.
        flips: whether the crop is mirrored left to right.
        size: edge of the result, pixels.
        interpolation: "bilinear" or "bicubic", antialiased.

    Returns:
        float32 ``[B, 3, size, size]`` in grey levels, 0 to 255, not rounded.
    """
    device = photos[0].device
    heights, widths = (torch.tensor([box[i] for box in boxes]) for i in (2, 3))
    crops = torch.zeros(len(photos), 3, int(heights.max()), int(widths.max()), device=device)
    for crop, photo, (top, left, height, width) in zip(crops, photos, boxes, strict=True):
        crop[:, :height, :width] = photo[top : top + height, left : left + width].permute(2, 0, 1)
    rows = resize_matrices(heights.to(device), size, interpolation)
    columns = resize_matrices(widths.to(device), size, interpolation)
    flipped = torch.tensor(list(flips), device=device)[:, None, None]
    columns = torch.where(flipped, columns.flip(1), columns)
    result = rows[:, None] @ (crops @ columns[:, None].transpose(-1, -2))
    return result.clamp_(0.0, 255.0)


def resize_matrices(lengths: Tensor, size: int, interpolation: str) -> Tensor:
    """Return the matrices that resize axes of these lengths to ``size``.

    Args:
        lengths: int64 ``[B]``, pixels.
        size: pixels of the result.
        interpolation: "bilinear" or "bicubic".

    Returns:
        float32 ``[B, size, max(lengths)]``; rows add up to 1, and are zero from the length on.
    """
    longest = int(lengths.max())
    scale = lengths.double()[:, None, None] / size
    stretch = scale.clamp(min=1.0)
    centres = scale * (torch.arange(size, device=lengths.device).double() + 0.5)[:, None]
    places = torch.arange(longest, device=lengths.device).double()
    weights = _FILTERS[interpolation](((places + 0.5 - centres) / stretch).abs_())
    weights = weights.masked_fill_(places >= lengths[:, None, None], 0.0)
    return (weights / weights.sum(-1, keepdim=True)).float()


def _triangle(distance: Tensor) -> Tensor:
    return (1.0 - distance).clamp_(min=0.0)


def _cubic(distance: Tensor) -> Tensor:
    near = (1.5 * distance - 2.5) * distance * distance + 1.0
    far = ((-0.5 * distance + 2.5) * distance - 4.0) * distance + 2.0
    return torch.where(distance < 1.0, near, torch.where(distance < 2.0, far, 0.0))


_FILTERS = {"bilinear": _triangle, "bicubic": _cubic}
