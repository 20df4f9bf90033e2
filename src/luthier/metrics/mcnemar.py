"""Is one of two models shown to be better?"""

from __future__ import annotations

import torch

from luthier.intervals import mcnemar_p
from luthier.values import McNemar


def mcnemar(first: torch.Tensor, second: torch.Tensor) -> McNemar:
    """Compare two models on the same images.

    Args:
        first: bool ``[images]``: whether the first has each image right.
        second: whether the second has.
    """
    both, neither = int((first & second).sum()), int((~first & ~second).sum())
    only_first, only_second = int((first & ~second).sum()), int((~first & second).sum())
    return McNemar(both, only_first, only_second, neither, mcnemar_p(only_first, only_second))
