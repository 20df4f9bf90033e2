"""What ``torch.save`` writes is read back equal, bit for bit, without torch's reader."""

from __future__ import annotations

import collections
import dataclasses
import pickle
import struct
import warnings
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from luthier.errors import DamagedError, UnsupportedFileError
from luthier.files import tensors
from luthier.files.dtypes import DTYPES
from luthier.files.entries import Record, RefusedEntry, TensorEntry, walk
from luthier.files.opening import open_archive
from luthier.values import TensorSpec
from torch_by_hand import Rebuilt, Reference, legacy

# --- what torch writes ---------------------------------------------------------------------------

ALL_DTYPES = [getattr(torch, name) for name in DTYPES]
SHAPES = st.lists(st.integers(0, 4), max_size=3).map(tuple)


def filled(shape: tuple[int, ...], dtype: torch.dtype, seed: int) -> torch.Tensor:
    """Return a tensor of any bits: also of NaN, of infinity and of numbers below the normal."""
    generator = torch.Generator().manual_seed(seed)
    size = dtype.itemsize
    raw = torch.randint(0, 256, (*shape, size), dtype=torch.uint8, generator=generator)
    if dtype is torch.bool:
        raw %= 2
    return raw.view(dtype).view(shape)


@st.composite
def views(draw: st.DrawFn) -> torch.Tensor:
    """Draw a tensor, often a view: turned, in steps, expanded, conjugated, a parameter."""
    dtype, seed = draw(st.sampled_from(ALL_DTYPES)), draw(st.integers(0, 99))
    found = filled(draw(SHAPES), dtype, seed)
    kind = draw(st.sampled_from(["", "turned", "stepped", "expanded", "conj", "neg", "grad"]))
    if kind == "turned" and found.dim() > 1:
        return found.transpose(0, 1)
    if kind == "stepped" and found.dim():
        return found[1::2]
    if kind == "expanded":
        return found[None].expand(3, *found.shape)
    if kind == "conj" and dtype in (torch.complex64, torch.complex128):
        return found.conj()
    if kind == "neg" and dtype is torch.complex64:
        return found.conj().imag
    if kind == "grad" and dtype in (torch.float32, torch.float64):
        return torch.nn.Parameter(found, requires_grad=draw(st.booleans()))
    return found


KEYS = st.one_of(st.text(max_size=4), st.integers(-3, 300), st.booleans(), st.none())
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(allow_nan=False),
    st.complex_numbers(allow_nan=False),
    st.text(),
    st.binary(max_size=300),
    st.sampled_from(ALL_DTYPES),
    st.sampled_from([torch.device("cpu"), torch.device("cuda:1"), torch.device("meta")]),
    st.builds(slice, st.none() | st.integers(), st.integers(), st.none()),
    st.builds(range, st.integers(0, 9), st.integers(0, 9)),
    st.builds(torch.Size, st.lists(st.integers(0, 9), max_size=3)),
    st.frozensets(st.integers(0, 9), max_size=3),
    st.sets(st.text(max_size=2), max_size=3),
)
TREES = st.recursive(
    SCALARS | views(),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.lists(inner, max_size=3).map(tuple),
        st.dictionaries(KEYS | st.tuples(KEYS, KEYS), inner, max_size=4),
        st.dictionaries(st.text(max_size=5), inner, max_size=4).map(collections.OrderedDict),
    ),
    max_leaves=12,
)


def save(content: Any, path: Path, protocol: int = 2, is_zip: bool = True) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of its own storages
        torch.save(content, path, pickle_protocol=protocol, _use_new_zipfile_serialization=is_zip)
    return path


def read_back(path: Path) -> Any:
    return tensors.live(open_archive(path).content)


def bits(tensor: torch.Tensor) -> bytes:
    plain = tensor.detach().resolve_conj().resolve_neg().contiguous()
    return bytes(plain.reshape(-1).view(torch.uint8).tolist()) if plain.numel() else b""


