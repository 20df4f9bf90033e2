"""Samples → batches of normalised images, as a function of (seed, epoch, position).

Photos are decoded once (``decoded``), views are cut from them by threads (``rendering``), and
whole batches are normalised on the device.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait

import torch

from luthier.data.decoded import Decoded
from luthier.data.images import decoded_edge, quiet
from luthier.data.order import batch_bounds, order
from luthier.data.photos import Sample
from luthier.data.rendering import Normaliser, Pixels, centre, cut
from luthier.data.views import Augment, draw_view
from luthier.keys import key
from luthier.values import Preprocessing

Batch = tuple[torch.Tensor, torch.Tensor]

_AS_LISTED = Augment(crop=False, flip=False)


class Batches:
    """Batches of a list of samples, the same for any number of workers.

    Args:
        samples: what to read; the order of "not shuffled".
        how: what happens to every image before the model sees it.
        augment: how the images are varied; None shows all as in validation.
        batch_size: images a batch.
        seed: decides order and augmentation.
        shuffle: give every epoch an order of its own.
        workers: threads that read images; 0 is one, too, as the caller's computes with several.
        device: of the batches.
        pin_memory: copy to the device from page-locked memory.
        decoded: photos that are kept; by default none are.
    """

    def __init__(
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
    ) -> None:
        self._samples, self._how = samples, how
        self._augment = augment or _AS_LISTED
        self._bounds = batch_bounds(len(samples), batch_size)
        self._seed, self._shuffle = seed, shuffle
        self._decoded = decoded or Decoded(decoded_edge(how), memory=0)
        if self._decoded.shortest != decoded_edge(how):
            raise ValueError(
                f"photos decoded to {self._decoded.shortest} pixels, expected {decoded_edge(how)}"
            )
        self._device = torch.device(device)
        self._normalise = Normaliser(how, self._device)
        self._crew = Crew(max(1, workers))

    def close(self) -> None:
        """End the threads; no batch can be had after."""
        self._crew.close()

    def sizes(self) -> list[int]:
        """Return the number of images in each batch of an epoch."""
        return [stop - start for start, stop in self._bounds]

    def epoch(self, epoch: int = 0, first: int = 0) -> Generator[Batch]:
        """Give the batches of an epoch from batch ``first`` on; those before cost nothing.

        Yields:
            on the device: images, float32 ``[batch, 3, size, size]``, channels-last, and labels,
            int64 ``[batch]``.
        """
        count = len(self._samples)
        indices = order(count, self._seed, epoch) if self._shuffle else range(count)
        for start, stop in self._bounds[first:]:
            yield self._batch(epoch, indices[start:stop])

    def _batch(self, epoch: int, indices: Sequence[int]) -> Batch:
        size = self._how.image_size
        squares = torch.empty((len(indices), size, size, 3), dtype=torch.uint8)
        slots = squares.numpy()

        def fill(slot: int) -> None:
            self._show(epoch, indices[slot], slots[slot])

        with quiet():
            self._crew.do(fill, len(indices))
        labels = torch.tensor([self._samples[index].label for index in indices])
        return self._normalise(squares.to(self._device)), labels.to(self._device)

    def _show(self, epoch: int, index: int, slot: Pixels) -> None:
        """Write a sample's square into a batch."""
        number = key(self._seed, "augment", epoch, index)
        sample, augment = self._samples[index], self._augment
        if augment.crop:
            photo = self._decoded.photo(sample.path, sample.found)
            box, flip = draw_view(number, photo.shape[0], photo.shape[1], augment)
            square = cut(photo, box, self._how) if box is not None else centre(photo, self._how)
        else:
            square = self._centre(sample)
            flip = draw_view(number, square.shape[0], square.shape[1], augment).flip
        shown = torch.from_numpy(square)
        torch.from_numpy(slot).copy_(shown.flip(1) if flip else shown)

    def _centre(self, sample: Sample) -> Pixels:
        """Return what is always shown of a sample; it is kept in place of the photo."""
        name = (sample.path, self._how)
        square = self._decoded.find(name)
        if square is None:
            photo = self._decoded.photo(sample.path, sample.found, keep=False)
            square = centre(photo, self._how)
            self._decoded.drop(sample.path)
            self._decoded.keep(name, square)
        return square


class Crew:
    """Threads that do the parts of a task, each with one thread of torch's own.

    Args:
        size: how many.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._pool = _pool(size)

    def do(self, part: Callable[[int], object], parts: int) -> None:
        """Call ``part`` with each number below ``parts``; the first error is raised at the end."""
        remaining = iter(range(parts))
        shares = [self._pool.submit(_work, part, remaining) for _ in range(min(self._size, parts))]
        wait(shares)
        for share in shares:
            share.result()

    def close(self) -> None:
        """End the threads."""
        self._pool.shutdown()


def _work(part: Callable[[int], object], numbers: Iterator[int]) -> None:
    for number in numbers:
        part(number)


def _pool(size: int) -> ThreadPoolExecutor:
    # torch keeps the number for threads that begin later, beside that of the thread which sets it:
    # so all begin now, and then the number is put back.
    threads = torch.get_num_threads()
    ready = threading.Barrier(size + 1)
    pool = ThreadPoolExecutor(
        size, thread_name_prefix="photos", initializer=torch.set_num_threads, initargs=(1,)
    )
    for _ in range(size):
        pool.submit(ready.wait)
    ready.wait()
    torch.set_num_threads(threads)
    return pool
