"""Anyone's data: the same bits for any workers, from any position, whatever draws."""

from __future__ import annotations

import functools
import gc
import hashlib
import importlib.util
import json
import multiprocessing
import os
import random
import signal
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch.utils.data import (
    BatchSampler,
    ConcatDataset,
    DataLoader,
    Dataset,
    DistributedSampler,
    IterableDataset,
    RandomSampler,
    Sampler,
    Subset,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
    get_worker_info,
)

from luthier import vision
from luthier.data import KeyedBatches, StatefulBatches, keyed_batches
from luthier.data.order import order
from luthier.errors import DataError
from luthier.keys import key
from luthier.randomness import find_sources, kept_randomness, keyed_randomness, seed_generators

COUNT = 11
OF_THE_MODULE = np.random.default_rng(1)


def globals_drawn() -> list[float]:
    """Draw of every global generator; an odd number of normals leaves one behind in numpy's."""
    return [
        random.random(),
        float(np.random.random()),
        float(np.random.normal()),
        float(torch.rand(())),
    ]


class Drawing(Dataset[torch.Tensor]):
    """Gives (index, what ``draw`` draws)."""

    def __init__(self, draw: Callable[[], Any], count: int = COUNT) -> None:
        self.draw, self.count = draw, count

    def __getitem__(self, index: int) -> torch.Tensor:
        if not 0 <= index < self.count:
            raise IndexError(index)
        return torch.tensor([float(index), *np.ravel(self.draw())], dtype=torch.float64)

    def __len__(self) -> int:
        return self.count


def bits(batches: Iterator[Any]) -> list[bytes]:
    return [batch.numpy().tobytes() for batch in batches]


def indices(batches: Iterator[torch.Tensor]) -> list[list[int]]:
    return [batch.reshape(len(batch), -1)[:, 0].int().tolist() for batch in batches]


def of(make: Callable[[], Any], **how: Any) -> KeyedBatches:
    return keyed_batches(make(), **({"seed": 5, "batch_size": 3, "shuffle": True} | how))


# --- what draws ---------------------------------------------------------------------------------


class NumpyStyle:
    def __init__(self, kind: type[np.random.BitGenerator] = np.random.PCG64) -> None:
        self.generator = np.random.Generator(kind())

    def __call__(self) -> list[float]:
        return [self.generator.random(), self.generator.normal()]


class InSlots:
    __slots__ = ("generator",)

    def __init__(self) -> None:
        self.generator = torch.Generator()
        self.generator.seed()

    def __call__(self) -> float:
        return float(torch.rand((), generator=self.generator))


class InContainers:
    def __init__(self) -> None:
        self.parts = [({"python": random.Random()},), {"old": np.random.RandomState()}]

    def __call__(self) -> list[float]:
        return [self.parts[0][0]["python"].random(), self.parts[1]["old"].normal()]


class OnFirstUse:
    generator: np.random.Generator | None = None

    def __call__(self) -> float:
        if self.generator is None:
            self.generator = np.random.default_rng()
        return self.generator.random()


class Seedable:
    """Keeps its state where nobody finds it."""

    def __init__(self) -> None:
        self.set_random_seed(int.from_bytes(os.urandom(4), "big"))

    def set_random_seed(self, seed: int) -> None:
        self.state = seed

    def __call__(self) -> float:
        self.state = (self.state * 1103515245 + 12345) % 2**31
        return self.state / 2**31


def of_a_closure() -> Callable[[], float]:
    generator, python = np.random.default_rng(), random.Random().random
    return lambda: generator.random() + python()


def of_the_module() -> float:
    return max(OF_THE_MODULE.random() for _ in "x")


def old_numpy_with_philox() -> Callable[[], float]:
    return np.random.RandomState(np.random.Philox()).normal


