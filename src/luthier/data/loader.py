"""Data → batches, in worker processes or in this one, as a function of (seed, epoch, position).

The order is drawn in the main process; ``luthier.data.keyed`` is what the workers see.
"""

from __future__ import annotations

import contextlib
import functools
import warnings
import weakref
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, Protocol

import torch
from torch.utils.data import DataLoader, IterableDataset, Sampler
from torch.utils.data.distributed import DistributedSampler

from luthier.data.keyed import Keyed, WorkerStart, as_it_is, placed, placed_batches
from luthier.data.order import order
from luthier.distributed import Share
from luthier.errors import DataError
from luthier.keys import key
from luthier.randomness import Sources, find_sources, kept_randomness, seed_generators

Item = Any  # the indices of a batch, or one index where nothing is batched


class KeyedBatches(Protocol):
    """Batches whose content is a function of the seed and the position.

    There are two kinds. What has ``state_dict`` and ``load_state_dict`` (a ``StatefulBatches``)
    finds no position by its number: its state must be kept, and put back before ``epoch``. What
    has neither needs nothing but the position.
    """

    @property
    def length(self) -> int | None:
        """Batches of an epoch; None where it is not known, or not before the epoch has begun."""
        ...

    @property
    def sizes(self) -> Sequence[tuple[int, int]]:
        """Samples of each batch of the epoch begun last, here and in all processes, if known."""
        ...

    def epoch(self, epoch: int = 0, first: int = 0) -> Generator[Any]:
        """Give the batches of an epoch from batch ``first`` on."""
        ...

    def close(self) -> object:
        """End the workers; no batch can be had after."""
        ...


def keyed_batches(
    source: Any,
    *,
    seed: int,
    batch_size: int | None = None,
    shuffle: bool | None = None,
    share: Share | None = None,
    **settings: Any,
) -> KeyedBatches:
    """Give the batches of anyone's data, the same for any number of workers.

    Args:
        source: a data set with ``__getitem__`` and ``__len__``, or a ``DataLoader``, whose sampler,
            workers and other settings are kept. Data without positions are accepted where they have
            ``state_dict`` and ``load_state_dict``; see ``StatefulBatches``.
        seed: decides the order, and what the data set, its transforms and the collate function
            draw from Python's, numpy's and torch's generators, global or their own.
        batch_size: of a data set; 1 by default, as in ``DataLoader``.
        shuffle: of a data set: give every epoch an order of its own.
        share: what this one of several processes has of each batch; by default all. One that has
            nothing of it is given the first two samples, which ``sizes`` does not count.
        **settings: of a data set: any other argument of ``DataLoader``.

    Raises:
        DataError: data without a position, settings without effect, or data that cannot be shared.
    """
    batches = _keyed(source, seed, {"batch_size": batch_size, "shuffle": shuffle}, settings)
    if share is not None and share.size > 1:
        if not isinstance(batches, _Reader):
            raise DataError(
                f"{_name(source)} has no indices by which {share.size} processes could share it",
                cure="give a data set with __getitem__ and __len__, or start one process",
            )
        batches.divide(share)
    return batches


def _keyed(source: Any, seed: int, given: dict[str, Any], settings: dict[str, Any]) -> KeyedBatches:
    settings |= {name: value for name, value in given.items() if value is not None}
    if isinstance(source, DataLoader):
        if settings:
            names = ", ".join(f"{name}={value!r}" for name, value in settings.items())
            raise DataError(
                f"{names} would have no effect: a DataLoader has its own settings",
                cure="set them in the DataLoader, or give its data set in its place",
            )
        return _of_loader(source, seed)
    if isinstance(source, IterableDataset):
        if not _has_position(source):
            raise _no_position(source)
        return _of_loader(DataLoader(source, **settings), seed)
    if hasattr(source, "__getitem__") and hasattr(source, "__len__"):
        return _of_dataset(source, seed, settings)
    if _has_position(source) and hasattr(source, "__iter__") and not settings:
        return StatefulBatches(source, source, seed)
    raise _no_position(source)


