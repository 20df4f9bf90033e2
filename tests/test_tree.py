"""Any state ⇄ plain JSON and named tensors: the same value of the same type, or a refusal."""

from __future__ import annotations

import collections
import enum
import json
import math
import struct
import threading
from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from luthier.checkpoint import store
from luthier.checkpoint.tree import pack, unpack
from luthier.errors import UnsupportedStateError
from luthier.files.image import Image, bits_of, copy_bits
from luthier.files.tensors import parse

DTYPES = [
    *(torch.float64, torch.float32, torch.float16, torch.bfloat16),
    *(torch.float8_e4m3fn, torch.float8_e5m2, torch.complex64, torch.bool),
    *(torch.int64, torch.int32, torch.int16, torch.int8),
    *(torch.uint64, torch.uint32, torch.uint16, torch.uint8),
]
NUMPY = ["f8", "f4", "f2", "c8", "i8", "i4", "i2", "i1", "u8", "u4", "u2", "u1", "?"]


def bits(array: Any) -> bytes:
    return np.ascontiguousarray(array).tobytes()


def same(a: Any, b: Any) -> bool:
    """Tell whether two values are of one type and equal, NaNs and zeros' signs included."""
    if type(a) is not type(b):
        return False
    if isinstance(a, float):
        return struct.pack("d", a) == struct.pack("d", b) or (math.isnan(a) and math.isnan(b))
    if isinstance(a, torch.Tensor):
        flat = [t.detach().contiguous().view(-1).view(torch.uint8) for t in (a, b)]
        return a.dtype == b.dtype and a.shape == b.shape and torch.equal(*flat)
    if isinstance(a, np.ndarray | np.generic):
        return a.dtype == b.dtype and a.shape == b.shape and bits(a) == bits(b)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, dict):  # in order
        return same(list(a), list(b)) and all(same(a[x], b[y]) for x, y in zip(a, b, strict=True))
    return bool(a == b)


def there_and_back(value: Any, where: str = "object") -> Any:
    """Pack a value, write it as a checkpoint is written, and read that."""
    packed, tensors = pack(value, where)
    image = Image(tensors)
    for name, tensor in tensors.items():
        copy_bits(image.bits[name], bits_of(tensor))
    content = bytearray(b"".join(map(bytes, image.chunks())))
    return unpack(json.loads(store.to_json(packed)), parse(content))


@st.composite
def tensors(draw: st.DrawFn) -> torch.Tensor:
    dtype = draw(st.sampled_from(DTYPES))
    shape = draw(st.lists(st.integers(0, 3), max_size=3))
    count = math.prod(shape) * dtype.itemsize
    if dtype == torch.bool:
        raw = bytes(draw(st.lists(st.integers(0, 1), min_size=count, max_size=count)))
    else:
        raw = draw(st.binary(min_size=count, max_size=count))
    if not count:
        return torch.empty(shape, dtype=dtype)
    tensor = torch.frombuffer(bytearray(raw), dtype=dtype).view(shape)
    return draw(st.sampled_from([tensor, tensor.transpose(0, -1)])) if shape else tensor


@st.composite
def arrays(draw: st.DrawFn) -> Any:
    dtype = np.dtype(draw(st.sampled_from(NUMPY)))
    shape = draw(st.lists(st.integers(0, 3), max_size=3))
    count = math.prod(shape) * dtype.itemsize
    raw = draw(st.binary(min_size=count, max_size=count))
    if dtype == np.bool_:
        raw = bytes(byte & 1 for byte in raw)
    array = np.frombuffer(bytearray(raw), dtype=dtype).reshape(shape)
    if not shape and draw(st.booleans()):
        return array[()]  # a scalar
    return draw(st.sampled_from([array, array[::-1]])) if shape else array


floats = st.floats() | st.sampled_from([math.nan, math.inf, -math.inf, -0.0, 5e-324])
texts = st.text() | st.sampled_from(["$", "", "a.b", "kind", "name", "items", "0", "\ud800"])
simple_keys = st.booleans() | st.integers() | texts
keys = simple_keys | floats | st.tuples(simple_keys, st.tuples(simple_keys))
leaves = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(-(2**200), 2**200)
    | floats
    | texts
    | st.binary()
    | st.sampled_from(DTYPES)
    | st.dictionaries(simple_keys, st.integers()).map(Counter)
    | tensors()
    | arrays()
)
values = st.recursive(
    leaves,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=4).map(tuple)
        | st.dictionaries(texts.filter(str.isascii), inner, max_size=4)
        | st.dictionaries(keys, inner, max_size=4)
    ),
    max_leaves=12,
)


@given(values)
def test_every_value_comes_back_as_it_was(value: Any) -> None:
    assert same(there_and_back(value), value)


@given(values)
def test_equal_values_give_equal_texts(value: Any) -> None:
    texts = [store.to_json(pack(value, "object")[0]) for _ in range(2)]
    assert texts[0] == texts[1]
    assert texts[0].isascii()
    assert texts[0].count("\n") == 1


T1, T2, T3 = torch.tensor(1.0), torch.tensor(2.0), torch.tensor(3.0)


