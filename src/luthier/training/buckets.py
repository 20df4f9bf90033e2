"""Tensors in lists that are exchanged at once, and what processes agree on by them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TypeVar

import torch
import torch.distributed as dist

T = TypeVar("T", bound=torch.Tensor)

_BYTES = 2**25


def buckets(weights: Iterable[T], most: int = _BYTES) -> Iterator[list[T]]:
    """Cut parameters into lists of one dtype and device, in their order.

    Args:
        weights: parameters.
        most: bytes in a list, but of one parameter that has more by itself.
    """
    some: list[T] = []
    taken = 0
    for weight in weights:
        alike = not some or (weight.dtype, weight.device) == (some[0].dtype, some[0].device)
        if some and (not alike or taken + weight.nbytes > most):
            yield some
            some, taken = [], 0
        some.append(weight)
        taken += weight.nbytes
    if some:
        yield some


@torch.no_grad()
def as_the_first(tensors: Iterable[torch.Tensor]) -> None:
    """Give tensors, such as buffers, the values of the first process; to be called by all."""
    for alike in buckets(tensor for tensor in tensors if tensor.numel()):
        flat = torch.cat([tensor.reshape(-1) for tensor in alike])
        dist.broadcast(flat, 0)
        parts = torch.split(flat, [tensor.numel() for tensor in alike])
        for tensor, part in zip(alike, parts, strict=True):
            tensor.copy_(part.view_as(tensor))


def anywhere(weights: Sequence[T], here: Sequence[bool]) -> list[T]:
    """Return the weights of which any process says yes; to be called by all."""
    told = torch.tensor(here, dtype=torch.uint8)
    dist.all_reduce(told, dist.ReduceOp.MAX)
    return [weight for weight, one in zip(weights, told.tolist(), strict=True) if one]