def _of_dataset(source: Any, seed: int, settings: dict[str, Any]) -> KeyedBatches:
    if settings.get("generator") is not None:
        raise DataError(
            "generator=… would have no effect: the order is a function of the run's seed",
            cure="leave it out",
        )
    if "sampler" in settings or "batch_sampler" in settings:
        with _as_many_workers_as_asked():
            return _of_loader(DataLoader(source, **settings), seed)
    shuffle = settings.pop("shuffle", False)
    with _as_many_workers_as_asked():
        loader: DataLoader[Any] = DataLoader(source, **settings)
    if loader.batch_size is None:
        return _Reader(_OwnOrder(len(source), None, seed, shuffle), loader, seed)
    step, kept = loader.batch_size, len(source)
    if loader.drop_last:
        kept -= kept % step
    bounds = [(start, min(start + step, kept)) for start in range(0, kept, step)]
    return _Reader(_OwnOrder(len(source), bounds, seed, shuffle), loader, seed)


def _of_loader(loader: DataLoader[Any], seed: int) -> KeyedBatches:
    is_stateful = _has_position(loader)
    if isinstance(loader.dataset, IterableDataset):
        if is_stateful:
            return StatefulBatches(loader, loader, seed)
        if not _has_position(loader.dataset):
            raise _no_position(loader.dataset)
        if loader.num_workers:
            raise DataError(
                f"{_name(loader.dataset)} is read by {loader.num_workers} workers, which read"
                " ahead: its state is not that of the batch which training has reached",
                cure="give num_workers=0, or a torchdata StatefulDataLoader",
            )
        return StatefulBatches(loader, loader.dataset, seed)
    if type(loader).__iter__ is not DataLoader.__iter__ and not _is_torchdata(loader):
        if is_stateful:
            return StatefulBatches(loader, loader, seed)
        raise DataError(
            f"{_name(loader)} gives batches in a way of its own, which cannot be keyed",
            cure="give its data set in its place, or a plain torch.utils.data.DataLoader",
        )
    if not getattr(loader, "in_order", True) and loader.num_workers:
        raise DataError(
            "a DataLoader with in_order=False gives batches in an order of chance",
            cure="leave in_order=False out",
        )
    batched = loader.batch_sampler is not None
    sampler = loader.batch_sampler if batched else loader.sampler
    return _Reader(_SamplerOrder(sampler, seed), loader, seed)


def _has_position(source: Any) -> bool:
    return all(callable(getattr(source, n, None)) for n in ("state_dict", "load_state_dict"))


def _is_torchdata(loader: object) -> bool:
    # Over a data set with indices it gives what DataLoader gives.
    return type(loader).__module__.startswith("torchdata.stateful_dataloader.")


def _name(thing: object) -> str:
    return f"{type(thing).__module__}.{type(thing).__qualname__}"


def _no_position(source: object) -> DataError:
    return DataError(
        f"{_name(source)} gives samples one after the other and has no positions: to continue,"
        " all before would be read again, and several workers would mix them anew",
        cure="give a data set with __getitem__ and __len__, or one with state_dict and"
        " load_state_dict (with 0 workers, or in a torchdata StatefulDataLoader)",
    )


class _Order(Protocol):
    """Which indices make an epoch; ``sampler`` is whose they are, if not luthier's own."""

    sampler: Any

    @property
    def length(self) -> int | None: ...

    def draw(self, epoch: int) -> tuple[Sequence[Item], bool]:
        """Return an epoch's items, and whether no index comes twice."""
        ...


class _OwnOrder:
    """luthier's own order, cut into batches by ``bounds``."""

    def __init__(
        self, count: int, bounds: list[tuple[int, int]] | None, seed: int, shuffle: bool
    ) -> None:
        self.sampler = None
        self._count, self._bounds, self._seed, self._shuffle = count, bounds, seed, shuffle
        self.length: int | None = count if bounds is None else len(bounds)

    def draw(self, epoch: int) -> tuple[Sequence[Item], bool]:
        count = self._count
        indices = order(count, self._seed, epoch) if self._shuffle else range(count)
        if self._bounds is None:
            return indices, True
        return [list(indices[start:stop]) for start, stop in self._bounds], True


