"""A data set that has been looked at: every image in it can be read."""

from __future__ import annotations

import functools
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from luthier.data.alike import alike, one_of_each
from luthier.data.decoded import Decoded
from luthier.data.images import Inspection, inspect_all
from luthier.data.inventory import SHOWN, Entry, Inventory, Side, compare
from luthier.data.listing import Listed, Listing
from luthier.data.split import folds_of, held_out
from luthier.errors import DataError

DEFAULT_VAL_FRACTION = 0.2
_Split = Callable[[Sequence[Listed], Sequence[Inspection]], list[Side]]


@dataclass(frozen=True)
class Sample:
    """One readable image.

    Attributes:
        path: of its file.
        label: index of its class.
        found: what the file held when it was looked into; None accepts any content.
    """

    path: Path
    label: int
    found: Inspection | None = None


@dataclass(frozen=True)
class Photos:
    """Images to learn from and to validate on.

    Attributes:
        classes: names in index order.
        train: what is learned from.
        val: what is validated on; classes are the training classes.
        val_fraction: what the data was split by; None where it has a split of its own.
        notes: what a reader should know: files ignored, copies on both sides, and so on.
        inventory: what was found in every file.
    """

    classes: tuple[str, ...]
    train: tuple[Sample, ...]
    val: tuple[Sample, ...]
    val_fraction: float | None
    notes: tuple[str, ...]
    inventory: Inventory

    @property
    def fingerprint(self) -> str:
        """Hash of every image's name, bytes, label and side."""
        return self.inventory.fingerprint

    @property
    def unreadable(self) -> tuple[tuple[str, str], ...]:
        """(name, reason) of the images that were left out."""
        return self.inventory.unreadable

    def counts(self) -> dict[str, Any]:
        """Return the numbers of images as plain JSON values, by split and class."""
        sides = {"train": self.train, "val": self.val}
        tallies = {side: Counter(s.label for s in samples) for side, samples in sides.items()}
        return {s: {c: t[i] for i, c in enumerate(self.classes)} for s, t in tallies.items()}


def open_photos(
    listing: Listing,
    *,
    val_fraction: float | None = None,
    fold: tuple[int, int] | None = None,
    strict: bool = False,
    seed: int = 0,
    known: Inventory | None = None,
    progress: Callable[[int, int], object] = lambda _done, _total: None,
    decoded: Decoded | None = None,
) -> Photos:
    """Look into every image of a listing once, and split them where they have no split.

    Args:
        listing: what ``list_images`` found.
        val_fraction: part of each class to validate on, in (0, 1); default 0.2.
        fold: ``(k, n)``: validate on the kth (from 1) of n parts of all images, whatever split
            they have.
        strict: make an unreadable image an error.
        seed: decides the split.
        known: what was found before. A file whose size and modification time are still those is
            not read again. Images without a split of their own stay on their sides, and new
            ones are learned from, unless they are copies of one that is validated on.
        progress: called with (images looked into, images in all).
        decoded: keeps the images that are decoded on the way, for the first epoch.

    Raises:
        DataError: nothing to learn from or to validate on, a class without a readable image,
            ``val_fraction`` for data with a split of its own, an unreadable image if strict.
    """
    has_split = fold is None and any(image.split is not None for image in listing.images)
    if has_split and val_fraction is not None:
        raise DataError(
            f"--val-fraction {val_fraction} has no effect: {listing.root} has its own split"
        )
    taken = time.time_ns()
    inspections = _inspect(listing, known, progress, decoded)
    fraction = None if has_split or fold else val_fraction or DEFAULT_VAL_FRACTION
    split = functools.partial(_sides, fold=fold, fraction=fraction, seed=seed, known=known)
    inventory = Inventory(taken, _entries(listing, inspections, split))
    if strict and inventory.unreadable:
        raise DataError(
            f"{_count(inventory.unreadable)} in {listing.root}:\n{_listed(inventory.unreadable)}",
            cure="mend or remove them, or leave --strict-images out",
        )
    _check(listing, inventory, known)
    index = {label: number for number, label in enumerate(listing.classes)}
    sides: dict[Side | None, list[Sample]] = {"train": [], "val": [], None: []}
    for image, entry in zip(listing.images, inventory.entries, strict=True):
        sides[entry.side].append(Sample(image.path, index[image.label], entry.found))
    return Photos(
        classes=listing.classes,
        train=tuple(sides["train"]),
        val=tuple(sides["val"]),
        val_fraction=fraction,
        notes=(*listing.notes, *_notes(listing, inventory)),
        inventory=inventory,
    )


def _inspect(
    listing: Listing,
    known: Inventory | None,
    progress: Callable[[int, int], object],
    decoded: Decoded | None,
) -> list[Inspection]:
    done = 0

    def count() -> None:
        nonlocal done
        done += 1
        progress(done, len(listing.images))

    paths = [image.path for image in listing.images]
    before = [known.trusted(image.name) for image in listing.images] if known is not None else ()
    return inspect_all(paths, before, count, decoded)


