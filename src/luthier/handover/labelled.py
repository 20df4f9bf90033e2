"""Labelled images to evaluate on: which of a data set, and which class of a model each is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from luthier import recipe
from luthier.data import Inventory, Listing, list_images
from luthier.errors import DataError, RecipeError, nearest
from luthier.run.folder import RunFolder

SPLITS = ("train", "val", "all")


@dataclass(frozen=True)
class Labelled:
    """Images of one split.

    Attributes:
        split: "train", "val" or "all".
        paths: of the files.
        names: as the data names them.
        labels: names of their classes.
        notes: what a reader should know of how the data was understood.
    """

    split: str
    paths: tuple[Path, ...]
    names: tuple[str, ...]
    labels: tuple[str, ...]
    notes: tuple[str, ...]

    def indices(self, classes: Sequence[str], model: Path) -> list[int]:
        """Return the number that each image's class has in a model.

        Args:
            classes: of the model, in index order.
            model: what to call it.

        Raises:
            DataError: a label is none of its classes, or of several.
        """
        counts = Counter(classes)
        for label in sorted(set(self.labels)):
            if counts[label] != 1:
                has = f"no class{nearest(label, classes)}" if not counts[label] else "two classes"
                shown = ", ".join(classes[:8]) + (", …" if len(classes) > 8 else "")
                raise DataError(
                    f"images are labelled {label!r}, and {model} has {has} of that name",
                    cure=f"its classes are: {shown}",
                )
        number = {name: index for index, name in enumerate(classes)}
        return [number[label] for label in self.labels]


def list_labelled(data: Path, split: str | None, model: Path) -> Labelled:
    """List the labelled images of a split.

    Args:
        data: any layout that ``finetune`` takes.
        split: "train", "val", "all"; None is "val" where there is a split, and else "all".
        model: where the data has no split, the one that a run has made counts, if this is its
            folder.

    Raises:
        DataError: there are no such images, or no such split.
        RecipeError: no split is called so.
    """
    if split not in (None, *SPLITS):
        raise RecipeError(f"split {split!r}: expected one of {', '.join(SPLITS)}")
    listing = list_images(data, to_learn=False)
    sides = _sides(listing, model)
    if split in ("train", "val") and not any(sides):
        raise DataError(
            f"{data} has no split, so there are no images of {split}",
            cure="leave --split out, or name the folder of the run that has split it as MODEL",
        )
    split = split or ("val" if any(sides) else "all")
    found = [
        image for image, side in zip(listing.images, sides, strict=True) if split in ("all", side)
    ]
    if not found:
        raise DataError(f"{data} has no images of {split}")
    return Labelled(
        split,
        tuple(image.path for image in found),
        tuple(image.name for image in found),
        tuple(image.label for image in found),
        listing.notes,
    )


def _sides(listing: Listing, model: Path) -> list[str | None]:
    if any(image.split is not None for image in listing.images):
        return [image.split for image in listing.images]
    run = RunFolder(model if model.is_dir() else model.parent)
    # Names alone could be those of other images: the run must have learned from this very data.
    if not run.data.is_file() or _data_of(run) != listing.root.resolve():
        return [None] * len(listing.images)
    known = Inventory.from_json(run.data.read_bytes(), str(run.data))
    return [known.side_of(image.name, image.label, "") for image in listing.images]


def _data_of(run: RunFolder) -> Path | None:
    data = recipe.read(run.recipe).data.data if run.recipe.is_file() else None
    return None if data is None else Path(data).resolve()
