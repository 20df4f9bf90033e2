"""What the best model says of each validation image, in a file beside it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from luthier.data import Inventory
from luthier.errors import DamagedError, UnsupportedFileError
from luthier.files import tensors
from luthier.files.opening import open_archive

FORMAT = 1


@dataclass(frozen=True)
class Predictions:
    """The scores of validation images, in the order of the listing.

    Attributes:
        scores: float32 ``[images, classes]``, before the softmax.
        labels: int64 ``[images]``.
        epoch: of the model that gave them; 0 is the start.
        classes: names in index order.
        data: fingerprint of the images.
    """

    scores: torch.Tensor
    labels: torch.Tensor
    epoch: int
    classes: tuple[str, ...]
    data: str


def write(path: Path, what: Predictions) -> None:
    """Write them, atomically and durably."""
    told = {
        "format": FORMAT,
        "epoch": what.epoch,
        "classes": list(what.classes),
        "data": what.data,
    }
    tensors.write(path, {"scores": what.scores, "labels": what.labels}, told)


def right(what: Predictions, inventory: Inventory) -> dict[tuple[str, str], bool]:
    """Return for each validation image, by name and content, whether its class scores highest."""
    answers = (what.scores.argmax(1) == what.labels).tolist()
    entries = zip(inventory.on("val"), answers, strict=True)
    return {(entry.name, entry.found.sha256): is_right for entry, is_right in entries}


def read(path: Path) -> Predictions:
    """Read what ``write`` wrote.

    Raises:
        DamagedError: it is no such file, or its parts do not fit each other.
        OSError: it cannot be read.
    """
    try:
        archive = open_archive(path)
        told, found = archive.metadata, tensors.weights(archive)
        what = Predictions(
            found["scores"], found["labels"], told["epoch"], tuple(told["classes"]), told["data"]
        )
        shapes = tuple(what.scores.shape), tuple(what.labels.shape)
    except (UnsupportedFileError, KeyError, TypeError) as error:
        raise DamagedError(f"{path} is no file of predictions: {error}") from error
    count, classes = shapes[0] if len(shapes[0]) == 2 else (0, 0)
    is_class = (what.labels >= 0) & (what.labels < classes)
    if shapes != ((count, len(what.classes)), (count,)) or not bool(is_class.all()):
        raise DamagedError(f"{path} has scores, labels and classes that do not fit each other")
    return what