@pytest.mark.parametrize(
    "value",
    [
        {"a.b": T1, "a": {"b": T2}},
        {"a": {"b": T1}, "a.b": T2},
        {1: T1, "1": T2},
        {"a": [T1], "a.0": T2},
        {(1, 2): T1, "(1, 2)": T2},
        {True: T1, "True": T2},
        {"a": {"b.c": T1}, "a.b": {"c": T2}, "a.b.c": T3},
        {"": T1, ".": T2},
        {"": {"": T1}, ".": T2},
    ],
    ids=repr,
)
@pytest.mark.parametrize("where", ["object", ""])
def test_two_tensors_never_share_a_name(value: Any, where: str) -> None:
    # Places are joined with dots, and keys may hold dots.
    assert same(there_and_back(value, where), value)


def test_an_integer_may_have_any_number_of_digits() -> None:
    value = [10**6000, -(10**6000), 2**19937 - 1]
    assert there_and_back(value) == value


def test_an_array_may_be_of_any_layout() -> None:
    base = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    fixed = np.frombuffer(b"12345678", dtype=np.int32)  # cannot be written to
    spread = np.broadcast_to(np.float32(3), (2, 2))
    for array in (base, base.T, base[:, ::-2], np.asfortranarray(base), fixed, spread):
        assert same(there_and_back({"x": array})["x"], array)


def test_a_tensor_is_not_copied_by_packing() -> None:
    weight = torch.nn.Parameter(torch.ones(2))
    _, found = pack({"weight": weight}, "model")
    assert found == {"model.weight": weight}
    assert found["model.weight"] is weight


def test_a_size_comes_back_as_a_tuple() -> None:
    assert same(there_and_back({"shape": torch.Size([2, 3])}), {"shape": (2, 3)})


def test_state_of_random_generators_comes_back() -> None:
    for kind in (np.random.PCG64, np.random.MT19937, np.random.Philox, np.random.SFC64):
        bits_of = kind(3)
        numbers = np.random.Generator(bits_of)
        numbers.random(5)
        other = kind(4)
        other.state = there_and_back(bits_of.state)
        assert np.random.Generator(other).random() == numbers.random()


class Colour(enum.IntEnum):
    RED = 1


class Pair(NamedTuple):
    left: int
    right: int


class Named(dict[str, int]):
    """A dict with a life of its own."""


def generator() -> Any:
    yield 1


REFUSED: dict[str, Callable[[], Any]] = {
    "function": lambda: math.sin,
    "lambda": lambda: lambda: 0,
    "object": object,
    "class": lambda: dict,
    "set": lambda: {1},
    "frozenset": lambda: frozenset({1}),
    "generator": generator,
    "range": lambda: range(3),
    "complex": lambda: 1j,
    "bytearray": lambda: bytearray(b"x"),
    "enum": lambda: Colour.RED,
    "named tuple": lambda: Pair(1, 2),
    "deque": lambda: collections.deque([1]),
    "defaultdict": lambda: collections.defaultdict(int, a=1),
    "dict of another class": lambda: Named(a=1),
    "lock": threading.Lock,
    "module": lambda: torch.nn.Linear(1, 1),
    "generator of torch": torch.Generator,
    "device": lambda: torch.device("cpu"),
    "array of objects": lambda: np.array([object()]),
    "array of texts": lambda: np.array(["x"]),
    "array of records": lambda: np.zeros(2, dtype=[("x", "f4")]),
    "array of dates": lambda: np.array(["2020-01-01"], dtype="datetime64[D]"),
    "masked array": lambda: np.ma.masked_array([1.0, 2.0], mask=[True, False]),
    "long double": lambda: np.longdouble(1),
    "other byte order": lambda: np.zeros(2, dtype=">f4"),
    "text of numpy": lambda: np.str_("x"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_does_not_fit_is_refused_with_its_place(kind: str) -> None:
    with pytest.raises(UnsupportedStateError, match=r"sampler\.inner\.1\.x"):
        pack({"inner": [0, {"x": REFUSED[kind]()}]}, "sampler")


@pytest.mark.parametrize(
    "key",
    [
        None,
        np.float64(1),
        np.int64(1),
        b"x",
        frozenset(),
        Colour.RED,
        torch.tensor(1),
        (1, object()),
        (torch.ones(1),),
    ],
)
def test_a_key_that_does_not_fit_is_refused_with_its_place(key: Any) -> None:
    with pytest.raises(UnsupportedStateError, match=r"sampler\.x"):
        pack({"x": {key: 1}}, "sampler")


def test_a_state_that_holds_itself_is_refused() -> None:
    value: list[Any] = []
    value.append(value)
    with pytest.raises(UnsupportedStateError, match="sampler"):
        pack({"x": value}, "sampler")


@pytest.mark.parametrize(
    "value",
    [
        {"$": "code"},
        {"$": 1},
        {"$": ["tensor"]},
        {"$": "tensor", "name": "missing"},
        {"$": "tensor"},
        {"$": "float"},
        {"$": "float", "value": "x"},
        {"$": "dtype", "value": "load"},
        {"$": "dtype", "value": "nn"},
        {"$": "dtype", "value": "missing"},
        {"$": "bytes", "base64": "*"},
        {"$": "tuple"},
        {"$": "dict", "items": [[1]]},
    ],
    ids=repr,
)
def test_what_pack_never_writes_is_an_error(value: Any) -> None:
    with pytest.raises((KeyError, ValueError)):
        unpack([value], {})