def _entries(
    listing: Listing, inspections: Sequence[Inspection], split: _Split
) -> tuple[Entry, ...]:
    pairs = list(zip(listing.images, inspections, strict=True))
    good = [(image, found) for image, found in pairs if found.problem is None]
    sides = iter(split([image for image, _ in good], [found for _, found in good]))
    return tuple(
        Entry(image.name, image.label, next(sides) if found.problem is None else None, found)
        for image, found in pairs
    )


def _sides(
    images: Sequence[Listed],
    inspections: Sequence[Inspection],
    *,
    fold: tuple[int, int] | None,
    fraction: float | None,
    seed: int,
    known: Inventory | None,
) -> list[Side]:
    """Return the side of each image: without a fold and a fraction, that of its own split."""
    labels = [image.label for image in images]
    digests, looks = [f.sha256 for f in inspections], [f.look for f in inspections]
    if fold is None and fraction is None:
        chosen = {index for index, image in enumerate(images) if image.split == "val"}
    elif known is not None:
        pairs = zip(images, digests, strict=True)
        return [known.side_of(i.name, i.label, sha256) or "train" for i, sha256 in pairs]
    elif fold is not None:
        parts = folds_of(labels, one_of_each(looks, digests), fold[1], seed)
        chosen = {index for index, part in enumerate(parts) if part == fold[0] - 1}
    else:
        chosen = held_out(
            labels, one_of_each(looks, digests), fraction or DEFAULT_VAL_FRACTION, seed
        )
    return ["val" if index in chosen else "train" for index in range(len(images))]


def _check(listing: Listing, inventory: Inventory, known: Inventory | None) -> None:
    learnable = {entry.label for entry in inventory.on("train")}
    without = [name for name in listing.classes if name not in learnable]
    cure = None
    if without:
        bad = inventory.unreadable
        why = f"; {len(bad)} are unreadable:\n{_listed(bad)}" if bad else ""
        what = f"{listing.root} has no readable training image of {', '.join(without)}{why}"
    elif all(entry.side != "val" for entry in inventory.entries):
        what = f"{listing.root} has no readable validation image"
        cure = "fill the validation folder, or remove it and the training images are split"
    else:
        return
    changes = compare(known, inventory).lines if known is not None else ()
    if changes:
        what = "\n  ".join((f"{what}; since the run began:", *changes))
        cure = "bring the images back, or start a new run"
    raise DataError(what, cure=cure)


def _notes(listing: Listing, inventory: Inventory) -> list[str]:
    notes = []
    if listing.other_files:
        count = len(listing.other_files)
        noun = "file is" if count == 1 else "files are"
        shown = ", ".join(listing.other_files[:3]) + (", …" if count > 3 else "")
        notes.append(f"{count} {noun} no image by extension and left out: {shown}")
    if inventory.unreadable:
        notes.append(f"{_count(inventory.unreadable)} left out:\n{_listed(inventory.unreadable)}")
    for pairs, how, sign in _on_both_sides(inventory):
        shown = "\n".join(f"  {a} {sign} {b}" for a, b in pairs[:SHOWN])
        more = f"\n  and {len(pairs) - SHOWN} more" if len(pairs) > SHOWN else ""
        notes.append(
            f"warning: {len(pairs)} validation images are also training images, {how};"
            f" the score flatters:\n{shown}{more}"
        )
    return notes


def _on_both_sides(inventory: Inventory) -> Iterator[tuple[list[tuple[str, str]], str, str]]:
    """Yield the pairs of images on both sides, if there are any, with how alike they are."""
    learned, held = inventory.on("train"), inventory.on("val")
    by_content = {entry.found.sha256: entry.name for entry in learned}
    same = {e.name: by_content[e.found.sha256] for e in held if e.found.sha256 in by_content}
    if same:
        yield list(same.items()), "byte for byte", "="
    pairs = alike([e.found.look for e in held], [e.found.look for e in learned]) or ()
    close: dict[str, str] = {}
    for one, other in pairs:
        if held[one].name not in same:
            close.setdefault(held[one].name, learned[other].name)
    if close:
        yield list(close.items()), "saved in another way", "~"


def _count(unreadable: tuple[tuple[str, str], ...]) -> str:
    return f"{len(unreadable)} unreadable image{'' if len(unreadable) == 1 else 's'}"


def _listed(unreadable: tuple[tuple[str, str], ...]) -> str:
    lines = [f"  {name}: {reason}" for name, reason in unreadable[:SHOWN]]
    if len(unreadable) > SHOWN:
        lines.append(f"  and {len(unreadable) - SHOWN} more")
    return "\n".join(lines)
