"""Pickles, read without running anything."""

from __future__ import annotations

import argparse
import collections
import datetime
import enum
import io
import math
import pathlib
import pickle
import struct
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from luthier.errors import DamagedError, UnsupportedFileError
from luthier.files.entries import Global, walk
from luthier.files.limits import Broken, Budget
from luthier.files.pickles.reader import read_pickle
from pickles_by_hand import read, refused

PROTOCOLS = range(pickle.HIGHEST_PROTOCOL + 1)


def by_python(value: Any, protocol: int) -> bytes:
    buffer = io.BytesIO()
    pickle._Pickler(buffer, protocol).dump(value)
    return buffer.getvalue()


# Plain values

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(-(2**4000), 2**4000)
    | st.floats()
    | st.complex_numbers(allow_nan=False)
    | st.text(st.characters(), max_size=40)
    | st.text(max_size=300)
    | st.binary(max_size=300)
)
KEYS = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text()
    | st.binary(),
    lambda inner: st.lists(inner, max_size=3).map(tuple) | st.frozensets(inner, max_size=3),
    max_leaves=6,
)
VALUES = st.recursive(
    SCALARS
    | st.binary(max_size=20).map(bytearray)
    | st.builds(range, st.integers(), st.integers(), st.integers(1))
    | st.builds(slice, st.integers(), st.none() | st.integers()),
    lambda inner: (
        st.lists(inner, max_size=6)
        | st.lists(inner, max_size=5).map(tuple)
        | st.dictionaries(KEYS, inner, max_size=6)
        | st.dictionaries(st.text(), inner, max_size=6).map(collections.OrderedDict)
        | st.sets(KEYS, max_size=5)
        | st.frozensets(KEYS, max_size=5)
    ),
    max_leaves=30,
)


def same(first: Any, second: Any) -> bool:
    """Tell whether values are equal, types included; an OrderedDict is read as a dict."""
    kind = dict if isinstance(second, dict) else type(second)
    if type(first) is not kind:
        return False
    if isinstance(second, float):
        return struct.pack("<d", first) == struct.pack("<d", second) or first == second != 0
    if isinstance(second, dict):
        return len(first) == len(second) and all(
            same(a, b) and same(first[a], second[b]) for a, b in zip(first, second, strict=True)
        )
    if isinstance(second, list | tuple):
        return len(first) == len(second) and all(map(same, first, second))
    return bool(first == second)


@settings(max_examples=300)
@given(VALUES, st.sampled_from(PROTOCOLS), st.sampled_from([pickle.dumps, by_python]))
@example([math.inf, -math.inf, math.nan, -0.0], 0, by_python)
@example(["\ud800\n\\\x1a\0", "\U0001d538", "é", b"\n'\""], 0, pickle.dumps)
@example({(): b"", (1,): bytearray()}, 1, pickle.dumps)
@example([2**63, -(2**63), 255, 256, 65535, 65536, -1, 2**31, 2**2040, -(2**2040)], 2, by_python)
def test_plain_values_are_read_as_they_were_written(
    value: Any, protocol: int, dumps: Callable[[Any, int], bytes]
) -> None:
    content = dumps(value, protocol)
    found = read(content + b"more")
    assert same(found.value, value)
    assert found.end == len(content)
    mapped = memoryview(bytearray(b"before" + content))
    budget = Budget.of_size(len(mapped), "evil.pkl")
    assert same(read_pickle(mapped, budget, start=6).value, value)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_what_is_shared_stays_shared_and_what_is_cyclic_cyclic(protocol: int) -> None:
    inner: list[Any] = [1]
    value: dict[str, Any] = {"a": inner, "b": inner, "t": (inner,)}
    value["self"] = value
    inner.append((inner, value))
    found = read(pickle.dumps(value, protocol)).value
    assert found["a"] is found["b"] is found["t"][0]
    assert found["self"] is found
    assert found["a"][1][0] is found["a"]
    assert found["a"][1][1] is found


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_many_items(protocol: int) -> None:
    value = {
        "list": list(range(3000)),
        "dict": {i: str(i) for i in range(3000)},
        "set": set(range(3000)),
        "again": [("a", i) for i in range(300)],
    }
    assert read(pickle.dumps(value, protocol)).value == value


