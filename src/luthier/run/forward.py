"""How a run's model gives its scores: as it stands, or by what is frozen made fast."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from contextlib import closing

import torch
from torch import nn

from luthier import models, training
from luthier.data import Batch
from luthier.distributed import World
from luthier.models import Split
from luthier.training import Clock, MicroBatch, Precision, Sharded
from luthier.values import Tally

_STORED = 2**30  # bytes of validation features that are kept


def is_trusted(
    split: Split,
    model: nn.Module,
    precision: Precision,
    images: torch.Tensor,
    say: Callable[[str], object],
) -> bool:
    """Tell whether a split may stand for its model, by a few images; say so if it may not.

    The images must be photos: what rounding does to a made-up image is no measure.
    """
    with precision.autocast():
        found = models.check_split(split, model, images)
    if not found.explained:
        say(f"  the frozen part is computed as it stands: made fast, {found}")
    return found.explained


class Forward:
    """The scores of a model whose frozen part may be computed apart from the rest.

    What stands still runs without autograd, with batch normalisation folded into convolutions,
    in its own precision. Where nothing but the head learns, the features of the validation photos
    are computed once: neither they nor what computes them can change.

    Args:
        model: in the modes and with the ``requires_grad`` of the epoch that is entered.
        precision: of the run.
        few: gives some photos on the device, always the same, to compare the two ways on.
        micro: how many images of a validation go through at once.
        world: the processes among which the batches of a validation go round.
        say: is told where the fast way was not taken.
        sharded: what cuts the model among the processes; then all of it is computed as it stands.
    """

    def __init__(
        self,
        model: nn.Module,
        precision: Precision,
        few: Callable[[], torch.Tensor],
        micro: MicroBatch,
        world: World,
        say: Callable[[str], object],
        sharded: Sharded | None = None,
    ) -> None:
        self._sharded = sharded
        self._model, self._precision, self._few, self._say = model, precision, few, say
        self._micro, self._world = micro, world
        self._split: Split | None = None
        self._settled = False
        self._stored: list[Batch] | None = None

    def enter(self) -> None:
        """Take note that other parts of the model learn from now on."""
        self._split, self._stored = None, None
        self._settled = False

    def scores(self, images: torch.Tensor) -> torch.Tensor:
        """Return what the model says of images on its device, for a backward pass."""
        if self._sharded is not None:
            return self._sharded.scores(images)
        split = self._ready()
        return self._model(images) if split is None else split.rest(*split.features(images))

    def validate(
        self,
        batches: Callable[[], Generator[Batch]],
        clock: Clock,
        rounds: int,
        take: Callable[[torch.Tensor], object],
    ) -> Tally:
        """Return loss and accuracy on batches, which are read once if nothing can change.

        Args:
            batches: begins to give the photos that are validated on.
            clock: see ``training.evaluate``.
            rounds: the most batches that a process has.
            take: see ``training.evaluate``.
        """
        if self._sharded is not None:
            with closing(batches()) as photos:
                even = self._sharded.evenly(photos, rounds)
                return self._evaluate(even, self.scores, clock, None, take)
        split = self._ready()
        if split is not None and split.whole:
            stored = self._features(split, batches)
            return self._evaluate(stored, split.rest, clock, self._micro, take)
        with closing(batches()) as photos:
            return self._evaluate(photos, self.scores, clock, self._micro, take)

    def _evaluate(
        self,
        batches: Iterator[Batch],
        forward: Callable[[torch.Tensor], torch.Tensor],
        clock: Clock,
        micro: MicroBatch | None,
        take: Callable[[torch.Tensor], object],
    ) -> Tally:
        how = self._precision, clock, forward, micro, self._world, take
        return training.evaluate(self._model, batches, *how)

    def _ready(self) -> Split | None:
        if not self._settled:
            self._settled = True
            if all(p.requires_grad for p in self._model.parameters()):
                return None
            split = models.split_frozen(self._model, self._precision.dtype)
            if split is not None and is_trusted(
                split, self._model, self._precision, self._few(), self._say
            ):
                self._split = split
        return self._split

    def _features(self, split: Split, batches: Callable[[], Generator[Batch]]) -> Iterator[Batch]:
        if self._stored is not None:
            yield from self._stored
            return
        stored: list[Batch] = []
        kept = 0
        with closing(batches()) as photos:
            for images, labels in photos:
                placed = self._precision.place(images)
                features = self._micro.through(_first(split), placed, "validation")
                kept += features.nbytes
                if kept <= _STORED:
                    stored.append((features, labels))
                yield features, labels
        if kept <= _STORED:
            self._stored = stored


def _first(split: Split) -> Callable[[torch.Tensor], torch.Tensor]:
    return lambda images: split.features(images)[0]
