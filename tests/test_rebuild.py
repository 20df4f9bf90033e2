"""What a pickle may build: arrays and tensors, as entries that say where they lie."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from luthier.errors import DamagedError
from luthier.files.entries import Name, Record, RefusedEntry, TensorEntry
from luthier.files.mapped import Held
from luthier.files.pickles.rebuild import Storage, storage_id
from luthier.values import TensorSpec
from pickles_by_hand import Called, Reference, Stored, opcodes, pickled, read, refused

PROTOCOLS = range(pickle.HIGHEST_PROTOCOL + 1)


# Arrays


DTYPES = ["f2", "f4", "f8", "c8", "c16", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "b1"]


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("code", DTYPES)
def test_arrays(code: str, order: str, protocol: int) -> None:
    wanted = np.arange(24).reshape(2, 3, 4).astype(order + code)
    found = read(pickle.dumps([wanted, wanted.T, wanted[:, 1], wanted[:0]], protocol)).value
    for entry, array in zip(found, [wanted, wanted.T, wanted[:, 1], wanted[:0]], strict=True):
        assert entry.spec.shape == array.shape
        assert np.dtype(entry.spec.dtype) == array.dtype.newbyteorder("=")
        flat = np.frombuffer(entry.blob.view(), array.dtype.newbyteorder("<>"[entry.big_endian]))
        steps = [
            n * flat.itemsize for n in entry.strides or np.cumprod((1, *array.shape[:0:-1]))[::-1]
        ]
        again = np.lib.stride_tricks.as_strided(flat, array.shape, steps) if flat.size else flat
        assert np.array_equal(again.reshape(array.shape), array)


def test_arrays_of_what_is_no_number_are_refused_one_by_one() -> None:
    value = {
        "object": np.array([None, slice(3)]),
        "text": np.array(["a"]),
        "record": np.zeros(2, [("a", "f4")]),
        "date": np.array(["2020-01-01"], "M8[D]"),
        "long": np.zeros(2, np.longdouble),
        "good": np.zeros(2),
    }
    found = read(pickle.dumps(value, 2)).value
    assert {name for name, entry in found.items() if isinstance(entry, RefusedEntry)} == (
        set(value) - {"good"}
    )
    assert "objects of Python" in found["object"].why


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("code", [*DTYPES, "U3", "S3", ">f4", ">U3"])
def test_scalars_of_numpy_are_plain(code: str, protocol: int) -> None:
    wanted = np.array([1]).astype(code)[0]
    found = read(pickle.dumps(wanted, protocol)).value
    assert found == wanted.item()
    assert type(found) is type(wanted.item())


def test_a_date_of_numpy_stays_a_record() -> None:
    assert isinstance(read(pickle.dumps(np.datetime64("2020-01-01"))).value, Record)
    assert read(pickle.dumps(np.dtype(">f4"))).value == Name("numpy dtype", ">f4")


def test_an_array_of_another_size_than_its_bytes_is_damaged() -> None:
    content = pickle.dumps(np.zeros(3, np.uint8), 2).replace(b"K\x03\x85", b"K\x04\x85")
    refused(content, r"has 3 bytes, not 4")


def test_an_array_of_python_2() -> None:
    content = (
        b"\x80\x02cnumpy.core.multiarray\n_reconstruct\nq\x01cnumpy\nndarray\nq\x02K\x00\x85U\x01b"
        b"\x87Rq\x03(K\x01K\x02K\x02\x86cnumpy\ndtype\nq\x04U\x02f4K\x00K\x01\x87Rq\x05(K\x03U\x01<"
        b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89U\x10\x00\x00\x80?\x00\x00\x00@\x00\x00@@"
        b"\x00\x00\x80@tb."
    )
    found = read(content).value
    assert found.spec == TensorSpec((2, 2), "float32")
    assert np.frombuffer(found.blob.view(), "<f4").tolist() == [1, 2, 3, 4]


BLOB = Held(bytearray(range(48)))


def stored(value: Any) -> Storage:
    asked = storage_id(value)
    return Storage(BLOB, asked.dtype, asked.device, asked.key == "big")


def tensor(
    offset: Any, shape: Any, strides: Any, kind: str = "FloatStorage", key: str = "0"
) -> Called:
    storage = Stored(kind, key, 12, "cuda:1")
    return Called("torch._utils", "_rebuild_tensor_v2", storage, offset, shape, strides, False, {})


def entry_of(value: Any) -> Any:
    return read(pickled(value), stored).value


def test_a_tensor_says_where_it_lies() -> None:
    found = entry_of(tensor(1, (2, 3), (3, 1)))
    assert found == TensorEntry(TensorSpec((2, 3), "float32"), BLOB, 1, None, device="cuda:1")
    assert entry_of(tensor(0, (3, 2), (1, 3))).strides == (1, 3)
    assert entry_of(tensor(0, (2, 1, 3), (3, 7, 1))).strides is None
    assert entry_of(tensor(0, (), ())).count == 1
    assert entry_of(tensor(0, (0, 5), (5, 1))).count == 0
    assert entry_of(tensor(0, (2,), (1,), key="big")).big_endian
    assert not entry_of(tensor(0, (2,), (1,), "ByteStorage", "big")).big_endian


@pytest.mark.parametrize(
    ("offset", "shape", "strides"),
    [
        (11, (2,), (1,)),
        (0, (13,), (1,)),
        (0, (2, 2), (11, 1)),
        (-1, (2,), (1,)),
        (0, (2,), (-1,)),
        (0, (-2,), (1,)),
        (0, (2,), (1, 1)),
        (0, (2**62, 2**62), (2**62, 1)),
        (0, (2**63,), (0,)),
        (0, (1.5,), (1,)),
        (0, (True,), (1,)),
        (2**63, (), ()),
        (0, [None], (1,)),
        (0, (1,) * 65, (1,) * 65),
        (0, 3, 1),
    ],
)
def test_a_tensor_beyond_its_storage_is_damaged(offset: Any, shape: Any, strides: Any) -> None:
    with pytest.raises(DamagedError, match="tensor"):
        entry_of(tensor(offset, shape, strides))


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 9)), max_size=4), st.integers(0, 14))
def test_a_tensor_is_read_if_every_element_of_it_lies_in_its_storage(
    dims: list[tuple[int, int]], offset: int
) -> None:
    shape, strides = tuple(n for n, _ in dims), tuple(step for _, step in dims)
    places = (
        [offset + int(np.dot(place, strides)) for place in np.ndindex(shape)] if dims else [offset]
    )
    if all(place < 12 for place in places):
        found = entry_of(tensor(offset, shape, strides))
        assert found.spec.shape == shape
        in_order = places == list(range(offset, offset + len(places)))
        assert (found.strides is None) == in_order
    else:
        with pytest.raises(DamagedError, match="reaches to byte"):
            entry_of(tensor(offset, shape, strides))


def test_expanded_views_are_kept_within_a_limit() -> None:
    assert entry_of(tensor(0, (1000, 12), (0, 1))).strides == (0, 1)
    huge = entry_of(tensor(0, (2**40, 12), (0, 1)))
    assert isinstance(huge, RefusedEntry)
    assert "52,776,558,133,248 bytes over a storage of 48" in huge.why
    assert huge.spec == TensorSpec((2**40, 12), "float32")
    many = entry_of(tuple(tensor(0, (2**20,), (0,)) for _ in range(20)))
    assert 10 < sum(isinstance(entry, TensorEntry) for entry in many) < 20


def test_tensors_of_other_kinds() -> None:
    dense = tensor(0, (2,), (1,))
    utils = "torch._utils"
    parameter = entry_of(Called(utils, "_rebuild_parameter", dense, True, {}))
    assert (parameter.is_parameter, parameter.requires_grad) == (True, True)
    again = entry_of(Called(utils, "_rebuild_parameter_with_state", dense, False, {}, {"a": 1}))
    assert (again.is_parameter, again.requires_grad) == (True, False)
    subclass = Called(
        "torch._tensor",
        "_rebuild_from_type_v2",
        Reference(utils, "_rebuild_tensor_v2"),
        Reference("torchvision.tv_tensors", "Image"),
        dense.arguments,
        {},
    )
    assert entry_of(subclass) == entry_of(dense)
    flags = Called(utils, "_rebuild_tensor_v2", *dense.arguments, {"conj": True, "other": True})
    assert entry_of(flags).flags == {"conj"}
    third = Called(
        utils,
        "_rebuild_tensor_v3",
        Stored("UntypedStorage", "0", 48),
        0,
        (3,),
        (1,),
        True,
        {},
        Reference("torch", "float8_e5m2"),
    )
    assert entry_of(third).spec == TensorSpec((3,), "float8_e5m2")
    assert entry_of(third).requires_grad


def test_sparse_tensors() -> None:
    indices = tensor(0, (1, 2), (2, 1), "LongStorage")
    values = tensor(0, (2,), (1,))
    layout = Called("torch.serialization", "_get_layout", "torch.sparse_coo")
    call = Called("torch._utils", "_rebuild_sparse_tensor", layout, (indices, values, (5,), True))
    found = entry_of(call)
    assert (found.layout, found.is_coalesced) == ("sparse_coo", True)
    assert found.spec == TensorSpec((5,), "float32")
    assert set(found.parts) == {"indices", "values"}


@pytest.mark.parametrize(
    ("value", "why"),
    [
        (tensor(0, (2,), (1,), "QInt8Storage"), "quantised"),
        (
            Called(
                "torch._utils",
                "_rebuild_qtensor",
                Stored("QInt8Storage", "0", 4),
                0,
                (4,),
                (1,),
                (),
                0,
                {},
            ),
            r"quantised \(QInt8Storage\)",
        ),
        (Called("torch._utils", "_rebuild_nested_tensor", 1, 2, 3, 4), "nested"),
        (
            Called(
                "torch._utils",
                "_rebuild_meta_tensor_no_storage",
                Reference("torch", "half"),
                (9,),
                (1,),
                False,
            ),
            "meta",
        ),
        (
            Called("torch._utils", "_rebuild_tensor_v2", None, 0, (2,), (1,), False, {}),
            "not in the file",
        ),
    ],
)
def test_tensors_that_are_refused_one_by_one(value: Any, why: str) -> None:
    found = entry_of(value)
    assert isinstance(found, RefusedEntry)
    with pytest.raises(AssertionError, match=why):
        raise AssertionError(found.why)


def test_a_tensor_of_another_device_that_came_as_an_array() -> None:
    values = np.array([1.5, -2.0], np.float32)
    function = "_rebuild_device_tensor_from_numpy"
    kind = Reference("torch", "bfloat16")
    found = read(pickled(Called("torch._utils", function, values, kind, "xla:0", False))).value
    assert found.spec == TensorSpec((2,), "bfloat16")
    assert found.device == "xla:0"
    assert bytes(found.blob.view()) == b"\xc0\x3f\x00\xc0"


def test_variables_of_torch_before_0_4() -> None:
    made = opcodes(Called("torch.nn.parameter", "Parameter", tensor(0, (2,), (1,))))
    found = read(b"\x80\x02" + made + b"(\x89\x89Ntb.", stored).value
    assert found.is_parameter
    assert not found.requires_grad


def test_values_of_torch_are_names() -> None:
    assert entry_of(Reference("torch", "float")) == Name("dtype", "float32")
    assert entry_of(Called("torch", "device", "cuda", 1)) == Name("device", "cuda:1")
    assert entry_of(Called("torch", "Size", (1, 2))) == (1, 2)
    assert entry_of(Reference("torch", "channels_last")) == Name("memory_format", "channels_last")
    assert entry_of(Stored("HalfStorage", "0", 24)).tensor().spec == TensorSpec((24,), "float16")
    with pytest.raises(DamagedError, match="class of a storage"):
        entry_of(Stored("Linear", "0", 24))
