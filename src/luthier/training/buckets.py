"""Parameters in lists that are exchanged at once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TypeVar

import torch

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
