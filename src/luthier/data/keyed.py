"""A data set whose randomness is a function of the position, and what its workers do first.

What a worker needs to know to be exact travels with each index, as ``(epoch, index,
occurrence)``: so workers may persist, and their number cannot matter.
"""

from __future__ import annotations

import operator
import signal
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any

from torch.utils.data import (
    ConcatDataset,
    Dataset,
    Subset,
    TensorDataset,
    default_collate,
    default_convert,
    get_worker_info,
)

from luthier.keys import key
from luthier.randomness import Sources, find_sources, seed_generators

Where = tuple[int, Any, int]  # epoch, index, how often the index came before in the epoch


def placed(indices: Iterable[Any], epoch: int) -> Iterator[Where]:
    """Give each index with all that keys it."""
    seen: Counter[tuple[int | str, ...]] = Counter()
    for index in indices:
        place = _place(index)
        yield epoch, index, seen[place]
        seen[place] += 1


def placed_batches(batches: Iterable[Iterable[Any]], epoch: int) -> Iterator[list[Where]]:
    """Give batches of indices, each index with all that keys it."""
    sized = [list(batch) for batch in batches]
    where = placed((index for batch in sized for index in batch), epoch)
    for batch in sized:
        yield list(islice(where, len(batch)))


def _place(index: Any) -> tuple[int | str, ...]:
    if type(index) in (int, str):
        return (index,)
    if isinstance(index, str):
        return (str(index),)
    if isinstance(index, list | tuple):
        return ("several", len(index), *(part for one in index for part in _place(one)))
    try:
        return (operator.index(index),)
    except TypeError:
        # Told apart by the number of such before it.
        return ("other",)


class Keyed(Dataset[Any]):
    """A data set in which each sample's randomness is a function of its position.

    A data set that fetches batches by ``__getitems__`` draws for a batch as a whole, and so does a
    collate function. Batches leave it collated.

    Args:
        dataset: anyone's.
        collate: makes a batch of samples, or one sample of what is not batched.
        seed: of the run.
    """

    def __init__(self, dataset: Any, collate: Callable[[Any], Any], seed: int) -> None:
        self.dataset, self._collate, self._seed = dataset, collate, seed
        self._draws = not _is_fixed(dataset)
        self._collate_draws = collate not in (default_collate, default_convert)
        self._in_batches = _fetches_batches(dataset)
        self._known: tuple[int, Sources] | None = None
        self._settled = False

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_known": None}  # copies have generators of their own

    @property
    def is_random(self) -> bool:
        """Whether anything may be drawn at all."""
        return self._draws or self._collate_draws

    def sources(self, epoch: int) -> Sources:
        """Return the generators of the data set's own, looked for once an epoch."""
        if self._known is None or self._known[0] != epoch:
            self._known, self._settled = (epoch, self._find()), False
        return self._known[1]

    def _find(self) -> Sources:
        return find_sources(self.dataset, self._collate)

    def __getitem__(self, where: Where) -> Any:
        return self._read(where[0], lambda: self._collated(where, self._one(where)))

    def __getitems__(self, batch: list[Where]) -> Any:
        return self._read(batch[0][0], lambda: self._collated(batch[0], self._several(batch)))

    def _read(self, epoch: int, read: Callable[[], Any]) -> Any:
        before = self.sources(epoch)
        value = read()
        if not self._settled:
            # A generator that was made on first use was not there to be seeded.
            now = self._find()
            self._known, self._settled = (epoch, now), True
            if now.found.keys() != before.found.keys():
                value = read()
        return value

    def _several(self, batch: list[Where]) -> Any:
        if not self._in_batches:
            return [self._one(where) for where in batch]
        epoch = batch[0][0]
        places = [part for _, index, again in batch for part in (*_place(index), again)]
        self._seed_all(epoch, key(self._seed, "augment", epoch, "batch", *places))
        return self.dataset.__getitems__([index for _, index, _ in batch])

    def _one(self, where: Where) -> Any:
        epoch, index, occurrence = where
        if self._draws:
            again = (occurrence,) if occurrence else ()
            self._seed_all(epoch, key(self._seed, "augment", epoch, *_place(index), *again))
        return self.dataset[index]

    def _collated(self, first: Where, samples: Any) -> Any:
        if self._collate_draws:
            epoch, index, occurrence = first
            number = key(self._seed, "collate", epoch, *_place(index), occurrence)
            self._seed_all(epoch, number)
        return self._collate(samples)

    def _seed_all(self, epoch: int, number: int) -> None:
        seed_generators(number)
        self.sources(epoch).seed(number)


def as_it_is(batch: Any) -> Any:
    """Collate nothing: a keyed data set has done it."""
    return batch


def _is_fixed(dataset: Any) -> bool:
    """Tell whether a data set is known to draw nothing."""
    if type(dataset) is Subset:
        return _is_fixed(dataset.dataset)
    if type(dataset) is ConcatDataset:
        return all(_is_fixed(part) for part in dataset.datasets)
    return type(dataset) is TensorDataset


def _fetches_batches(dataset: Any) -> bool:
    if type(dataset) is Subset:  # its own __getitems__ asks one by one where it can do no other
        return _fetches_batches(dataset.dataset)
    return callable(getattr(dataset, "__getitems__", None))


_GRACE = 30  # seconds that a worker outlives a SIGTERM


class WorkerStart:
    """What a worker does first; the user's own function comes last.

    Args:
        then: the user's ``worker_init_fn``.
    """

    def __init__(self, then: Callable[[int], object] | None) -> None:
        self._then = then

    def __call__(self, worker: int) -> None:
        """Set the worker up."""
        _leave_signals_to_the_run()
        if "cv2" in sys.modules:
            # OpenCV's threads did not come along into a forked process, and it would wait for them.
            sys.modules["cv2"].setNumThreads(0)
        info = get_worker_info()
        if info is not None and isinstance(info.dataset, Keyed):
            object.__setattr__(info, "dataset", info.dataset.dataset)  # frozen; the user's own
        if self._then is not None:
            self._then(worker)


def _leave_signals_to_the_run() -> None:
    # Ctrl-C and a scheduler's signals reach every process of a group or job. The main one decides
    # when to stop and then ends its workers; until then it needs them to reach a safe step.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "SIGUSR1"):
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    if hasattr(signal, "alarm"):
        signal.signal(signal.SIGTERM, lambda _number, _frame: signal.alarm(_GRACE))