def test_large_bytes_stay_where_they_are() -> None:
    content = bytearray(pickle.dumps({"b": b"x" * 100_000}))
    found = read_pickle(memoryview(content), Budget.of_size(len(content), "f")).value["b"]
    assert found == b"x" * 100_000
    content[content.index(b"xxxx")] = ord("y")
    assert found[0] == ord("y")


# Python 2


def test_strings_of_python_2_are_texts_where_they_can_be() -> None:
    found = read(
        b"(lp0\nS'weight'\np1\naS\"it's\"\naS'\\xff\\n\\\\'\naS'\\xc3\\xa9'\naL7L\na."
    ).value
    assert found == ["weight", "it's", b"\xff\n\\", "é", 7]
    assert read(b"\x80\x02U\x03abc.").value == "abc"
    assert read(b"\x80\x02T\x02\x00\x00\x00\xff\xfe.").value == b"\xff\xfe"
    assert read(b"S'\\d\\101\\t'\n.").value == "\\dA\t"


def test_modules_of_python_2_are_known_by_their_names_of_python_3() -> None:
    assert read(b"\x80\x02c__builtin__\nset\n]K\x01a\x85R.").value == {1}
    assert read(b"c__builtin__\nlong\n.").value == Global("builtins", "int")


# Objects


class Colour(enum.Enum):
    RED = 1


class Sized:
    def __init__(self) -> None:
        self.size = 3


class Slotted:
    __slots__ = ("inner",)


class Listed(list[int]):
    pass


class WithKeywords:
    def __new__(cls, *, size: int) -> WithKeywords:  # noqa: ARG004
        return super().__new__(cls)

    def __getnewargs_ex__(self) -> tuple[tuple[Any, ...], dict[str, int]]:
        return (), {"size": 3}


def named(kind: type) -> Global:
    return Global(kind.__module__, kind.__qualname__)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_an_object_becomes_a_record(protocol: int) -> None:
    found = read(pickle.dumps(Sized(), protocol))
    assert found.value.made_by == named(Sized)
    assert not found.value.is_call
    assert found.value.arguments == ()
    assert found.value.state == {"size": 3}
    assert (named(Sized), True) in found.globals or protocol < 2


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_what_is_appended_to_an_object_is_kept(protocol: int) -> None:
    found = read(pickle.dumps(Listed([1, 2]), protocol)).value
    assert found.made_by == named(Listed)
    assert [1, 2] in (found.items, *found.arguments)
    counts = read(pickle.dumps(collections.Counter("aab"), protocol)).value
    assert counts == {"a": 2, "b": 1}


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_objects_of_other_kinds(protocol: int) -> None:
    slotted = Slotted()
    slotted.inner = 1
    assert read(pickle.dumps(slotted, protocol)).value.state == (None, {"inner": 1})
    made = read(pickle.dumps(WithKeywords(size=3), protocol)).value
    assert made.made_by == named(WithKeywords) or made.arguments
    colour = read(pickle.dumps(Colour.RED, protocol)).value
    assert colour.made_by == named(Colour)
    assert colour.arguments == (1,)
    options = read(pickle.dumps(argparse.Namespace(lr=0.1), protocol)).value
    assert options.state == {"lr": 0.1}
    assert read(pickle.dumps(len, protocol)).value == Global("builtins", "len")


def test_plain_classes_are_not_calls() -> None:
    where = read(pickle.dumps(pathlib.PurePosixPath("/a/b"))).value
    assert where.made_by.name == "PurePosixPath"
    assert "b" in where.arguments
    assert not where.is_call
    assert not read(pickle.dumps(datetime.timedelta(3))).value.is_call
    assert read(pickle.dumps(collections.defaultdict(list, a=[1]))).value == {"a": [1]}
    assert read(pickle.dumps(collections.deque([1, 2], 5))).value == [1, 2]