def assert_same(found: Any, expected: Any) -> None:
    if isinstance(expected, torch.Tensor):
        assert isinstance(found, torch.nn.Parameter) == isinstance(expected, torch.nn.Parameter)
        assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
        if expected.numel():
            assert found.stride() == expected.stride() or expected.is_contiguous()
            # Of nothing there is nothing to be turned, and that it would be is not kept.
            assert (found.is_conj(), found.is_neg()) == (expected.is_conj(), expected.is_neg())
        assert found.requires_grad == expected.requires_grad
        assert bits(found) == bits(expected)
    elif isinstance(expected, dict):
        assert type(found) is dict
        assert list(map(repr, found)) == list(map(repr, expected))
        for one, other in zip(found.values(), expected.values(), strict=True):
            assert_same(one, other)
    elif isinstance(expected, list | tuple):
        assert type(found) is (list if isinstance(expected, list) else tuple)
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            assert_same(one, other)
    else:
        assert type(found) is type(expected)
        assert found == expected


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(content=TREES, protocol=st.integers(2, 5), is_zip=st.booleans())
def test_what_torch_saves_is_read_back_equal(
    tmp_path: Path, content: Any, protocol: int, is_zip: bool
) -> None:
    assert_same(read_back(save(content, tmp_path / "a", protocol, is_zip)), content)


@pytest.mark.parametrize("is_zip", [True, False])
@pytest.mark.parametrize("dtype", ALL_DTYPES, ids=str)
def test_every_dtype_gives_the_bits_that_were_saved(
    tmp_path: Path, dtype: torch.dtype, is_zip: bool
) -> None:
    path = save({"a": filled((3, 5), dtype, 1)}, tmp_path / "a", is_zip=is_zip)
    assert_same(read_back(path), {"a": filled((3, 5), dtype, 1)})


@pytest.mark.parametrize("is_zip", [True, False])
def test_what_was_shared_is_shared_again(tmp_path: Path, is_zip: bool) -> None:
    base = torch.arange(12.0)
    tied = torch.nn.Parameter(torch.ones(3))
    inner = ["x"]
    content = {"a": base, "b": base.view(3, 4)[:, 1], "again": base, "t": [tied, tied]}
    found = read_back(save({**content, "l": [inner, inner]}, tmp_path / "a", is_zip=is_zip))
    assert found["a"] is found["again"]
    assert found["t"][0] is found["t"][1]
    assert found["l"][0] is found["l"][1]
    found["a"][5] = 99.0
    assert found["b"][1] == 99.0
    assert found["a"].untyped_storage()._cdata == found["b"].untyped_storage()._cdata


@pytest.mark.parametrize("is_zip", [True, False])
def test_circles_are_circles_again(tmp_path: Path, is_zip: bool) -> None:
    top: list[Any] = [torch.ones(2)]
    named: dict[str, Any] = {"top": top}
    top.append((named, (top,)))
    found = read_back(save(top, tmp_path / "a", is_zip=is_zip))
    assert found[1][0]["top"] is found
    assert found[1][1][0] is found


def test_what_is_written_to_a_tensor_stays_in_memory(tmp_path: Path) -> None:
    path = save({"a": torch.zeros(1000)}, tmp_path / "a")
    before = path.read_bytes()
    archive = open_archive(path)
    tensors.tensor(archive.content["a"]).fill_(7)
    assert path.read_bytes() == before
    assert tensors.tensor(open_archive(path).content["a"]).sum() == 0


def test_tensors_are_mapped_and_not_copied(tmp_path: Path) -> None:
    path = save({"a": torch.arange(100.0)}, tmp_path / "a")
    entry = open_archive(path).content["a"]
    first, second = tensors.tensor(entry), tensors.tensor(entry)
    assert first.data_ptr() == second.data_ptr()
    view = entry.blob.view()
    view[:4] = struct.pack("<f", 5.0)
    assert first[0] == 5.0


@pytest.mark.parametrize("layout", ["coo", "csr", "csc", "bsr", "bsc"])
@pytest.mark.filterwarnings("ignore:Sparse .* tensor support is in beta")
def test_sparse_tensors(tmp_path: Path, layout: str) -> None:
    dense = torch.tensor([[0.0, 2.0, 0, 0], [3.0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 4.0, 5.0]])
    convert = getattr(dense, f"to_sparse_{layout}")
    sparse = convert((2, 2)) if layout.startswith("b") else convert()
    found = read_back(save({"a": sparse}, tmp_path / "a"))["a"]
    assert (found.layout, found.dtype) == (sparse.layout, sparse.dtype)
    assert torch.equal(found.to_dense(), dense)
    if layout == "coo":
        assert found.is_coalesced()


def test_indices_of_a_sparse_tensor_outside_of_it_are_damage(tmp_path: Path) -> None:
    sparse = torch.sparse_coo_tensor(
        torch.tensor([[7]]), torch.ones(1), (2,), check_invariants=False
    )
    entry = open_archive(save(sparse, tmp_path / "a")).content
    with pytest.raises(DamagedError, match="size is inconsistent with indices"):
        tensors.tensor(entry, "a")


