"""Keep a part of every class for validation, or one part after another. Pure."""

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
    for copies in _copies(labels, digests).values():
        ranked = sorted(copies, key=lambda d: (key(seed, "split", d), d))
        wanted = min(max(1, round(fraction * len(ranked))), len(ranked) - 1)
        for digest in ranked[:wanted]:
            chosen.update(copies[digest])
    return chosen


def folds_of(labels: Sequence[str], digests: Sequence[str], folds: int, seed: int) -> list[int]:
    """Divide the images into parts of equal size and mix (stratified cross-validation).

    As with ``held_out``, seed and content alone decide, and copies are in one part, also across
    classes.

    Args:
        labels: class of each image.
        digests: hash of each image's bytes.
        folds: how many parts.
        seed: the run's seed.

    Returns:
        the part of each image, from 0.
    """
    part: dict[str, int] = {}
    dealt = 0
    for copies in _copies(labels, digests).values():
        for digest in sorted(copies, key=lambda d: (key(seed, "folds", d), d)):
            if digest not in part:
                part[digest] = dealt % folds
                dealt += 1
    return [part[digest] for digest in digests]


def _copies(labels: Sequence[str], digests: Sequence[str]) -> dict[str, dict[str, list[int]]]:
    """Return where each content is, by class, classes in order."""
    found: dict[str, dict[str, list[int]]] = {label: {} for label in sorted(set(labels))}
    for index, (label, digest) in enumerate(zip(labels, digests, strict=True)):
        found[label].setdefault(digest, []).append(index)
    return found