def test_keywords_of_protocol_4() -> None:
    found = read(pickle.dumps(WithKeywords(size=3), 4)).value
    assert dict(found.keywords) == {"size": 3}


def test_a_call_of_what_was_called_is_a_record_of_both() -> None:
    found = read(b"cbuiltins\ngetattr\ncos\npath\nX\x04\0\0\0join\x86R)R.")
    assert found.value.made_by == Global("operator", "call")
    inner = found.value.arguments[0]
    assert inner.made_by == Global("builtins", "getattr")
    assert inner.arguments == (Global("os", "path"), "join")
    assert found.globals == ((Global("builtins", "getattr"), True), (Global("os", "path"), False))


def test_nothing_is_imported() -> None:
    names = ["antigravity", "this_module_is_nowhere", "xmlrpc.server", "turtledemo"]
    assert not sys.modules.keys() & set(names)
    before = set(sys.modules)
    for name in names:
        for content in (
            f"c{name}\nThing\n)R.",
            f"(i{name}\nThing\n.",
            f"(c{name}\nThing\no.",
            f"c{name}\nThing\n)\x81}}b.",
        ):
            found = read(content.encode("latin-1"))
            assert found.value.made_by == Global(name, "Thing")
            assert found.globals == ((Global(name, "Thing"), True),)
        packed = f"\x80\x04\x8c{chr(len(name))}{name}\x8c\x05Thing\x93."
        assert read(packed.encode("latin-1")).value == Global(name, "Thing")
    assert set(sys.modules) == before


# Damage


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (b"", "byte 0.*too early"),
        (b"]", "byte 1.*too early"),
        (b".N", "more from its stack"),
        (b"N\x85R.", "more from"),
        (b"Na.", "more from its stack"),
        (b"NNa.", "appended to a NoneType"),
        (b"\xff", "no opcode"),
        (b"X\xff\xff\xff\x7fab.", "2147483647 bytes should follow"),
        (b"\x8e" + b"\xff" * 8 + b".", "should follow"),
        (b"\x95" + b"\xff" * 8 + b"N.", "frame"),
        (b"g5\n.", "place 5"),
        (b"h\x05.", "place 5"),
        (b"j\xff\xff\xff\xff.", "place 4294967295"),
        (b"gabc\n.", "cannot be read"),
        (b"t.", "mark"),
        (b"1.", "mark"),
        (b"0.", "mark"),
        (b"}]Ns.", "no hash"),
        (b"}]\x85Ns.", "no hash"),
        (b"\x8f(]\x90.", "no hash"),
        (b"}(Nu.", "no value"),
        (b"NN\x93.", "no text"),
        (b"cos\nsystem\nNR.", "no tuple"),
        (b"cos\nsystem\n}b.", "no object"),
        (b"S'abc\n.", "quotes"),
        (b"X\x01\0\0\0\xff.", "cannot be read"),
        (b"I" + b"9" * 5000 + b"\n.", "5000 digits"),
        (b"L" + b"9" * 5000 + b"L\n.", "500[01] digits"),
        (b"Fnine\n.", "cannot be read"),
        (b"V\\uzzzz\n.", "cannot be read"),
        (b"(o.", "no class"),
        (b"cos\nsystem\n)N\x92.", "keywords"),
    ],
)
def test_damage_is_named_with_its_position(content: bytes, match: str) -> None:
    refused(content, match)


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (b"\x80\x06N.", "protocol 6"),
        (b"\x82\x01.", "extension registry"),
        (b"\x97.", "out of band"),
    ],
)
def test_what_no_file_holds_is_not_supported(content: bytes, match: str) -> None:
    with pytest.raises(UnsupportedFileError, match=match):
        read(content)


