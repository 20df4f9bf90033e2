"""Randomness as a function of a key: the global generators, and those that data sets keep.

Libraries draw from Python's, numpy's and torch's global generators, which ``seed_generators``
seeds. A data set or transform may have generators of its own; ``find_sources`` finds them.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import random
import sys
import types
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import PurePath
from typing import Any

import numpy as np
import torch

from luthier.keys import key as key_of

_WORD = 0xFFFFFFFF


def seed_generators(key: int) -> None:
    """Make all global generators a function of ``key``: Python's, numpy's and torch's.

    Of accelerators those are seeded that are initialised by now: nothing is initialised or
    queued, as ``torch.manual_seed`` does at fifty times the price.
    """
    random.seed(key)
    np.random.seed(key & _WORD)
    torch.default_generator.manual_seed(key)
    for generator in _device_generators():
        generator.manual_seed(key)


def _device_generators() -> Iterable[torch.Generator]:
    found: tuple[torch.Generator, ...] = ()
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        found = tuple(torch.cuda.default_generators)
    if torch.xpu.is_initialized():  # type: ignore[no-untyped-call]
        found += tuple(torch.xpu.default_generators)
    if _HAS_MPS and not torch.mps._is_in_bad_fork():
        found += (torch.mps._get_default_mps_generator(),)
    return found


_HAS_MPS = torch.backends.mps.is_available()


@contextlib.contextmanager
def keyed_randomness(key: int) -> Iterator[None]:
    """Make all global generators a function of ``key`` inside, and put them back after."""
    with kept_randomness():
        seed_generators(key)
        yield


@contextlib.contextmanager
def kept_randomness(sources: Sources | None = None) -> Iterator[None]:
    """Put all global generators back after, and those of ``sources``."""
    before = random.getstate(), np.random.get_state(), torch.default_generator.get_state()
    on_devices = [(generator, generator.get_state()) for generator in _device_generators()]
    put_back = sources.keep() if sources is not None else None
    try:
        yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])
        torch.default_generator.set_state(before[2])
        for generator, state in on_devices:
            generator.set_state(state)
        if put_back is not None:
            put_back()


class Sources:
    """Generators that objects keep for themselves, each with the path by which it was found.

    Args:
        found: path → generator, or object with ``set_random_seed``.
    """

    def __init__(self, found: dict[str, Any]) -> None:
        self.found = found
        self._seeders = [(path, _seeder(source)) for path, source in found.items()]

    def seed(self, key: int) -> None:
        """Make every source a function of ``key``, and no two alike."""
        for path, seeder in self._seeders:
            seeder(key_of(key, "source", path))

    def keep(self) -> Callable[[], None]:
        """Return a function that puts the generators back to where they are now."""
        states = [put_back for source in self.found.values() for put_back in _put_back(source)]

        def put_all_back() -> None:
            for put_back in states:
                put_back()

        return put_all_back


def _seeder(source: Any) -> Callable[[int], object]:
    if isinstance(source, random.Random):
        return source.seed
    if isinstance(source, torch.Generator):
        return source.manual_seed
    if isinstance(source, np.random.Generator):
        return functools.partial(_seed_bits, source.bit_generator)
    if isinstance(source, np.random.BitGenerator):
        return functools.partial(_seed_bits, source)
    if isinstance(source, np.random.RandomState):
        return functools.partial(_seed_random_state, source)
    return lambda key: source.set_random_seed(key & _WORD)


def _seed_bits(bits: np.random.BitGenerator, key: int) -> None:
    name = type(bits).__name__
    if name not in ("PCG64", "PCG64DXSM"):
        bits.state = type(bits)(key).state
        return
    # The state itself: numpy's own way from a number to it takes ten times as long.
    digest = hashlib.blake2b(key.to_bytes(8, "big"), digest_size=32).digest()
    state = int.from_bytes(digest[:16], "big")
    increment = int.from_bytes(digest[16:], "big") | 1
    bits.state = {
        "bit_generator": name,
        "state": {"state": state, "inc": increment},
        "has_uint32": 0,
        "uinteger": 0,
    }


def _seed_random_state(source: np.random.RandomState, key: int) -> None:
    state = source.get_state(legacy=False)
    if state["bit_generator"] == "MT19937":
        source.seed(key & _WORD)
        return
    bits = source._bit_generator
    _seed_bits(bits, key)
    source.set_state({**bits.state, "has_gauss": 0, "gauss": 0.0})


def _put_back(source: Any) -> Iterator[Callable[[], object]]:
    if isinstance(source, random.Random):
        yield functools.partial(source.setstate, source.getstate())
    elif isinstance(source, torch.Generator):
        yield functools.partial(source.set_state, source.get_state())
    elif isinstance(source, np.random.RandomState):
        yield functools.partial(source.set_state, source.get_state(legacy=False))
    elif isinstance(source, np.random.Generator | np.random.BitGenerator):
        bits = source if isinstance(source, np.random.BitGenerator) else source.bit_generator
        yield functools.partial(setattr, bits, "state", bits.state)


_GENERATORS = (
    random.Random,
    np.random.Generator,
    np.random.BitGenerator,
    np.random.RandomState,
    torch.Generator,
)
_LEAVES = (
    str,
    bytes,
    bytearray,
    int,
    float,
    complex,
    type(None),
    np.ndarray,
    np.generic,
    torch.Tensor,
    PurePath,
    types.ModuleType,
    random.SystemRandom,
)
# Their code draws from the global generators or from attributes, which are looked at.
_KNOWN_CODE = {*sys.stdlib_module_names, "luthier", "torch", "torchvision", "numpy", "PIL", "cv2"}
_KNOWN_CODE |= {"albumentations", "scipy", "pandas", "sklearn", "datasets", "transformers"}
_DEPTH, _OBJECTS, _ITEMS = 16, 20_000, 256


def find_sources(*roots: Any) -> Sources:
    """Find the generators that objects keep for themselves.

    Attributes, lists, tuples and dicts are followed, and functions to what they close over and
    to the globals of their module that they name. No property is called and no tensor touched.
    What lies too deep, beyond the first items of a long container, or in a local variable of a
    generator that is running, is not found.

    Args:
        roots: data sets, transforms, functions, samplers.
    """
    walk = _Walk()
    for number, root in enumerate(roots):
        walk.add(str(number), root, 0)
    return Sources(walk.run())


class _Walk:
    """One walk through a graph of objects, the nearest first."""

    def __init__(self) -> None:
        self.found: dict[str, Any] = {}
        self._queue: deque[tuple[str, Any, int]] = deque()
        shared = random._inst, np.random.mtrand._rand, torch.default_generator
        self._seen: dict[int, Any] = {id(generator): generator for generator in shared}

    def add(self, path: str, value: Any, depth: int) -> None:
        known = id(value) in self._seen or issubclass(type(value), _LEAVES)
        if known or depth > _DEPTH or len(self._seen) >= _OBJECTS:
            return
        self._seen[id(value)] = value
        self._queue.append((path, value, depth))

    def run(self) -> dict[str, Any]:
        while self._queue:
            path, value, depth = self._queue.popleft()
            if issubclass(type(value), _GENERATORS):
                self.found[path] = value
                continue
            if callable(getattr(type(value), "set_random_seed", None)):
                self._take_seedable(path, value)
            for name, part in _parts(value):
                self.add(f"{path}.{name}", part, depth + 1)
        return self.found

    def _take_seedable(self, path: str, value: Any) -> None:
        own = _attributes(value)
        pair = own.get("random_generator"), own.get("py_random")
        if None in pair or not callable(getattr(type(value), "set_random_state", None)):
            self.found[path] = value
        elif id(pair[0]) not in self._seen:
            # albumentations: each transform of a pipeline has a pair of generators, which are
            # seeded alike. One pair for the pipeline costs less for each sample, and draws
            # what differs.
            pair = np.random.Generator(np.random.PCG64(0)), random.Random(0)  # noqa: S311
            value.set_random_state(*pair)
            for generator in pair:
                self._seen[id(generator)] = generator
                self.found[f"{path}.{type(generator).__name__}"] = generator


def _parts(value: Any) -> Iterable[tuple[str, Any]]:
    """Give what an object refers to, in an order that is the same in every process."""
    kind = type(value)
    if issubclass(kind, dict):
        return _numbered(dict.values(value))
    for sequence in (list, tuple, deque):
        if issubclass(kind, sequence):
            return _numbered(sequence.__iter__(value))
    if issubclass(kind, type):
        own = {} if _is_known(value.__module__) else vars(value) | {"bases": value.__bases__}
        return own.items()
    if kind is types.FunctionType:
        return _parts_of_function(value)
    if kind in _REFERRING:
        return [(name, getattr(value, name)) for name in _REFERRING[kind]]
    return [] if issubclass(kind, property) else [*_attributes(value).items(), ("class", kind)]


_REFERRING: dict[type, tuple[str, ...]] = {
    types.MethodType: ("__self__", "__func__"),
    types.BuiltinMethodType: ("__self__",),
    staticmethod: ("__func__",),
    classmethod: ("__func__",),
    functools.partial: ("func", "args", "keywords"),
}


def _numbered(items: Iterable[Any]) -> Iterator[tuple[str, Any]]:
    return ((str(number), item) for number, item in enumerate(islice(items, _ITEMS)))


def _parts_of_function(function: types.FunctionType) -> Iterator[tuple[str, Any]]:
    yield "defaults", function.__defaults__
    yield "named defaults", function.__kwdefaults__
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        with contextlib.suppress(ValueError):  # not assigned yet
            yield name, cell.cell_contents
    if _is_known(function.__module__):
        return
    names = tuple(_names(function.__code__))
    for name in names:
        value = function.__globals__.get(name)
        if type(value) is types.ModuleType and not _is_known(value.__name__):
            yield from ((f"{name}.{n}", vars(value)[n]) for n in names if n in vars(value))
        else:
            yield name, value


def _names(code: types.CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _names(constant)


def _is_known(module: str | None) -> bool:
    return (module or "").partition(".")[0] in _KNOWN_CODE


def _attributes(value: Any) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for base in type(value).__mro__:
        for name, member in vars(base).items():
            if isinstance(member, types.MemberDescriptorType):  # a slot
                with contextlib.suppress(AttributeError):
                    found.setdefault(name, member.__get__(value))
    for base in type(value).__mro__:
        member = vars(base).get("__dict__")
        if isinstance(member, types.GetSetDescriptorType):
            found.update(member.__get__(value))
            break
    return found
