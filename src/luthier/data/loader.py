"""Samples → batches of tensors, in worker processes or in this one.

What a worker needs to know to be exact travels with each index, as ``(epoch, index)``: so
workers may persist, and their number cannot matter.
"""

from __future__ import annotations

import contextlib
import signal
import warnings
import weakref
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from luthier.data.images import decode
from luthier.data.order import batch_bounds, order
from luthier.data.photos import Sample
from luthier.data.transforms import Transform, keyed_randomness
from luthier.keys import key

Batch = tuple[torch.Tensor, torch.Tensor]


class _Keyed(Dataset[tuple[torch.Tensor, int]]):
    def __init__(self, samples: Sequence[Sample], transform: Transform, seed: int) -> None:
        self.samples, self.transform, self.seed = samples, transform, seed

    def __getitem__(self, where: tuple[int, int]) -> tuple[torch.Tensor, int]:
        epoch, index = where
        sample = self.samples[index]
        image = decode(sample.path.read_bytes())
        with keyed_randomness(key(self.seed, "augment", epoch, index)):
            return self.transform(image), sample.label


@dataclass
class _Plan(Sampler[list[tuple[int, int]]]):
    """Which samples make which batch; read in the main process alone."""

    images: int
    batch_size: int
    seed: int
    shuffle: bool
    epoch: int = 0
    first: int = 0

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        indices = order(self.images, self.seed, self.epoch) if self.shuffle else range(self.images)
        for start, stop in batch_bounds(self.images, self.batch_size)[self.first :]:
            yield [(self.epoch, index) for index in indices[start:stop]]

    def __len__(self) -> int:
        return len(batch_bounds(self.images, self.batch_size)) - self.first


_GRACE = 30  # seconds that a worker outlives a SIGTERM


def _leave_signals_to_the_run(_worker: int) -> None:
    # Ctrl-C and a scheduler's SIGTERM reach every process of a group or job. The main one decides
    # when to stop and then ends its workers; until then it needs them to reach a safe step.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "alarm"):
        signal.signal(signal.SIGTERM, lambda _number, _frame: signal.alarm(_GRACE))


@contextlib.contextmanager
def _as_many_workers_as_asked() -> Iterator[None]:
    # torch warns of more workers than cores; who asks for them knows.
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="This DataLoader will create")
        yield


class Batches:
    """Batches of a list of samples, the same for any number of workers.

    ``close()`` ends the workers; no batch can be had after it.

    Args:
        samples: what to read; the order of "not shuffled".
        transform: an RGB image → a float tensor ``[3, height, width]``.
        batch_size: images a batch.
        seed: decides order and augmentation.
        shuffle: give every epoch an order of its own.
        workers: processes that read images; 0 reads in this one.
        pin_memory: allocate batches where an accelerator copies from fastest.
    """

    def __init__(
        self,
        samples: Sequence[Sample],
        transform: Transform,
        *,
        batch_size: int,
        seed: int = 0,
        shuffle: bool = False,
        workers: int = 0,
        pin_memory: bool = False,
    ) -> None:
        self._plan = _Plan(len(samples), batch_size, seed, shuffle)
        with _as_many_workers_as_asked():
            loader = DataLoader(
                _Keyed(samples, transform, seed),
                batch_sampler=self._plan,
                num_workers=workers,
                persistent_workers=workers > 0,
                worker_init_fn=_leave_signals_to_the_run,
                pin_memory=pin_memory,
                generator=torch.Generator(),  # else the global one moves with every epoch
            )
        # The loader's end is its workers' end, also where an interpreter exits with batches open.
        self._loaders = [loader]
        self.close = weakref.finalize(self, self._loaders.clear)

    def sizes(self) -> list[int]:
        """Return the number of images in each batch of an epoch."""
        plan = self._plan
        return [stop - start for start, stop in batch_bounds(plan.images, plan.batch_size)]

    def epoch(self, epoch: int = 0, first: int = 0) -> Generator[Batch]:
        """Give the batches of an epoch from batch ``first`` on; those before cost nothing.

        Yields:
            images, float ``[batch, 3, height, width]``, and labels, int64 ``[batch]``.
        """
        self._plan.epoch, self._plan.first = epoch, first
        with _as_many_workers_as_asked():
            batches = iter(self._loaders[0])
        yield from batches
