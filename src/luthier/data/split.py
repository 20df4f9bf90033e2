"""Keep a part of every class for validation. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from luthier.keys import key


def held_out(labels: Sequence[str], digests: Sequence[str], fraction: float, seed: int) -> set[int]:
    """Choose the images to validate on.

    The choice depends on the seed and on the images' content alone: not on their names, their
    order or the machine. Copies of an image within a class stay on one side. Every class with
    two different images or more has at least one on each side.

    Args:
        labels: class of each image.
        digests: hash of each image's bytes.
        fraction: part of each class to keep, in (0, 1); rounded to whole images.
        seed: the run's seed.

    Returns:
        Indices of the images held out.
    """
    chosen: set[int] = set()
    for label in set(labels):
        copies: dict[str, list[int]] = {}
        for index, (name, digest) in enumerate(zip(labels, digests, strict=True)):
            if name == label:
                copies.setdefault(digest, []).append(index)
        ranked = sorted(copies, key=lambda d: (key(seed, "split", d), d))
        wanted = min(max(1, round(fraction * len(ranked))), len(ranked) - 1)
        for digest in ranked[:wanted]:
            chosen.update(copies[digest])
    return chosen