@pytest.mark.parametrize("device", ["cuda:3", "mps:0", "xla:0", "hpu"])
@pytest.mark.parametrize("is_zip", [True, False])
def test_what_was_on_an_accelerator_is_read_on_a_cpu(
    tmp_path: Path, device: str, is_zip: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.serialization, "location_tag", lambda _: device)
    path = save({"a": torch.arange(4.0)}, tmp_path / "a", is_zip=is_zip)
    entry = open_archive(path).content["a"]
    assert entry.device == device
    assert tensors.tensor(entry).tolist() == [0, 1, 2, 3]


# A test of numbers that differ in every byte: turned round, they cannot be taken for each other.
@pytest.mark.parametrize("dtype", ALL_DTYPES, ids=str)
def test_big_endian_files(tmp_path: Path, dtype: torch.dtype) -> None:
    expected = filled((4, 3), dtype, 5)
    width = dtype.itemsize // 2 if dtype.is_complex else dtype.itemsize
    path = save({"a": expected, "b": expected[1:, 1]}, tmp_path / "little")
    turned = tmp_path / "big"
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(turned, "w") as new:
        for name in old.namelist():
            content = old.read(name)
            if name.endswith("byteorder"):
                content = b"big"
            if name.endswith("data/0"):
                content = b"".join(
                    content[at : at + width][::-1] for at in range(0, len(content), width)
                )
            new.writestr(name, content)
    archive = open_archive(turned)
    assert ("byte order", "big") in archive.facts
    assert_same(tensors.live(archive.content), {"a": expected, "b": expected[1:, 1]})
    found = tensors.live(archive.content)
    assert found["a"].untyped_storage()._cdata == found["b"].untyped_storage()._cdata


def test_a_storage_of_another_size_than_its_record_is_damage(tmp_path: Path) -> None:
    path = save({"a": torch.arange(4.0)}, tmp_path / "a")
    short = tmp_path / "b"
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(short, "w") as new:
        for name in old.namelist():
            content = old.read(name)
            new.writestr(name, content[:-4] if name.endswith("data/0") else content)
    with pytest.raises(DamagedError, match=r"'data/0' has 12 bytes.*4 elements"):
        open_archive(short)


def test_a_record_that_changed_is_found_when_it_is_used(tmp_path: Path) -> None:
    path = save({"a": torch.arange(4.0), "b": torch.ones(3)}, tmp_path / "a")
    content = path.read_bytes().replace(
        struct.pack("<4f", 0, 1, 2, 3), struct.pack("<4f", 0, 1, 2, 4)
    )
    path.write_bytes(content)
    archive = open_archive(path)
    named = tensors.Tensors(archive.content)
    assert named["b"].tolist() == [1, 1, 1]
    for _ in range(2):
        with pytest.raises(DamagedError, match="CRC-32"):
            named["a"]
    with pytest.raises(DamagedError, match="CRC-32"):
        archive.check()


def test_files_that_torch_was_told_to_write_without_checksums(tmp_path: Path) -> None:
    torch.serialization.set_crc32_options(False)
    try:
        path = save({"a": torch.arange(4.0)}, tmp_path / "a")
    finally:
        torch.serialization.set_crc32_options(True)
    archive = open_archive(path)
    archive.check()
    assert dict(archive.facts)["without a checksum"] == "7 of 7 records"
    assert tensors.tensor(archive.content["a"]).tolist() == [0, 1, 2, 3]


def test_refused_tensors_are_named() -> None:
    named = tensors.Tensors({"layer.weight": RefusedEntry("is quantised (QInt8Storage)")})
    with pytest.raises(UnsupportedFileError, match=r"tensor 'layer.weight' is quantised"):
        named["layer.weight"]


def test_a_tensor_outside_of_its_storage_is_damage(tmp_path: Path) -> None:
    entry = open_archive(save(torch.arange(4.0), tmp_path / "a")).content
    for wrong in (
        {"offset": 1},
        {"strides": (2,)},
        {"strides": (-1,)},
        {"offset": -1},
        {"strides": (1, 1)},
        {"spec": TensorSpec((5,), "float32")},
        {"spec": TensorSpec((-4,), "float32")},
    ):
        bad = dataclasses.replace(entry, **wrong)
        with pytest.raises(DamagedError, match="contradicts itself"):
            tensors.tensor(bad, "a")


# --- before torch 1.6 ----------------------------------------------------------------------------


