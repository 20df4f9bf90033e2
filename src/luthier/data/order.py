"""In which order images come, and how they are cut into batches. Pure."""

from __future__ import annotations

import numpy as np

from luthier.keys import key


def order(images: int, seed: int, epoch: int) -> list[int]:
    """Return the order of one epoch: a permutation that is a function of (seed, epoch).

    Raw Philox numbers (Salmon et al. 2011) are sorted, since numpy keeps that stream stable
    across versions and machines, which it does not promise of ``permutation``.
    """
    generator = np.random.Philox(key=key(seed, "order", epoch))
    indices: list[int] = np.argsort(generator.random_raw(images), kind="stable").tolist()
    return indices


def batch_bounds(images: int, batch_size: int) -> list[tuple[int, int]]:
    """Cut a sequence into batches, given as (first, one past the last).

    All have ``batch_size`` images but the last. A last batch of a single image, which batch
    normalisation cannot learn from, joins the batch before it.
    """
    starts = list(range(0, images, batch_size))
    if batch_size > 1 and len(starts) > 1 and images % batch_size == 1:
        starts.pop()
    return list(zip(starts, [*starts[1:], images], strict=True))