_ENDLESS = 2**26  # items of an epoch: no data set with indices has so many


class _SamplerOrder:
    """The order of anyone's sampler, whatever it draws from."""

    def __init__(self, sampler: Any, seed: int) -> None:
        self.sampler, self._seed = sampler, seed
        self.length: int | None = None

    def draw(self, epoch: int) -> tuple[Sequence[Item], bool]:
        for sampler in (self.sampler, getattr(self.sampler, "sampler", None)):
            _tell_epoch(sampler, epoch)
        sources = find_sources(self.sampler)
        with kept_randomness(sources):
            _seed_all(sources, key(self._seed, "order", epoch))
            items = list(islice(self.sampler, _ENDLESS))
        if len(items) == _ENDLESS:
            endless = getattr(self.sampler, "sampler", self.sampler)
            raise DataError(
                f"the sampler {_name(endless)} does not come to an end",
                cure="give one that ends with the epoch",
            )
        self.length = len(items)
        return items, False


def _tell_epoch(thing: Any, epoch: int) -> None:
    if callable(getattr(thing, "set_epoch", None)):
        thing.set_epoch(epoch)


def _seed_all(sources: Sources, number: int) -> None:
    seed_generators(number)
    sources.seed(number)


class _Plan(Sampler[Item]):
    """What the loader is to read next; asked in the main process alone."""

    def __init__(self) -> None:
        self.give: Callable[[], Iterator[Item]] = lambda: iter(())

    def __iter__(self) -> Iterator[Item]:
        return self.give()


@contextlib.contextmanager
def _as_many_workers_as_asked() -> Iterator[None]:
    # torch warns of more workers than cores; who asks for them knows.
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="This DataLoader will create")
        yield


class _Reader:
    """Batches of data with indices, read by a loader with the settings of ``given``."""

    def __init__(self, drawn: _Order, given: DataLoader[Any], seed: int) -> None:
        self._order, self._plan = drawn, _Plan()
        self._batched = given.batch_sampler is not None
        self._dataset = Keyed(given.dataset, given.collate_fn, seed)
        self._is_keyed = self._dataset.is_random
        self._keeps = self._is_keyed and not given.num_workers
        with _as_many_workers_as_asked():
            loader = self._rebuilt(given)
        # The loader's end is its workers' end, also where an interpreter exits with batches open.
        self._loaders = [loader]
        self._share = Share()
        self.sizes: Sequence[tuple[int, int]] = ()
        self.close = weakref.finalize(self, self._loaders.clear)

    def divide(self, share: Share) -> None:
        """Give no more than a process's share of each batch.

        Raises:
            DataError: there are no batches, or they are a part already.
        """
        if not self._batched:
            raise DataError(
                f"single samples cannot be shared by {share.size} processes",
                cure="give batch_size",
            )
        sampler = self._order.sampler
        for one in (sampler, getattr(sampler, "sampler", None)):
            if isinstance(one, DistributedSampler):
                raise DataError(
                    "a DistributedSampler gives each process a part, of which it would get a part",
                    cure="leave the sampler out: every process gets its part of each batch",
                )
        self._share = share

    def _rebuilt(self, given: DataLoader[Any]) -> DataLoader[Any]:
        return DataLoader(
            self._dataset if self._is_keyed else given.dataset,
            batch_size=1 if self._batched else None,  # 1 is what goes with a batch_sampler
            batch_sampler=self._plan if self._batched else None,
            sampler=None if self._batched else self._plan,
            num_workers=given.num_workers,
            collate_fn=as_it_is if self._is_keyed else given.collate_fn,
            pin_memory=given.pin_memory,
            pin_memory_device=given.pin_memory_device,
            timeout=given.timeout,
            worker_init_fn=WorkerStart(given.worker_init_fn),
            multiprocessing_context=given.multiprocessing_context,
            prefetch_factor=given.prefetch_factor,
            persistent_workers=given.persistent_workers,
            generator=torch.Generator(),  # else the global one moves with every epoch
        )

    @property
    def length(self) -> int | None:
        """Batches of an epoch; where a sampler decides, those of the epoch begun last."""
        return self._order.length

    def epoch(self, epoch: int = 0, first: int = 0) -> Generator[Any]:
        """Give the batches of an epoch from batch ``first`` on; those before are not read."""
        items, distinct = self._order.draw(epoch)
        if self._share.size > 1:
            bounds = [self._share.bounds(len(item)) for item in items]
            self.sizes = [(b - a, len(i)) for (a, b), i in zip(bounds, items, strict=True)]
        place = (placed_batches if self._batched else placed) if self._is_keyed else None
        # Nothing of ``self``: the loader would keep it alive, and with it the workers.
        give = functools.partial(_items, items, epoch, first, place, distinct)
        self._plan.give = give
        if self._share.size > 1:
            self._plan.give = functools.partial(_divided, give, bounds[first:])
        with _as_many_workers_as_asked():
            batches = iter(self._loaders[0])
        if not self._keeps:
            yield from batches
            return
        while True:
            with kept_randomness(self._dataset.sources(epoch)), _one_thread():
                batch = next(batches, _END)
            if batch is _END:
                return
            yield batch