def pillow_image() -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (24, 20, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


class Transforming:
    def __init__(self, transform: Callable[[Any], Any], value: Any) -> None:
        self.transform, self.value = transform, value

    def __call__(self) -> Any:
        return self.transform(self.value)


def torchvision_v1() -> Transforming:
    t = vision.load("torchvision.transforms")
    steps = [t.RandomResizedCrop(8), t.ColorJitter(0.5), t.RandomHorizontalFlip(), t.ToTensor()]
    return Transforming(t.Compose(steps), pillow_image())


def torchvision_v2() -> Transforming:
    t = vision.load("torchvision.transforms.v2")
    steps = [t.RandomResizedCrop(8), t.ColorJitter(0.5, hue=0.2), t.RandomPhotometricDistort()]
    image = torch.from_numpy(np.array(pillow_image())).permute(2, 0, 1)
    return Transforming(t.Compose(steps), image)


class Albumentations:
    def __init__(self) -> None:
        a = importlib.import_module("albumentations")
        steps = [a.RandomCrop(8, 8), a.OneOf([a.HorizontalFlip(), a.Rotate()]), a.GaussNoise(p=1)]
        self.transform = a.Compose(steps, seed=1)
        self.value = np.array(pillow_image())

    def __call__(self) -> Any:
        return self.transform(image=self.value)["image"]


DRAWERS: dict[str, Callable[[], Callable[[], Any]]] = {
    "globals": lambda: globals_drawn,
    "numpy": NumpyStyle,
    "numpy with Philox": lambda: NumpyStyle(np.random.Philox),
    "torch in a slot": InSlots,
    "containers": InContainers,
    "on first use": OnFirstUse,
    "set_random_seed": Seedable,
    "closure": of_a_closure,
    "module": lambda: of_the_module,
    "bound method": old_numpy_with_philox,
    "partial": lambda: functools.partial(np.random.default_rng().normal, 1.0),
    "torchvision v1": torchvision_v1,
    "torchvision v2": torchvision_v2,
    "albumentations": Albumentations,
}


@pytest.mark.parametrize("name", DRAWERS)
def test_bits_are_the_same_for_any_workers_and_from_any_position(name: str) -> None:
    if name == "albumentations" and importlib.util.find_spec(name) is None:
        pytest.skip("albumentations is not installed")

    def make() -> Drawing:
        return Drawing(DRAWERS[name]())

    whole = [bits(of(make).epoch(epoch)) for epoch in range(2)]
    rows = [row.tobytes() for batch in of(make).epoch(0) for row in batch[:, 1:].numpy()]
    assert len(set(rows)) == COUNT
    assert set(whole[0]).isdisjoint(whole[1])
    for how in (
        {},
        {"num_workers": 1},
        {"num_workers": 3, "persistent_workers": True, "prefetch_factor": 1},
    ):
        batches = of(make, **how)
        for epoch, first in ((1, 2), (0, 0), (1, 4)):
            assert bits(batches.epoch(epoch, first)) == whole[epoch][first:], how
        batches.close()


def test_spawned_workers_give_the_same_bits() -> None:
    def make() -> Drawing:
        return Drawing(NumpyStyle())

    workers = of(make, num_workers=1, multiprocessing_context="spawn")
    assert bits(workers.epoch()) == bits(of(make).epoch())


@pytest.mark.skipif(not importlib.util.find_spec("albumentations"), reason="not installed")
def test_a_pipeline_of_albumentations_shares_one_pair_of_generators() -> None:
    kinds = [type(source) for source in find_sources(Albumentations()).found.values()]
    assert kinds == [np.random.Generator, random.Random]


def test_two_generators_of_one_kind_draw_different_numbers() -> None:
    pair = [np.random.default_rng(3), np.random.default_rng(3), random.Random(3), random.Random(3)]
    (batch,) = of(lambda: Drawing(lambda: [g.random() for g in pair]), batch_size=COUNT).epoch()
    assert len(set(batch[:, 1:].flatten().tolist())) == 4 * COUNT


@pytest.mark.parametrize("workers", [0, 2])
def test_reading_leaves_the_generators_of_this_process_as_they_were(workers: int) -> None:
    own = NumpyStyle()
    old = np.random.RandomState(2)
    python, of_torch = random.Random(4), torch.Generator()

    def drawn() -> list[Any]:
        more = [old.normal(), python.random(), float(torch.rand((), generator=of_torch))]
        return [*globals_drawn(), *own(), *more]

    def seeded() -> list[Any]:
        seed_generators(1)
        own.generator.bit_generator.state = np.random.PCG64(1).state
        old.seed(1)
        python.seed(1)
        of_torch.manual_seed(1)
        return drawn()

    expected = seeded(), drawn()
    batches = of(lambda: Drawing(drawn), num_workers=workers)
    first = seeded()
    for _ in batches.epoch():
        pass
    assert (first, drawn()) == expected


def test_the_number_of_threads_does_not_matter() -> None:
    def sums() -> float:
        return float(torch.rand(3_000_000).sum())

    threads = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        found = [bits(of(lambda: Drawing(sums, 3), num_workers=n).epoch()) for n in (0, 1)]
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(threads)
    assert found[0] == found[1]


class InBatches(Drawing):
    """Fetches a whole batch, as Hugging Face's data sets do."""

    def __getitems__(self, wanted: list[int]) -> list[torch.Tensor]:
        return [self[index] for index in wanted]


@pytest.mark.parametrize("wrap", [lambda d: d, lambda d: Subset(d, range(1, COUNT))])
def test_a_data_set_that_fetches_batches_is_keyed_by_the_batch(
    wrap: Callable[[Any], Any],
) -> None:
    def make() -> Any:
        return wrap(InBatches(globals_drawn))

    whole = bits(of(make).epoch(2))
    assert len(set(whole)) == len(whole)
    assert bits(of(make, num_workers=2).epoch(2, first=1)) == whole[1:]
    assert {len(batch) for batch in of(make, batch_size=2, drop_last=True).epoch()} == {2}


def test_a_sample_does_not_depend_on_its_batch() -> None:
    for wrap in (lambda d: d, lambda d: Subset(d, range(COUNT)), lambda d: ConcatDataset([d])):
        samples = {
            tuple(sorted(row.numpy().tobytes() for batch in found for row in batch))
            for size in (1, 3, 4)
            for found in [of(lambda w=wrap: w(Drawing(globals_drawn)), batch_size=size).epoch()]
        }
        assert len(samples) == 1


class MixingOnFirstUse:
    """A collate function with a generator that it makes when it is first called."""

    generator: torch.Generator | None = None

    def __call__(self, samples: list[Any]) -> torch.Tensor:
        if self.generator is None:
            self.generator = torch.Generator()
            self.generator.seed()
        drawn = [torch.rand((), generator=self.generator, dtype=torch.float64), torch.rand(())]
        return torch.stack([torch.as_tensor(s[0]) for s in samples] + drawn)


@pytest.mark.parametrize(
    "make", [lambda: Drawing(globals_drawn), lambda: TensorDataset(torch.arange(9.0))]
)
def test_what_a_collate_function_draws_is_keyed(make: Callable[[], Any]) -> None:
    whole = bits(of(make, collate_fn=MixingOnFirstUse()).epoch())
    assert len({batch[-12:] for batch in whole}) == len(whole)
    for workers in (0, 2):
        batches = of(make, collate_fn=MixingOnFirstUse(), num_workers=workers)
        assert bits(batches.epoch(0, first=1)) == whole[1:]


# --- order --------------------------------------------------------------------------------------


def test_the_order_of_a_data_set_is_luthiers() -> None:
    batches = of(lambda: Drawing(globals_drawn))
    expected = order(COUNT, 5, 3)
    assert indices(batches.epoch(3)) == [expected[i : i + 3] for i in range(0, COUNT, 3)]
    assert batches.length == 4
    plain = keyed_batches(Drawing(globals_drawn), seed=5)
    assert indices(plain.epoch(3)) == [[i] for i in range(COUNT)]


@pytest.mark.parametrize(("drop_last", "sizes"), [(False, [3, 3, 3, 1]), (True, [3, 3, 3])])
def test_the_last_batch_is_as_torch_has_it(drop_last: bool, sizes: list[int]) -> None:
    batches = of(lambda: TensorDataset(torch.arange(10)), drop_last=drop_last)
    assert [len(rows) for (rows,) in batches.epoch()] == sizes
    assert batches.length == len(sizes)


def test_a_list_is_a_data_set() -> None:
    assert [b.tolist() for b in keyed_batches([4, 5, 6], seed=0, batch_size=2).epoch()] == [
        [4, 5],
        [6],
    ]


class ByPythonAndNumpy(Sampler[int]):
    def __iter__(self) -> Iterator[int]:
        mixed = list(range(COUNT))
        random.shuffle(mixed)
        yield from np.random.permutation(mixed)

    def __len__(self) -> int:
        return COUNT


class OfItsOwn(Sampler[int]):
    def __init__(self) -> None:
        self.source = np.random.default_rng()

    def __iter__(self) -> Iterator[int]:
        yield from self.source.integers(0, COUNT, COUNT).tolist()


WEIGHTS = [float(i + 1) for i in range(COUNT)]
SAMPLERS: dict[str, Callable[[Any], dict[str, Any]]] = {
    "shuffle": lambda _: {"batch_size": 3, "shuffle": True},
    "own generator": lambda _: {"batch_size": 3, "shuffle": True, "generator": torch.Generator()},
    "replacement": lambda d: {"sampler": RandomSampler(d, True, 20), "batch_size": 4},
    "weighted": lambda _: {"sampler": WeightedRandomSampler(WEIGHTS, 9), "batch_size": 2},
    "subset": lambda _: {"sampler": SubsetRandomSampler([1, 2, 3, 5, 8]), "drop_last": True},
    "distributed": lambda d: {"sampler": DistributedSampler(d, 2, 1), "batch_size": 2},
    "python and numpy": lambda _: {"sampler": ByPythonAndNumpy(), "batch_size": 3},
    "of its own": lambda _: {"sampler": OfItsOwn(), "batch_size": 3},
    "batches": lambda d: {"batch_sampler": BatchSampler(RandomSampler(d), 4, False)},
    "not batched": lambda _: {"batch_size": None, "shuffle": True},
    "batches as indices": lambda d: {
        "batch_size": None,
        "sampler": BatchSampler(RandomSampler(d), 4, False),
    },
}


class ManyAtOnce(Drawing):
    """Takes a list of indices where one is expected."""

    def __getitem__(self, index: Any) -> torch.Tensor:
        if not isinstance(index, list):
            return super().__getitem__(index)
        return torch.stack([super(ManyAtOnce, self).__getitem__(i) for i in index])


@pytest.mark.parametrize("name", SAMPLERS)
def test_the_order_of_any_sampler_is_a_function_of_the_epoch(name: str) -> None:
    def loader(workers: int = 0) -> KeyedBatches:
        data = ManyAtOnce(globals_drawn)
        return keyed_batches(DataLoader(data, num_workers=workers, **SAMPLERS[name](data)), seed=7)

    once = loader()
    before = once.length
    whole = [bits(once.epoch(epoch)) for epoch in range(3)]
    assert (before, once.length) == (None, len(whole[2]))
    orders = [torch.cat([batch.reshape(-1, 5)[:, 0] for batch in once.epoch(e)]) for e in range(3)]
    assert not any(torch.equal(orders[a], orders[b]) for a, b in ((0, 1), (1, 2), (0, 2)))
    for workers in (0, 2):
        for epoch, first in ((2, 1), (0, 0)):
            random.seed()
            torch.seed()
            assert bits(loader(workers).epoch(epoch, first)) == whole[epoch][first:]
    data = ManyAtOnce(globals_drawn)
    theirs = DataLoader(data, **SAMPLERS[name](data))
    assert len(whole[0]) == len(list(theirs))


def test_drawing_an_order_leaves_the_generators_as_they_were() -> None:
    sampler = OfItsOwn()
    data = TensorDataset(torch.arange(COUNT))
    shuffled = DataLoader(data, shuffle=True, generator=torch.Generator().manual_seed(3))
    seed_generators(1)
    expected = globals_drawn(), np.random.default_rng(2).random(), 3
    seed_generators(1)
    sampler.source = np.random.default_rng(2)
    for loader in (DataLoader(data, sampler=sampler), shuffled):
        assert len(list(keyed_batches(loader, seed=0).epoch())) == COUNT
    assert (globals_drawn(), sampler.source.random(), shuffled.generator.initial_seed()) == expected


def test_an_index_that_comes_again_draws_anew() -> None:
    def loader() -> KeyedBatches:
        data = Drawing(globals_drawn)
        return keyed_batches(DataLoader(data, 2, sampler=[4, 4, 1, 4]), seed=1)

    whole = torch.cat(list(loader().epoch()))
    assert len(set(whole[:, 1].tolist())) == 4
    with keyed_randomness(key(1, "augment", 0, 4)):
        assert whole[0, 1:].tolist() == globals_drawn()
    with keyed_randomness(key(1, "augment", 0, 4, 2)):
        assert whole[3, 1:].tolist() == globals_drawn()
    assert torch.equal(torch.cat(list(loader().epoch(0, first=1))), whole[2:])


class Named(Dataset[torch.Tensor]):
    """Has indices of other kinds."""

    def __getitem__(self, index: Any) -> torch.Tensor:
        name = index["name"] if isinstance(index, dict) else str(index)
        return torch.tensor([float(len(name)), *globals_drawn()], dtype=torch.float64)

    def __len__(self) -> int:
        return 6


def test_an_index_may_be_anything() -> None:
    sampler = ["a", 'b"', ("c", 1), np.int64(3), {"name": "d"}, {"name": "e"}]

    def loader(workers: int) -> KeyedBatches:
        return keyed_batches(DataLoader(Named(), 2, sampler=sampler, num_workers=workers), seed=1)

    whole = list(loader(0).epoch())
    assert len(set(torch.cat(whole)[:, 1].tolist())) == 6
    assert bits(iter(whole))[1:] == bits(loader(2).epoch(0, first=1))


# --- reading ------------------------------------------------------------------------------------


class Recording(Drawing):
    """Writes down which indices were read."""

    def __init__(self, file: Path) -> None:
        super().__init__(globals_drawn)
        self.file = file

    def __getitem__(self, index: int) -> torch.Tensor:
        with self.file.open("a") as file:
            file.write(f"{index}\n")
        return super().__getitem__(index)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("as_loader", [False, True])
def test_batches_before_the_first_are_not_read(
    tmp_path: Path, workers: int, as_loader: bool
) -> None:
    data = Recording(tmp_path / "read")
    how = {"batch_size": 3, "shuffle": True, "num_workers": workers}
    source, more = (DataLoader(data, **how), {}) if as_loader else (data, how)
    found = indices(keyed_batches(source, seed=5, **more).epoch(4, first=2))
    read = [int(line) for line in (tmp_path / "read").read_text().split()]
    assert sorted(read) == sorted(index for batch in found for index in batch)
    assert len(read) == COUNT - 6


def test_settings_of_a_loader_are_kept() -> None:
    data = Drawing(globals_drawn)
    seen: list[int] = []
    loader = DataLoader(
        data,
        4,
        collate_fn=len,
        drop_last=True,
        timeout=60,
        num_workers=1,
        worker_init_fn=seen.append,
    )
    assert list(keyed_batches(loader, seed=0).epoch()) == [4, 4]
    assert keyed_batches(data, seed=0, batch_size=4, collate_fn=len, drop_last=True).length == 2


def test_workers_end_with_the_batches() -> None:
    for end in (lambda batches: batches.close(), lambda _: None):
        batches = of(lambda: Drawing(globals_drawn), num_workers=1, persistent_workers=True)
        assert len(list(batches.epoch())) == 4
        (worker,) = multiprocessing.active_children()
        end(batches)
        del batches
        gc.collect()
        worker.join(20)
        assert not worker.is_alive()


class Opened(Drawing):
    """Opens something in a worker, and says what is done about signals there."""

    opened = 0

    def __getitem__(self, index: int) -> torch.Tensor:
        handlers = [signal.getsignal(n) == signal.SIG_IGN for n in (signal.SIGINT, signal.SIGUSR1)]
        kept = signal.getsignal(signal.SIGTERM) != signal.SIG_DFL
        return torch.tensor([index, self.opened, *handlers, kept])


def open_in_worker(worker: int) -> None:
    info = get_worker_info()
    assert info is not None
    info.dataset.opened = worker + 10


def test_a_worker_is_set_up_by_both_and_leaves_signals_to_the_run() -> None:
    loader = DataLoader(Opened(globals_drawn), 11, num_workers=1, worker_init_fn=open_in_worker)
    (batch,) = keyed_batches(loader, seed=0).epoch()
    assert batch[:, 1:].tolist() == [[10, 1, 1, 1]] * COUNT


def test_data_that_draw_nothing_are_not_seeded(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_number: int) -> None:
        raise AssertionError

    monkeypatch.setattr("luthier.data.keyed.seed_generators", fail)
    fixed = TensorDataset(torch.arange(COUNT))
    for data in (fixed, Subset(fixed, range(4)), ConcatDataset([fixed, Subset(fixed, [0])])):
        assert len(list(of(lambda d=data: d).epoch())) == -(-len(data) // 3)
    for data in (Subset(Drawing(globals_drawn), [0]), Drawing(globals_drawn)):
        with pytest.raises(AssertionError):
            list(of(lambda d=data: d).epoch())


# --- data without indices -----------------------------------------------------------------------


class Stream(IterableDataset[torch.Tensor]):
    """Counts, and draws."""

    def __init__(self) -> None:
        self.own = NumpyStyle()

    def __iter__(self) -> Iterator[torch.Tensor]:
        for number in range(7):
            yield torch.tensor([number, *globals_drawn(), *self.own()], dtype=torch.float64)


class Positioned(Stream):
    """Knows where it is."""

    at = 0

    def __iter__(self) -> Iterator[torch.Tensor]:
        while self.at < 7:
            self.at += 1
            yield torch.tensor([self.at, *globals_drawn(), *self.own()], dtype=torch.float64)
        self.at = 0

    def state_dict(self) -> dict[str, int]:
        return {"at": self.at}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.at = state["at"]


def stateful_loader(data: Any, **how: Any) -> Any:
    module = pytest.importorskip("torchdata.stateful_dataloader", reason="torchdata is missing")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="'set_vital' is deprecated")
        return module.StatefulDataLoader(data, **how)


STATEFUL: dict[str, Callable[[], KeyedBatches]] = {
    "data set": lambda: keyed_batches(Positioned(), seed=3, batch_size=2),
    "loader": lambda: keyed_batches(DataLoader(Positioned(), 2), seed=3),
    "StatefulDataLoader": lambda: keyed_batches(
        stateful_loader(Positioned(), batch_size=2), seed=3
    ),
}


@pytest.mark.parametrize("kind", STATEFUL)
def test_data_that_know_their_position_continue_from_it(kind: str) -> None:
    batches = STATEFUL[kind]()
    assert isinstance(batches, StatefulBatches)
    whole, states = [], []
    seed_generators(1)
    expected = globals_drawn()
    seed_generators(1)
    for batch in batches.epoch(1):
        whole.append(batch)
        states.append(batches.state_dict())
    assert globals_drawn() == expected
    assert [len(batch) for batch in whole] == [2, 2, 2, 1]
    for first in (1, 2, 3):
        again = STATEFUL[kind]()
        assert isinstance(again, StatefulBatches)
        again.load_state_dict(states[first - 1])
        assert bits(again.epoch(1, first)) == bits(iter(whole[first:]))
    assert len(list(batches.epoch(2))) == 4


class Watching(Positioned):
    """Says whether a worker leaves signals to the run."""

    def __iter__(self) -> Iterator[torch.Tensor]:
        ignored = signal.getsignal(signal.SIGINT) == signal.SIG_IGN
        for batch in super().__iter__():
            yield torch.tensor([batch[0], ignored])


def test_a_stateful_loader_with_workers_continues_and_leaves_signals_to_the_run() -> None:
    def make() -> StatefulBatches:
        loader = stateful_loader(Watching(), batch_size=2, num_workers=1)
        batches = keyed_batches(loader, seed=3)
        assert isinstance(batches, StatefulBatches)
        return batches

    batches = make()
    epoch = batches.epoch()
    assert next(epoch).tolist() == [[1, 1], [2, 1]]
    state = batches.state_dict()
    epoch.close()
    again = make()
    again.load_state_dict(state)
    assert [batch[:, 0].tolist() for batch in again.epoch(0, 1)] == [[3, 4], [5, 6], [7]]


def test_a_stateful_loader_of_data_with_indices_is_keyed_as_any() -> None:
    def make(workers: int) -> KeyedBatches:
        data = Drawing(globals_drawn)
        how = {"batch_size": 3, "shuffle": True, "num_workers": workers}
        return keyed_batches(stateful_loader(data, **how), seed=3)

    assert not isinstance(make(0), StatefulBatches)
    whole = bits(make(0).epoch(1))
    assert len(whole) == 4
    assert bits(make(2).epoch(1, first=2)) == whole[2:]


class Otherwise(DataLoader[Any]):
    def __iter__(self) -> Any:
        yield from super().__iter__()


class Endless(Sampler[int]):
    def __iter__(self) -> Iterator[int]:
        while True:
            yield 0


DATA = Drawing(globals_drawn)


@pytest.mark.parametrize(
    ("make", "how", "says"),
    [
        (Stream, {"batch_size": 2}, ["Stream gives samples one after the other", "state_dict"]),
        (lambda: DataLoader(Stream()), {}, ["Stream gives samples", "torchdata"]),
        (lambda: iter([1]), {}, ["list_iterator gives samples"]),
        (Positioned, {"num_workers": 2}, ["Positioned is read by 2 workers", "num_workers=0"]),
        (lambda: DataLoader(DATA), {"batch_size": 2}, ["batch_size=2 would have no effect"]),
        (lambda: DataLoader(DATA), {"shuffle": False}, ["shuffle=False would have no effect"]),
        (lambda: DATA, {"generator": torch.Generator()}, ["generator=… would have no effect"]),
        (lambda: Otherwise(DATA), {}, ["Otherwise gives batches in a way of its own"]),
        (lambda: DataLoader(DATA, num_workers=2, in_order=False), {}, ["an order of chance"]),
    ],
)
def test_what_cannot_be_exact_is_refused(
    make: Callable[[], Any], how: dict[str, Any], says: list[str]
) -> None:
    with pytest.raises(DataError) as caught:
        keyed_batches(make(), seed=0, **how)
    assert all(text in str(caught.value) for text in says), str(caught.value)
    assert caught.value.cure


def test_a_sampler_without_an_end_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("luthier.data.loader._ENDLESS", 100)
    with pytest.raises(DataError, match="Endless does not come to an end"):
        next(keyed_batches(DataLoader(DATA, sampler=Endless()), seed=0).epoch())


# --- randomness ---------------------------------------------------------------------------------


@given(st.integers(-(2**70), 2**70), st.text(), st.lists(st.integers() | st.text() | st.booleans()))
def test_a_key_is_that_of_the_json_array(seed: int, purpose: str, position: list[Any]) -> None:
    text = json.dumps([seed, purpose, *position], separators=(",", ":"))
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    assert key(seed, purpose, *position) == int.from_bytes(digest, "big") >> 1


def test_everything_is_seeded_as_by_the_libraries_themselves() -> None:
    seed_generators(2**62 + 1)
    found = globals_drawn()
    random.seed(2**62 + 1)
    np.random.seed(1)
    torch.manual_seed(2**62 + 1)
    assert found == globals_drawn()


def test_an_accelerator_is_seeded_from_when_it_is_initialised(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    of_device = torch.Generator()
    of_device.seed()
    before = of_device.initial_seed()
    monkeypatch.setattr(torch.cuda, "default_generators", (of_device,))
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: False)
    seed_generators(7)
    assert of_device.initial_seed() == before
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    seed_generators(8)
    assert of_device.initial_seed() == 8
    state = of_device.get_state()
    with kept_randomness():
        seed_generators(9)
    assert torch.equal(of_device.get_state(), state)


def test_nothing_is_called_or_touched_in_the_search() -> None:
    class Touchy:
        def __init__(self) -> None:
            self.me, self.tensor = self, torch.zeros(3)
            self.module = torch.nn.Linear(2, 2)
            self.deep: list[Any] = [random.Random()]
            for _ in range(100_000):
                self.deep = [self.deep]

        @property
        def value(self) -> int:
            raise AssertionError

        @property
        def __class__(self) -> type:
            raise AssertionError

        def __getattr__(self, name: str) -> Any:
            raise AssertionError(name)

        def __eq__(self, other: object) -> bool:
            raise AssertionError

        __hash__ = None

    class TouchyList(list[Any]):
        def __iter__(self) -> Any:
            raise AssertionError

    found = find_sources([Touchy()], TouchyList([random.Random()])).found
    assert [type(source) for source in found.values()] == [random.Random]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_what_is_drawn_on_a_gpu_is_keyed() -> None:
    def draw() -> float:
        return float(torch.rand((), device="cuda"))

    draw()
    whole = bits(of(lambda: Drawing(draw)).epoch())
    before = torch.cuda.get_rng_state()
    assert bits(of(lambda: Drawing(draw)).epoch(0, first=2)) == whole[2:]
    assert torch.equal(torch.cuda.get_rng_state(), before)
