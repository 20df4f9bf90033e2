"""Tensors of which each process holds some rows (PyTorch's DTensor, cut along dimension 0).

What is asked of them here is asked by all processes, of the same tensors in the same order. Rows
travel over the host's memory, one tensor at a time.
"""

from __future__ import annotations

import sys
from typing import Any

import torch
import torch.distributed as dist

from luthier.distributed.world import naming_lost_peers


def is_cut(tensor: torch.Tensor) -> bool:
    """Tell whether this process holds only some rows of a tensor."""
    # Nobody has such a tensor without that module, whose import takes a second.
    known = sys.modules.get("torch.distributed.tensor")
    return known is not None and isinstance(tensor, known.DTensor)


def mine(tensor: torch.Tensor) -> torch.Tensor:
    """Return this process's rows: the memory itself; all of a tensor that is not cut."""
    cut: Any = tensor
    return cut.to_local() if is_cut(tensor) else tensor


@torch.no_grad()
def put(tensor: torch.Tensor, whole: torch.Tensor) -> None:
    """Copy a whole tensor, or this process's rows of it, into a tensor of the same shape."""
    if not is_cut(tensor):
        tensor.copy_(whole)
        return
    rows, size = _rows(tensor), len(tensor)
    start = min(dist.get_rank() * rows, size)
    mine(tensor).copy_(whole[start : min(start + rows, size)])


@torch.no_grad()
def cut_like(tensor: torch.Tensor, whole: torch.Tensor) -> torch.Tensor:
    """Return a copy of a whole tensor that is held as another of the same shape is."""
    held = torch.empty_like(tensor, dtype=whole.dtype, requires_grad=False)
    put(held, whole)
    return held


@torch.no_grad()
def whole(tensor: torch.Tensor) -> torch.Tensor:
    """Return all of a tensor: as it is, or where it is cut, put together on the host."""
    if not is_cut(tensor):
        return tensor
    padded = _padded(tensor)
    parts = [torch.empty_like(padded) for _ in range(dist.get_world_size())]
    with naming_lost_peers():
        dist.all_gather(parts, padded)
    return torch.cat(parts)[: len(tensor)]


@torch.no_grad()
def collect(tensor: torch.Tensor, place: torch.Tensor | None, owner: int) -> None:
    """Put the rows of a tensor that is cut together in one process.

    Args:
        tensor: that is cut.
        place: on the host, of its shape, in that process; None in the others.
        owner: that process's rank.
    """
    padded = _padded(tensor)
    rows, views, parts = len(padded), list[torch.Tensor](), None
    if place is not None:  # which has no room for what pads the last rows
        views = [place[rank * rows : (rank + 1) * rows] for rank in range(dist.get_world_size())]
        parts = [view if len(view) == rows else torch.empty_like(padded) for view in views]
    with naming_lost_peers():
        dist.gather(padded, parts, dst=owner)
    for view, part in zip(views, parts or (), strict=True):
        if part is not view:
            view.copy_(part[: len(view)])


def whole_at(tensor: torch.Tensor, owner: int) -> torch.Tensor | None:
    """Return all of a tensor in one process: as it is, or put together on the host.

    Args:
        tensor: likewise cut, or not, in all processes.
        owner: that process's rank.

    Returns:
        None in the others, where it is cut.
    """
    if not is_cut(tensor):
        return tensor
    owns = dist.get_rank() == owner
    place = torch.empty(tensor.shape, dtype=tensor.dtype) if owns else None
    collect(tensor, place, owner)
    return place


def _rows(tensor: torch.Tensor) -> int:
    """Return how many rows the first process holds; none holds more."""
    return -(-len(tensor) // dist.get_world_size())


def _padded(tensor: torch.Tensor) -> torch.Tensor:
    held = mine(tensor).detach().cpu()
    rows = _rows(tensor)
    if len(held) == rows:
        return held.contiguous()
    padded = held.new_zeros((rows, *tensor.shape[1:]))
    padded[: len(held)] = held
    return padded