def test_an_error_of_the_storages_has_a_position_too() -> None:
    def missing(_value: Any) -> Any:
        raise Broken("it has no record")

    with pytest.raises(DamagedError, match=r"evil.pkl .* at byte 4 .* it has no record"):
        read(b"]q\0Q.", missing)


def survives(content: bytes) -> None:
    before = set(sys.modules)
    try:
        found = read(content)
        for _ in walk(found.value):
            pass
    except (DamagedError, UnsupportedFileError):
        pass
    assert set(sys.modules) == before


NAMES = """
    MARK STOP POP POP_MARK DUP NONE REDUCE BUILD EMPTY_DICT APPEND APPENDS DICT EMPTY_LIST LIST OBJ
    SETITEM TUPLE EMPTY_TUPLE SETITEMS NEWOBJ TUPLE1 TUPLE2 TUPLE3 NEWTRUE EMPTY_SET ADDITEMS
    FROZENSET NEWOBJ_EX STACK_GLOBAL MEMOIZE BINPERSID
"""
OPCODES = st.sampled_from([getattr(pickle, name) for name in NAMES.split()])
PIECES = st.one_of(
    OPCODES,
    OPCODES,
    st.integers(0, 3).map(lambda n: b"h" + bytes([n])),
    st.integers(0, 3).map(lambda n: b"q" + bytes([n])),
    st.sampled_from(
        [
            b"K\x01", b"J\xff\xff\xff\x7f", b"G?\xf0\0\0\0\0\0\0", b"\x8c\x02f4", b"\x8c\x01<",
            b"C\x04abcd", b"\x8c\x05numpy", b"cos\nsystem\n", b"ccollections\nOrderedDict\n",
            b"cnumpy\ndtype\n", b"cnumpy\nndarray\n", b"cnumpy.core.multiarray\n_reconstruct\n",
            b"c_codecs\nencode\n",
            b"cnumpy.core.multiarray\nscalar\n", b"ctorch._utils\n_rebuild_tensor_v2\n",
            b"ctorch._tensor\n_rebuild_from_type_v2\n", b"ctorch._utils\n_rebuild_sparse_tensor\n",
            b"ctorch._utils\n_rebuild_parameter\n", b"ctorch\nfloat32\n", b"ctorch\ndevice\n",
            b"c__builtin__\nset\n", b"c__builtin__\nrange\n", b"c__builtin__\nslice\n",
            b"ccopyreg\n_reconstructor\n", b"ccopyreg\n__newobj_ex__\n", b"(ios\nsystem\n",
            b"ctorch.storage\n_load_from_bytes\n", b"cnumpy.core.numeric\n_frombuffer\n",
        ]
    ),
)  # fmt: skip


@settings(max_examples=300)
@given(st.binary(max_size=200) | st.lists(PIECES, max_size=60).map(b"".join))
def test_any_bytes_are_read_or_refused(content: bytes) -> None:
    survives(content)
    survives(content + b".")


@settings(max_examples=300)
@given(st.data(), VALUES, st.sampled_from(PROTOCOLS))
def test_a_changed_pickle_is_read_or_refused(
    data: st.DataObject, value: Any, protocol: int
) -> None:
    content = bytearray(pickle.dumps([value, np.arange(4.0), Sized(), {1: Colour.RED}], protocol))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(content) - 1))
        change = data.draw(st.integers(0, 2))
        if change == 0:
            content[at] = data.draw(st.integers(0, 255))
        elif change == 1:
            del content[at : at + data.draw(st.integers(1, 8))]
        else:
            content[at:at] = data.draw(PIECES)
        if not content:
            break
    survives(bytes(content))


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_truncated_pickle_is_damaged_wherever_it_ends(protocol: int) -> None:
    content = pickle.dumps(
        {"a": [1, 2.5, "x", b"y", (1, 2, 3, 4)], "n": np.arange(3), 5: Sized()}, protocol
    )
    for length in range(len(content)):
        refused(content[:length], "at byte")
