"""Samples → batches of normalised images, as a function of (seed, epoch, position).

Photos are decoded once (``decoded``), threads cut views from them (``rendering``), and those are
normalised where the model is: by the same threads, or a batch at a time by an accelerator. It cuts
the views itself (``resident``) where it can hold all photos.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Generator, Sequence
from dataclasses import dataclass

import torch

from luthier.data.augment import Extras
from luthier.data.crew import Crew, Task
from luthier.data.decoded import Decoded
from luthier.data.images import decoded_edge, quiet
from luthier.data.order import batch_bounds, order
from luthier.data.photos import Sample
from luthier.data.rendering import Normaliser, Pixels, centre, cut
from luthier.data.resident import Resident
from luthier.data.views import Augment, View, draw_view
from luthier.distributed import Share
from luthier.keys import key
from luthier.values import Preprocessing

Batch = tuple[torch.Tensor, torch.Tensor]

_AHEAD = 3  # batches that are read ahead of an accelerator; a CPU would lose cores to them
_RESIDENT = 2**32  # bytes of photos that a GPU holds; fixed, as it decides the images' last bits


class Batches:
    """Batches of a list of samples, the same for any number of workers and any cache.

    Args:
        samples: what to read; the order of "not shuffled".
        how: what happens to every image before the model sees it.
        augment: how the images are varied; None shows all as in validation.
        batch_size: images a batch.
        seed: decides order and augmentation.
        shuffle: give every epoch an order of its own.
        workers: threads that read images; 0 is one, too.
        device: of the batches.
        pin_memory: copy to a GPU from page-locked memory.
        decoded: where photos are kept; by default none are.
        resident: bytes of photos that the device may hold to cut views from; by default 4 GiB on
            a GPU, and 0 elsewhere. Views that are cut there differ in their last bits.
        share: what this one of several processes has of each batch; by default all.
    """

    def __init__(  # noqa: PLR0913 - a batch depends on as much
        self,
        samples: Sequence[Sample],
        how: Preprocessing,
        augment: Augment | None = None,
        *,
        batch_size: int,
        seed: int = 0,
        shuffle: bool = False,
        workers: int = 0,
        device: str = "cpu",
        pin_memory: bool = False,
        decoded: Decoded | None = None,
        resident: int | None = None,
        share: Share | None = None,
    ) -> None:
        self._augment = Augment(crop=False, flip=False) if augment is None else augment
        self._extras = Extras(
            self._augment.color_jitter, self._augment.rand_augment, self._augment.erase
        )
        self._samples, self._how = samples, how
        self._share = Share() if share is None else share
        self._bounds = batch_bounds(len(samples), batch_size)
        self._seed, self._shuffle = seed, shuffle
        self._decoded = Decoded(decoded_edge(how), memory=0) if decoded is None else decoded
        if self._decoded.shortest != decoded_edge(how):
            raise ValueError(
                f"photos are decoded to {self._decoded.shortest} pixels and more, expected"
                f" decoded_edge(how), which is {decoded_edge(how)}"
            )
        self._device = torch.device(device)
        is_cuda = self._device.type == "cuda"
        self._pinned = pin_memory and is_cuda
        self._stream: torch.cuda.Stream | None = None
        if is_cuda:
            self._stream = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
        self._ahead = 0 if self._device.type == "cpu" else _AHEAD
        self._budget = (_RESIDENT if is_cuda else 0) if resident is None else resident
        self._resident: Resident | None = None
        self._normalise = Normaliser(how, self._device)
        # While a photo is in their cache. Where this thread did it with all cores, torch's own
        # threads would go on spinning for a while, in the way of those that decode.
        self._threads_normalise = not (self._extras or self._budget or self._ahead)
        self._crew = Crew(max(1, workers))

    def close(self) -> None:
        """End the threads; no batch can be had after."""
        self._crew.close()

    def sizes(self) -> list[int]:
        """Return the number of images in each batch of an epoch, those of other processes too."""
        return [stop - start for start, stop in self._bounds]

    def order(self, epoch: int) -> Sequence[int]:
        """Return the samples' numbers in the order of an epoch."""
        count = len(self._samples)
        return order(count, self._seed, epoch) if self._shuffle else range(count)

    def epoch(self, epoch: int = 0, first: int = 0) -> Generator[Batch]:
        """Give this process's share of the batches of an epoch from batch ``first`` on.

        Those before cost nothing.

        Yields:
            on the device: images, float32 ``[batch, 3, size, size]``, channels-last, and labels,
            int64 ``[batch]``.

        Raises:
            DataError: a file is no longer what it was, and has to be read again.
        """
        indices = self.order(epoch)
        groups = self._share.of([indices[start:stop] for start, stop in self._bounds[first:]])
        with quiet():
            self._bring_photos()
            for group, squares in zip(groups, self._squares(epoch, groups), strict=True):
                yield self._images(epoch, group, squares), self._labels(group)

    def few(self, count: int) -> torch.Tensor:
        """Return the first samples as they are shown in epoch 0, whatever this process's share."""
        indices = range(min(count, len(self._samples)))
        with quiet(), contextlib.closing(self._squares(0, [indices])) as squares:
            return self._images(0, indices, next(squares))

    def _images(self, epoch: int, indices: Sequence[int], squares: torch.Tensor) -> torch.Tensor:
        if self._threads_normalise:
            return squares.permute(0, 3, 1, 2)
        if not self._extras:
            return self._normalise(squares)
        drawn = self._extras.draw([self._key(epoch, index) for index in indices])
        mean = self._how.mean
        return self._normalise(squares, lambda images: self._extras.apply(images, drawn, mean))

    def _labels(self, indices: Sequence[int]) -> torch.Tensor:
        labels = torch.tensor([self._samples[i].label for i in indices], dtype=torch.int64)
        return labels.to(self._device, non_blocking=True)

    def _key(self, epoch: int, index: int) -> int:
        return key(self._seed, "augment", epoch, index)

    def _view(self, epoch: int, index: int, height: int, width: int) -> View:
        return draw_view(self._key(epoch, index), height, width, self._augment)

    # --- squares: what is seen of the photos, [batch, size, size, 3], on the device; in grey levels
    # --- unless the threads normalise

    def _squares(self, epoch: int, groups: Sequence[Sequence[int]]) -> Generator[torch.Tensor]:
        if self._resident is not None:
            for indices in groups:
                photos = [self._resident[index] for index in indices]
                views = [
                    self._view(epoch, index, photo.shape[0], photo.shape[1])
                    for index, photo in zip(indices, photos, strict=True)
                ]
                yield self._resident.squares(photos, views)
            return
        begun: deque[_Begun] = deque()
        try:
            for indices in groups:
                begun.append(self._begin(epoch, indices))
                if len(begun) > self._ahead:
                    yield self._sent(begun.popleft())
            while begun:
                yield self._sent(begun.popleft())
        finally:
            for one in begun:
                one.task.cancel()

    def _begin(self, epoch: int, indices: Sequence[int]) -> _Begun:
        size = self._how.image_size
        shape = (len(indices), size, size, 3)
        dtype = torch.float32 if self._threads_normalise else torch.uint8
        squares = torch.empty(shape, dtype=dtype, pin_memory=self._pinned)

        def fill(slot: int) -> None:
            squares[slot].copy_(self._seen(epoch, indices[slot]))
            if self._threads_normalise:
                self._normalise.in_place(squares[slot])

        return _Begun(squares, self._crew.begin(fill, len(indices)))

    def _sent(self, begun: _Begun) -> torch.Tensor:
        begun.task.finish()
        if self._stream is None:
            return begun.squares.to(self._device)
        with torch.cuda.stream(self._stream):
            squares = begun.squares.to(self._device, non_blocking=True)
        current = torch.cuda.current_stream(self._device)
        current.wait_stream(self._stream)
        squares.record_stream(current)
        return squares

    def _seen(self, epoch: int, index: int) -> torch.Tensor:
        """Return a sample's square, uint8 ``[size, size, 3]``."""
        pixels = self._pixels(index)
        box, flip = self._view(epoch, index, pixels.shape[0], pixels.shape[1])
        square = cut(pixels, box, self._how) if self._augment.crop else pixels
        shown = torch.from_numpy(square)
        return shown.flip(1) if flip else shown

    def _pixels(self, index: int) -> Pixels:
        """Return what views are cut from: the photo, or its centre if that is all they show."""
        sample = self._samples[index]
        if self._augment.crop:
            return self._decoded.photo(sample.path, sample.found)
        name = (sample.path, self._how)
        square = self._decoded.find(name)
        if square is None:
            photo = self._decoded.photo(sample.path, sample.found, keep=False)
            square = centre(photo, self._how)
            self._decoded.drop(sample.path)  # the square is kept in its place
            self._decoded.keep(name, square)
        return square

    def _bring_photos(self) -> None:
        """Bring all photos to the device once, if they fit."""
        if self._budget <= 0:
            return
        resident = Resident(self._how, self._augment.crop, self._device, self._budget)
        self._crew.begin(
            lambda index: resident.add(index, self._pixels(index)), len(self._samples)
        ).finish()
        self._resident = resident if resident.fits else None
        self._budget = 0


@dataclass(frozen=True)
class _Begun:
    """A batch that is being filled."""

    squares: torch.Tensor
    task: Task