def _items(
    items: Sequence[Item],
    epoch: int,
    first: int,
    place: Callable[[Iterable[Item], int], Iterator[Item]] | None,
    distinct: bool,
) -> Iterator[Item]:
    if place is None:
        return islice(items, first, None)
    if distinct:  # nothing to count in what is passed over
        return place(islice(items, first, None), epoch)
    return islice(place(items, epoch), first, None)


def _divided(
    give: Callable[[], Iterator[Sequence[Any]]], bounds: Sequence[tuple[int, int]]
) -> Iterator[Sequence[Any]]:
    for batch, (start, stop) in zip(give(), bounds, strict=True):
        yield batch[start:stop] if start < stop else batch[:_STAND_INS]


_STAND_INS = 2  # samples: batch normalisation cannot learn from one
_END = object()


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    # As in a worker: sums over a tensor differ in their last bits by the number of threads.
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


class StatefulBatches:
    """Batches of data without indices, which know their position themselves.

    Before each batch the generators of this process are seeded by (seed, epoch, batch); what the
    workers of a ``StatefulDataLoader`` draw is their own affair. To continue, put the state back
    and then ask for the epoch, from the batch at which the state was taken.

    Args:
        loader: gives the batches of an epoch each time it is iterated.
        positioned: has the position: the loader, or its data set.
        seed: decides what is drawn.

    Attributes:
        positioned: as given.
    """

    length = None
    sizes: Sequence[tuple[int, int]] = ()

    def __init__(self, loader: Any, positioned: Any, seed: int) -> None:
        self.positioned, self._seed = positioned, seed
        if getattr(loader, "num_workers", 0) and hasattr(loader, "worker_init_fn"):
            loader.worker_init_fn = WorkerStart(loader.worker_init_fn)
        self._loaders = [loader]
        self.close = weakref.finalize(self, self._loaders.clear)

    def state_dict(self) -> Any:
        """Return the position after the batch that was given last."""
        return self.positioned.state_dict()

    def load_state_dict(self, state: Any) -> None:
        """Let the next epoch asked for begin at a position."""
        self.positioned.load_state_dict(state)

    def epoch(self, epoch: int = 0, first: int = 0) -> Generator[Any]:
        """Give the batches of an epoch from the position on; ``first`` is the number of it."""
        loader = self._loaders[0]
        dataset = getattr(loader, "dataset", None)
        _tell_epoch(dataset, epoch)
        sources = find_sources(dataset, getattr(loader, "collate_fn", None))
        with kept_randomness(sources), _as_many_workers_as_asked():
            _seed_all(sources, key(self._seed, "order", epoch))
            batches = iter(loader)
        number = first
        while True:
            with kept_randomness(sources):
                _seed_all(sources, key(self._seed, "augment", epoch, number))
                batch = next(batches, _END)
            if batch is _END:
                return
            yield batch
            number += 1