def test_the_weights_of_torchvision_in_the_old_format(shared: Path) -> None:
    path = shared / "weights" / "mobilenet_v2-b0353104.pth"
    archive = open_archive(path)
    expected = torch.load(path, weights_only=True)
    assert archive.kind == "torch (before 1.6)"
    named = tensors.Tensors(archive.content)
    assert list(named) == list(expected)
    assert all(torch.equal(named[name], expected[name]) for name in expected)


def test_views_of_storages_as_old_files_have_them(tmp_path: Path) -> None:
    whole = ("storage", torch.FloatStorage, "7", "cpu", 6, None)
    part = ("storage", torch.FloatStorage, "7", "cpu", 6, ("8", 2, 3))
    raw = struct.pack("<q6f", 6, 0, 1, 2, 3, 4, 5)
    value = {
        "whole": Rebuilt(Reference(0), 0, (2, 3), (3, 1)),
        "part": Rebuilt(Reference(1), 1, (2,), (1,)),
    }
    path = tmp_path / "a"
    path.write_bytes(legacy([whole, part], raw, value, ["7"]))
    found = read_back(path)
    assert found["whole"].tolist() == [[0, 1, 2], [3, 4, 5]]
    assert found["part"].tolist() == [3, 4]


@pytest.mark.parametrize(
    ("raw", "keys", "message"),
    [
        (struct.pack("<q2f", 3, 0, 1), ["7"], "has 3 elements, expected 2"),
        (struct.pack("<q1f", 2, 0), ["7"], "its storages end at byte"),
        (struct.pack("<q2f", 2, 0, 1) + b"more", ["7"], "its storages end at byte"),
        (struct.pack("<q2f", 2, 0, 1), [], "the 0 storages that it lists are not the 1"),
        (struct.pack("<q2f", 2, 0, 1), ["8"], "are not the 1"),
        (struct.pack("<q2f", 2, 0, 1) * 2, ["7", "7"], "the 2 storages"),
        (b"", ["7"], "truncated"),
    ],
)
def test_old_files_that_contradict_themselves(
    tmp_path: Path, raw: bytes, keys: list[str], message: str
) -> None:
    storage = ("storage", torch.FloatStorage, "7", "cpu", 2, None)
    path = tmp_path / "a"
    path.write_bytes(legacy([storage], raw, Rebuilt(Reference(0), 0, (2,), (1,)), keys))
    with pytest.raises(DamagedError, match=message):
        open_archive(path)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_plain_pickles_with_tensors(tmp_path: Path, protocol: int) -> None:
    path = tmp_path / "a.pkl"
    content = {"w": torch.arange(3.0), "n": [1, "x"], "p": torch.nn.Parameter(torch.ones(2))}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        path.write_bytes(pickle.dumps(content, protocol=protocol))
    archive = open_archive(path)
    assert archive.kind == "pickle"
    assert_same(tensors.live(archive.content), content)


def test_records_stay_records_with_live_content(tmp_path: Path) -> None:
    path = save({"model": torch.nn.Linear(2, 2)}, tmp_path / "a")
    found = read_back(path)["model"]
    assert isinstance(found, Record)
    assert str(found.made_by) == "torch.nn.modules.linear.Linear"
    assert isinstance(found.state["_parameters"]["weight"], torch.nn.Parameter)
    assert not any(isinstance(value, TensorEntry) for _, value in walk(found))


class Doubled(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.arange(2.0))


def test_whole_modules_in_the_old_format_come_without_their_source(tmp_path: Path) -> None:
    archive = open_archive(save(Doubled(), tmp_path / "a", is_zip=False))
    assert str(archive.content.made_by).endswith("test_torch_files.Doubled")
    weight = archive.content.state["_parameters"]["weight"]
    assert tensors.tensor(weight).tolist() == [0, 1]


def test_long_bytes(tmp_path: Path) -> None:
    content = {"b": bytes(range(256)) * 1000}
    assert_same(read_back(save(content, tmp_path / "a", protocol=3)), content)


def test_storages_and_what_is_quantised(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        quantised = torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8)
    path = save({"s": torch.arange(3).untyped_storage(), "q": quantised}, tmp_path / "a")
    content = open_archive(path).content
    assert tensors.live(content["s"]).view(torch.int64).tolist() == [0, 1, 2]
    assert isinstance(content["q"], RefusedEntry)
    with pytest.raises(UnsupportedFileError, match=r"tensor 'q' is quantised \(QInt8Storage\)"):
        tensors.live(content)
