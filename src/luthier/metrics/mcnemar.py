"""Is one of two models shown to be better? McNemar's exact test (McNemar 1947)."""

from __future__ import annotations

import torch

from luthier.values import McNemar


def mcnemar(first: torch.Tensor, second: torch.Tensor) -> McNemar:
    """Compare two models on the same images.

    Args:
        first: bool ``[images]``: whether the first has each image right.
        second: whether the second has.
    """
    both, neither = int((first & second).sum()), int((~first & ~second).sum())
    only_first, only_second = int((first & ~second).sum()), int((~first & second).sum())
    return McNemar(both, only_first, only_second, neither, _two_sided(only_first, only_second))


def _two_sided(heads: int, tails: int) -> float:
    """Return how likely a fair coin gives as uneven a result, or a more uneven one."""
    tosses = heads + tails
    ways = total = 1  # in which no toss is of the rarer side
    for few in range(min(heads, tails)):
        ways = ways * (tosses - few) // (few + 1)
        total += ways
    p: float = 2 * total / 2**tosses
    return min(1.0, p)
