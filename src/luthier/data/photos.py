"""A data set that has been looked at: every image in it can be read."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from luthier.data.images import Inspection, inspect_all
from luthier.data.listing import Listed, Listing
from luthier.data.split import held_out
from luthier.errors import DataError

DEFAULT_VAL_FRACTION = 0.2
_SHOWN = 10


@dataclass(frozen=True)
class Sample:
    """One readable image: its file and the index of its class."""

    path: Path
    label: int


@dataclass(frozen=True)
class Photos:
    """Images to learn from and to validate on.

    Attributes:
        classes: names in index order.
        train: what is learned from.
        val: what is validated on; classes are the training classes.
        val_fraction: what the data was split by; None where it has a split of its own.
        unreadable: (name, reason) of the images that were left out.
        notes: what a reader should know: files ignored, copies on both sides, and so on.
        fingerprint: hash of every image's bytes, label and side, in order.
    """

    classes: tuple[str, ...]
    train: tuple[Sample, ...]
    val: tuple[Sample, ...]
    val_fraction: float | None
    unreadable: tuple[tuple[str, str], ...]
    notes: tuple[str, ...]
    fingerprint: str

    def counts(self) -> dict[str, Any]:
        """Return the numbers of images as plain JSON values, by split and class."""
        sides = {"train": self.train, "val": self.val}
        tallies = {side: Counter(s.label for s in samples) for side, samples in sides.items()}
        return {s: {c: t[i] for i, c in enumerate(self.classes)} for s, t in tallies.items()}


def open_photos(
    listing: Listing,
    *,
    val_fraction: float | None = None,
    strict: bool = False,
    seed: int = 0,
    progress: Callable[[int, int], object] = lambda _done, _total: None,
) -> Photos:
    """Read every image of a listing once, and split them where they have no split.

    Args:
        listing: what ``list_images`` found.
        val_fraction: part of each class to validate on, in (0, 1); default 0.2.
        strict: make an unreadable image an error.
        seed: decides the split.
        progress: called with (images read, images in all).

    Raises:
        DataError: nothing to learn from or to validate on, a class without a readable image,
            ``val_fraction`` for data with a split of its own, an unreadable image if strict.
    """
    has_split = any(image.split is not None for image in listing.images)
    if has_split and val_fraction is not None:
        raise DataError(
            f"--val-fraction {val_fraction} has no effect: {listing.root} has its own split"
        )
    inspections = _inspect(listing, progress)
    unreadable = tuple(
        (image.name, found.problem)
        for image, found in zip(listing.images, inspections, strict=True)
        if found.problem is not None
    )
    if strict and unreadable:
        raise DataError(
            f"{_count(unreadable)} in {listing.root}:\n{_listed(unreadable)}",
            cure="mend or remove them, or leave --strict-images out",
        )
    good = [
        (image, found.sha256)
        for image, found in zip(listing.images, inspections, strict=True)
        if found.problem is None
    ]
    _check_classes(listing, good, unreadable)
    fraction = None if has_split else val_fraction or DEFAULT_VAL_FRACTION
    validates = _validation(good, fraction, seed)
    sides: tuple[list[Sample], list[Sample]] = ([], [])
    for index, (image, _) in enumerate(good):
        sides[index in validates].append(Sample(image.path, listing.classes.index(image.label)))
    train, val = map(tuple, sides)
    _check_sides(listing, train, val)
    notes = (*listing.notes, *_notes(listing, good, validates, unreadable))
    fingerprint = _fingerprint(good, validates)
    return Photos(listing.classes, train, val, fraction, unreadable, notes, fingerprint)


def _fingerprint(good: list[tuple[Listed, str]], validates: set[int]) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for index, (image, sha256) in enumerate(good):
        digest.update(json.dumps([sha256, image.label, index in validates]).encode())
    return digest.hexdigest()


def _inspect(listing: Listing, progress: Callable[[int, int], object]) -> list[Inspection]:
    done = 0

    def count() -> None:
        nonlocal done
        done += 1
        progress(done, len(listing.images))

    return inspect_all((image.path for image in listing.images), count)


def _validation(good: list[tuple[Listed, str]], fraction: float | None, seed: int) -> set[int]:
    if fraction is None:
        return {i for i, (image, _) in enumerate(good) if image.split == "val"}
    return held_out([i.label for i, _ in good], [d for _, d in good], fraction, seed)


def _check_classes(
    listing: Listing,
    good: list[tuple[Listed, str]],
    unreadable: tuple[tuple[str, str], ...],
) -> None:
    learnable = {image.label for image, _ in good if image.split != "val"}
    without = [name for name in listing.classes if name not in learnable]
    if without:
        why = f"; {len(unreadable)} are unreadable:\n{_listed(unreadable)}" if unreadable else ""
        raise DataError(
            f"{listing.root} has no readable training image of {', '.join(without)}{why}"
        )


def _check_sides(listing: Listing, train: tuple[Sample, ...], val: tuple[Sample, ...]) -> None:
    if not val:
        raise DataError(
            f"{listing.root} has no readable validation image",
            cure="fill the validation folder, or remove it and the training images are split",
        )
    without = sorted(set(range(len(listing.classes))) - {s.label for s in train})
    if without:
        names = ", ".join(listing.classes[i] for i in without)
        raise DataError(f"{listing.root} leaves no training image of {names} beside validation")


def _notes(
    listing: Listing,
    good: list[tuple[Listed, str]],
    validates: set[int],
    unreadable: tuple[tuple[str, str], ...],
) -> list[str]:
    notes = []
    if listing.other_files:
        count = len(listing.other_files)
        noun = "file is" if count == 1 else "files are"
        shown = ", ".join(listing.other_files[:3]) + (", …" if count > 3 else "")
        notes.append(f"{count} {noun} no image by extension and left out: {shown}")
    if unreadable:
        notes.append(f"{_count(unreadable)} left out:\n{_listed(unreadable)}")
    both = _on_both_sides(good, validates)
    if both:
        shown = "\n".join(f"  {a} = {b}" for a, b in both[:_SHOWN])
        more = f"\n  and {len(both) - _SHOWN} more" if len(both) > _SHOWN else ""
        notes.append(
            f"warning: {len(both)} validation images are also training images, byte for byte;"
            f" the score flatters:\n{shown}{more}"
        )
    return notes


def _on_both_sides(good: list[tuple[Listed, str]], validates: set[int]) -> list[tuple[str, str]]:
    learned = {digest: image.name for i, (image, digest) in enumerate(good) if i not in validates}
    return [
        (image.name, learned[digest])
        for i, (image, digest) in enumerate(good)
        if i in validates and digest in learned
    ]


def _count(unreadable: tuple[tuple[str, str], ...]) -> str:
    return f"{len(unreadable)} unreadable image{'' if len(unreadable) == 1 else 's'}"


def _listed(unreadable: tuple[tuple[str, str], ...]) -> str:
    lines = [f"  {name}: {reason}" for name, reason in unreadable[:_SHOWN]]
    if len(unreadable) > _SHOWN:
        lines.append(f"  and {len(unreadable) - _SHOWN} more")
    return "\n".join(lines)
