"""Whether an export gives the model's own probabilities."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from PIL import Image
from torch import nn

from luthier.exporting.subject import Opened

_BATCH = 16
TOLERANCE = 1e-4  # of a probability, where both are given the same numbers
# Where the export resizes photos by itself: others round otherwise, by a grey level or two.
OWN_TOLERANCE = 0.05

Sample = tuple[torch.Tensor, Image.Image]  # what the model sees of a photo, and the photo


@dataclass(frozen=True)
class Agreement:
    """How far an export is from its model.

    Attributes:
        given: what both were given: "same pixels", or "same photos", each to its own preprocessing.
        images: how many were compared.
        largest_batch: of the batches that the export was given; the first was one image.
        difference: the largest absolute difference of a probability; NaN if one is no number.
        tolerance: the largest that passes.
        other_tops: images whose most probable class is another.
        grave: those of them whose two classes the model has further apart than the tolerance.
    """

    given: str
    images: int
    largest_batch: int
    difference: float
    tolerance: float
    other_tops: int
    grave: int

    @property
    def passes(self) -> bool:
        """Whether it is close enough."""
        return self.difference <= self.tolerance and not self.grave

    def __str__(self) -> str:
        other = self.other_tops
        tops = f"{other} top classes differ" if other else "every top class agrees"
        return (
            f"{self.given}: probabilities within {self.difference:.1e} of the model's"
            f" ({self.tolerance:g} allowed), {tops};"
            f" {self.images} images, batches of 1 to {self.largest_batch}"
        )

    def as_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        known = vars(self) | {"passes": self.passes}
        return known | ({} if math.isfinite(self.difference) else {"difference": None})


Check = tuple[Agreement, ...]


@dataclass
class _Comparison:
    """Sums over images for one kind of input; the fields are those of an ``Agreement``."""

    given: str
    tolerance: float
    images: int = 0
    largest_batch: int = 0
    difference: float = 0.0
    other_tops: int = 0
    grave: int = 0

    def add(self, wanted: torch.Tensor, scores: torch.Tensor, new: int) -> None:
        """Compare the scores of a batch, of which so many images are new."""
        self.images += new
        self.largest_batch = max(self.largest_batch, len(wanted))
        if scores.shape != wanted.shape:
            self.difference = math.nan
            return
        found = scores.float().softmax(1)
        largest = float((found - wanted).abs().max())
        self.difference = max(self.difference, largest, key=lambda n: (math.isnan(n), n))
        behind = wanted.max(1).values - wanted.gather(1, found.argmax(1, keepdim=True))[:, 0]
        self.other_tops += int((behind[:new] > 0).sum())
        self.grave += int((behind[:new] > self.tolerance).sum())

    def result(self) -> Agreement:
        """Return the value."""
        return Agreement(**vars(self))


def check(model: nn.Module, export: Opened, samples: Iterable[Sample]) -> Check:
    """Compare an export with its model on images, one alone first and then in batches.

    Args:
        model: in evaluation mode.
        export: as its user loads it.
        samples: images, as they are asked for.

    Returns:
        an agreement for each kind of input that the export takes; none where there is no image.
    """
    pixels = _Comparison("same pixels", TOLERANCE)
    photos = _Comparison("same photos", OWN_TOLERANCE)
    with torch.no_grad():
        for batch, new in _batches(samples):
            inputs = torch.stack([sample[0] for sample in batch])
            wanted = model(inputs).softmax(1)
            if export.scores is not None:
                pixels.add(wanted, export.scores(inputs), new)
            if export.scores_of_photos is not None:
                photos.add(wanted, export.scores_of_photos([photo for _, photo in batch]), new)
    return tuple(one.result() for one in (pixels, photos) if one.images)


def _batches(samples: Iterable[Sample]) -> Iterator[tuple[list[Sample], int]]:
    """Give batches, and how many of each are new: one alone, the same twice, then the rest."""
    left = iter(samples)
    if first := list(islice(left, 1)):
        yield first, 1
        yield first * 2, 0  # a batch of two, also where batches are of photos of one size
    while batch := list(islice(left, _BATCH)):
        yield batch, len(batch)
