"""Crop, resize and flip of many photos at once, on any device, as matrix products.

Antialiased resizing is linear and separable: of a crop it gives ``W_y · crop · W_xᵀ``, where the
rows of the two matrices hold a filter's weights. The weights are those of torch's and Pillow's
antialiased resize: a triangle, or Keys' cubic with a = -0.5 (Keys 1981), as wide as the scale
where the crop gets smaller. The matrices are bands: a tile of the result needs a window of the
crop, so that most of the multiplications by zero are left out.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

Box = tuple[int, int, int, int]

_TILE = 16  # pixels of the result that share a window
_PART = 2**27  # values worked on at once, of 4 bytes


def resample(
    photos: Sequence[Tensor],
    boxes: Sequence[Box],
    flips: Sequence[bool],
    size: int,
    interpolation: str,
) -> Tensor:
    """Return the photos' crops, resized and flipped, as one batch.

    Within 1e-3 grey levels of torch's antialiased resize of each crop, but where products of
    float32 were made less precise (``torch.set_float32_matmul_precision``): then within 0.5.

    Args:
        photos: uint8 ``[height, width, 3]`` each, on the device that is to compute.
        boxes: crop of each as (top, left, height, width), pixels, inside the photo.
        flips: whether a crop is mirrored left to right.
        size: edge of the results, pixels.
        interpolation: "bilinear" or "bicubic".

    Returns:
        float32 ``[B, 3, size, size]`` in grey levels, 0 to 255, not rounded.
    """
    device = photos[0].device
    result = torch.empty(len(photos), 3, size, size, device=device)
    with torch.autocast(device.type, enabled=False):
        for part in parts(boxes, _PART):
            heights, widths = (torch.tensor([boxes[i][edge] for i in part]) for edge in (2, 3))
            crops = _padded([(photos[i], boxes[i]) for i in part])
            crops = _resized(crops, heights, size, interpolation)
            flipped = torch.tensor([bool(flips[i]) for i in part])
            crops = _resized(crops.transpose(2, 3), widths, size, interpolation, flipped)
            result[torch.tensor(part).to(device)] = crops.transpose(2, 3)
    return result.clamp_(0.0, 255.0)


def parts(boxes: Sequence[Box], most: int) -> list[list[int]]:
    """Divide crops, by index, into parts of similar sizes that fit into memory.

    Args:
        boxes: the crops.
        most: values of a part's crops, each padded to the part's largest; what is larger is a
            part by itself.
    """
    result: list[list[int]] = []
    height = width = 0
    for index in sorted(range(len(boxes)), key=lambda i: boxes[i][2] * boxes[i][3]):
        height, width = max(height, boxes[index][2]), max(width, boxes[index][3])
        if result and (len(result[-1]) + 1) * 3 * height * width <= most:
            result[-1].append(index)
        else:
            result.append([index])
            height, width = boxes[index][2:]
    return result


def _padded(crops: Sequence[tuple[Tensor, Box]]) -> Tensor:
    """Return uint8 ``[B, 3, height, width]`` as high and wide as the largest crop, 0 outside."""
    height, width = (max(box[edge] for _, box in crops) for edge in (2, 3))
    result = crops[0][0].new_zeros(len(crops), 3, height, width)
    for padded, (photo, (top, left, rows, columns)) in zip(result, crops, strict=True):
        padded[:, :rows, :columns] = photo[top : top + rows, left : left + columns].permute(2, 0, 1)
    return result


def _resized(
    images: Tensor, lengths: Tensor, size: int, interpolation: str, flipped: Tensor | None = None
) -> Tensor:
    """Resize the rows of ``[B, 3, rows, columns]``, of which ``lengths`` count, to ``size``."""
    count, channels, _, columns = images.shape
    places, weights = band(lengths, size, interpolation, flipped)
    places, weights = places.to(images.device), weights.to(images.device)
    where = places.view(count, 1, -1, 1).expand(-1, channels, -1, columns)
    windows = images.gather(2, where).view(count, channels, *places.shape[1:], columns)
    tiles = weights[:, None] @ windows.float()
    return tiles.view(count, channels, -1, columns)[:, :, :size]


def band(
    lengths: Tensor, size: int, interpolation: str, flipped: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Return the matrices that resize axes to ``size``, without most of their zeros.

    Args:
        lengths: int64 ``[B]``, pixels.
        size: pixels of the result.
        interpolation: "bilinear" or "bicubic".
        flipped: bool ``[B]``, whether the result is in reverse.

    Returns:
        Places int64 ``[B, tiles, window]``, inside the longest axis, and weights float32
        ``[B, tiles, tile, window]``: pixel p of tile t is the sum over its window of weights
        times what is at the places. A last tile may go on beyond ``size``.
    """
    reach, weigh = _FILTERS[interpolation]
    scale = lengths[:, None, None].double() / size
    stretch = scale.clamp(min=1.0)
    tiles = -(-size // _TILE)
    pixels = torch.arange(tiles * _TILE).clamp(max=size - 1).view(1, tiles, _TILE)
    if flipped is not None:
        pixels = torch.where(flipped[:, None, None], size - 1 - pixels, pixels)
    centres = (pixels + 0.5) * scale - 0.5
    first = (centres.amin(2, keepdim=True) - reach * stretch).ceil_().clamp_(min=0.0)
    last = (centres.amax(2, keepdim=True) + reach * stretch).floor_()
    last = last.minimum(lengths[:, None, None] - 1.0)
    places = first + torch.arange(int((last - first).max()) + 1)
    weights = weigh((places[:, :, None] - centres[..., None]).abs_() / stretch[..., None])
    weights.masked_fill_((places > last)[:, :, None], 0.0)
    weights /= weights.sum(3, keepdim=True)
    return places.clamp_(max=int(lengths.max()) - 1).long(), weights.float()


def _triangle(distance: Tensor) -> Tensor:
    return (1.0 - distance).clamp_(min=0.0)


def _cubic(distance: Tensor) -> Tensor:
    near = (1.5 * distance - 2.5) * distance * distance + 1.0
    far = ((-0.5 * distance + 2.5) * distance - 4.0) * distance + 2.0
    return torch.where(distance < 1.0, near, torch.where(distance < 2.0, far, 0.0))


_FILTERS = {"bilinear": (1, _triangle), "bicubic": (2, _cubic)}  # how far each reaches
