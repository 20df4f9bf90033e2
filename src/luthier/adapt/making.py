"""Carry out the transforms of a plan on tensors."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch.nn import functional as F

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


def made(
    transform: Transform, sources: Sequence[torch.Tensor], initial: torch.Tensor
) -> torch.Tensor:
    """Return what a transform makes of its sources; nothing that is given is changed.

    Args:
        transform: of a plan.
        sources: tensors of the file, on the CPU.
        initial: the model's tensor as it is.
    """
    first = sources[0]
    match transform:
        case Copy():
            return first
        case Rows():
            return _rows(transform, first, initial)
        case Concat():
            return torch.cat(list(sources))
        case Part():
            length = first.shape[0] // transform.of
            return first[transform.index * length : (transform.index + 1) * length]
        case Reshape():
            return first.reshape(transform.to)
        case Channels():
            return _channels(transform, first)
        case Interpolate():
            return _interpolated(transform, first)


def _rows(transform: Rows, source: torch.Tensor, initial: torch.Tensor) -> torch.Tensor:
    found = initial.detach().clone()
    ours = [i for i, row in enumerate(transform.rows) if row is not None]
    theirs = [row for row in transform.rows if row is not None]
    if ours:
        found[ours] = source[theirs].to(found)
    return found


def _channels(transform: Channels, source: torch.Tensor) -> torch.Tensor:
    weight = source.float()
    if transform.to == 1:
        return weight.sum(dim=1, keepdim=True)
    times = math.ceil(transform.to / transform.of)
    repeated = torch.cat([weight] * times, dim=1)[:, : transform.to]
    return repeated * (transform.of / transform.to)


def _interpolated(transform: Interpolate, source: torch.Tensor) -> torch.Tensor:
    kept, grid = source[:, : transform.tokens], source[:, transform.tokens :]
    image = grid.float().reshape(1, transform.of, transform.of, -1).permute(0, 3, 1, 2)
    size = (transform.to, transform.to)
    resized = F.interpolate(image, size=size, mode="bicubic", antialias=True)
    flat = resized.permute(0, 2, 3, 1).reshape(1, transform.to**2, -1)
    return torch.cat([kept.float(), flat], dim=1)
