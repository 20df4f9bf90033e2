"""Opening: what a file is, is told by its content; every format gives what was written into it."""

from __future__ import annotations

import contextlib
import gzip
import json
import struct
import subprocess
import sys
import tarfile
import warnings
import zipfile
from pathlib import Path
from typing import Any

import gguf
import h5py
import numpy as np
import onnx
import pytest
import safetensors.torch
import torch
import torch.distributed.checkpoint
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper, numpy_helper

import luthier
from attack_runner import attack
from luthier.errors import DamagedError, LuthierError, MissingExtraError, UnsupportedFileError
from luthier.files import tensors
from luthier.files.contents.finite import count
from luthier.files.dtypes import DTYPES
from luthier.files.entries import RefusedEntry, TensorEntry
from luthier.files.formats import gguf as luthiers_gguf
from luthier.files.mapped import Held
from luthier.files.opening import open_archive
from luthier.report import Console
from luthier.values import TensorSpec

SMALL = {"a.weight": torch.arange(6.0).view(2, 3), "a.bias": torch.tensor([1, 2])}


def opened(path: Path) -> dict[str, torch.Tensor]:
    return dict(tensors.Tensors(open_archive(path).content))


def same(found: dict[str, torch.Tensor], expected: dict[str, Any]) -> bool:
    arrays = {name: np.asarray(value) for name, value in expected.items()}
    return found.keys() == arrays.keys() and all(
        np.array_equal(found[name].numpy(), array) and found[name].numpy().dtype == array.dtype
        for name, array in arrays.items()
    )


# --- what a file is -------------------------------------------------------------------------------


def write_tar(path: Path, name: str) -> None:
    (path.parent / name).write_bytes(b"x" * 2000)
    with tarfile.open(path, "w") as file:
        file.add(path.parent / name, name)


def write_zip(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("readme.txt", "hello")


NO_WEIGHTS = {
    "gzip": (lambda p: p.write_bytes(gzip.compress(b"x")), "compressed with gzip", "gunzip"),
    "zstandard": (lambda p: p.write_bytes(b"\x28\xb5\x2f\xfd123"), "zstandard", "unzstd"),
    "xz": (lambda p: p.write_bytes(b"\xfd7zXZ\x00..."), "compressed with xz", "unxz"),
    "bzip2": (lambda p: p.write_bytes(b"BZh91AY&SY"), "compressed with bzip2", "bunzip2"),
    "tar": (lambda p: write_tar(p, "model.pt"), "a tar archive", "tar -xf"),
    "tar of torch 0.3": (lambda p: write_tar(p, "sys_info"), "torch before 0.4", "state_dict"),
    "zip": (write_zip, "none that luthier knows: it holds readme.txt", "unzip"),
    "a page": (lambda p: p.write_text("\n<!DOCTYPE html><html>"), "a web page", "fetch it again"),
    "a pointer": (
        lambda p: p.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:ab\n"),
        "a pointer of Git LFS",
        "git lfs pull",
    ),
    "JSON": (lambda p: p.write_text('{"hidden_size": 3}'), "it holds hidden_size", "lies beside"),
    "text": (lambda p: p.write_text("Größe: 3\n"), "text, no weights file: .*'Größe: 3'", ""),
    "ggml": (lambda p: p.write_bytes(b"lmgg" + bytes(9)), "before GGUF", "convert it"),
    "TensorFlow": (lambda p: p.write_bytes(b"\x08\x01\x12\x05" + b"x" * 5), "SavedModel", "save"),
    "an image": (lambda p: p.write_bytes(b"\x89PNG\r\n\x1a\n123"), "a PNG image", "give a file"),
    "noise": (lambda p: p.write_bytes(b"\xf3\x91\x00\x07noise"), "begins with b'.xf3", "reads"),
}


@pytest.mark.parametrize("case", NO_WEIGHTS)
def test_what_is_no_weights_file_is_named_with_a_cure(tmp_path: Path, case: str) -> None:
    write, what, cure = NO_WEIGHTS[case]
    path = tmp_path / "weights.safetensors"
    write(path)
    with pytest.raises(UnsupportedFileError, match=what) as raised:
        open_archive(path)
    assert str(path) in raised.value.what
    assert cure in (raised.value.cure or "")


@pytest.mark.parametrize("content", [b"", bytes(5000)])
def test_a_file_of_nothing_is_damaged(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "w.pt").write_bytes(content)
    with pytest.raises(DamagedError, match=r"w\.pt (is empty|holds nothing but zeros)"):
        open_archive(tmp_path / "w.pt")


def test_names_do_not_matter(tmp_path: Path) -> None:
    for number, write in enumerate((tensors.write, lambda p, t: torch.save(t, p))):
        path = tmp_path / f"{number}.txt"
        write(path, SMALL)
        assert all(torch.equal(t, SMALL[n]) for n, t in opened(path).items())


def test_a_safetensors_header_of_any_length_is_no_other_format(tmp_path: Path) -> None:
    # The file begins with the length, whose bytes may look like a pickle's or a zip's.
    for wanted in (0x80, 0x180, 0x0580, 0x8B1F):
        header = b'{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}'.ljust(wanted)
        path = tmp_path / str(wanted)
        path.write_bytes(struct.pack("<Q", wanted) + header + b"!")
        assert opened(path) == {"a": torch.tensor([33], dtype=torch.uint8)}


# --- safetensors ----------------------------------------------------------------------------------


@given(
    st.dictionaries(
        st.text(max_size=8).filter(lambda n: n != "__metadata__"),
        st.tuples(
            st.sampled_from([d for d in DTYPES.values() if d.safetensors]),
            st.lists(st.integers(0, 3), max_size=3),
        ),
        max_size=5,
    )
)
def test_safetensors_of_every_dtype_is_read_back(
    tmp_path_factory: pytest.TempPathFactory, described: dict[str, Any]
) -> None:
    path = tmp_path_factory.mktemp("st") / "w.safetensors"
    named = {}
    for name, (dtype, shape) in described.items():
        raw = torch.randint(0, 2, (*shape, dtype.itemsize), dtype=torch.uint8)
        named[name] = raw.view(getattr(torch, dtype.name)).reshape(shape)
    safetensors.torch.save_file(named, path)
    found = opened(path)
    assert found.keys() == named.keys()
    for name, tensor in named.items():
        assert found[name].dtype == tensor.dtype
        assert found[name].shape == tensor.shape
        bits = found[name].reshape(-1).view(torch.uint8)
        assert torch.equal(bits, tensor.reshape(-1).view(torch.uint8))


def test_elements_of_less_than_a_byte_are_refused_by_name(tmp_path: Path) -> None:
    header = b'{"w":{"dtype":"F4","shape":[4],"data_offsets":[0,2]}}'
    (tmp_path / "w").write_bytes(struct.pack("<Q", len(header)) + header + b"!!")
    with pytest.raises(UnsupportedFileError, match=r"tensor 'w' has elements of 4 bits \(F4\)"):
        opened(tmp_path / "w")


# --- several files --------------------------------------------------------------------------------


def write_shards(folder: Path, suffix: str = "safetensors") -> Path:
    names = {f"shard-{i}.{suffix}": {n: t} for i, (n, t) in enumerate(SMALL.items())}
    for name, content in names.items():
        if suffix == "bin":
            torch.save(content, folder / name)
        else:
            tensors.write(folder / name, content)
    where = {tensor: name for name, content in names.items() for tensor in content}
    index = folder / ("model.safetensors" if suffix == "safetensors" else "pytorch_model.bin")
    index = index.with_name(index.name + ".index.json")
    index.write_text(json.dumps({"metadata": {"total_size": 40}, "weight_map": where}))
    return index


@pytest.mark.parametrize("suffix", ["safetensors", "bin"])
def test_shards_are_read_through_their_index_or_their_folder(tmp_path: Path, suffix: str) -> None:
    index = write_shards(tmp_path, suffix)
    for path in (index, tmp_path):
        found = opened(path)
        assert all(torch.equal(found[name], tensor) for name, tensor in SMALL.items())
        assert open_archive(path).kind.startswith("sharded ")
    assert open_archive(index).sha256 == "", "the index alone says nothing of the weights"


def test_a_large_index_is_read_where_its_shards_are_large(tmp_path: Path) -> None:
    where = {f"layers.{number}.weight": "shard" for number in range(150_000)}
    (tmp_path / "x.index.json").write_text(json.dumps({"weight_map": where}))
    with pytest.raises(DamagedError, match=r"bytes of memory, and .* are allowed"):
        open_archive(tmp_path / "x.index.json")
    with (tmp_path / "shard").open("wb") as file:
        file.truncate(200_000_000)
    with pytest.raises(DamagedError, match="shard holds nothing but zeros"):
        open_archive(tmp_path / "x.index.json")


def test_a_shard_that_is_missing_or_lacks_a_tensor_is_named(tmp_path: Path) -> None:
    index = write_shards(tmp_path)
    tensors.write(tmp_path / "shard-1.safetensors", {"other": torch.ones(1)})
    with pytest.raises(DamagedError, match=r"'a\.bias' is not in shard-1\.safetensors"):
        open_archive(index)
    (tmp_path / "shard-1.safetensors").unlink()
    with pytest.raises(DamagedError, match=r"shard-1\.safetensors, which is missing\n  fetch it"):
        open_archive(index)


def test_what_an_index_leaves_out_is_told(tmp_path: Path) -> None:
    index = write_shards(tmp_path)
    tensors.write(tmp_path / "shard-1.safetensors", {**SMALL, "more": torch.ones(1)})
    archive = open_archive(index)
    assert archive.content.keys() == SMALL.keys()
    assert "more" in dict(archive.facts)["in the shards, but not in the index"]


def test_links_of_the_hubs_cache_are_followed(tmp_path: Path) -> None:
    blobs, snapshot = tmp_path / "m" / "blobs", tmp_path / "m" / "snapshots" / "abc"
    for folder in (blobs, snapshot):
        folder.mkdir(parents=True)
    index = write_shards(blobs)
    for path in list(blobs.iterdir()):
        (snapshot / path.name).symlink_to(Path("..") / ".." / "blobs" / path.name)
    assert opened(snapshot / index.name).keys() == SMALL.keys()
    assert opened(snapshot).keys() == SMALL.keys()


def test_a_folder_is_the_weights_in_it(tmp_path: Path) -> None:
    tensors.write(tmp_path / "model.safetensors", SMALL)
    torch.save({"state": {}}, tmp_path / "optimizer.pt")
    (tmp_path / "trainer_state.json").write_text("{}")
    archive = open_archive(tmp_path)
    assert archive.path == tmp_path / "model.safetensors"
    assert dict(archive.facts)["in the folder of"] == "Hugging Face Trainer"
    assert "optimizer.pt" in dict(archive.facts)["beside it"]


def test_a_folder_with_several_unknown_files_of_weights_asks_which(tmp_path: Path) -> None:
    for name in ("one.pt", "two.pt"):
        torch.save(SMALL, tmp_path / name)
    with pytest.raises(UnsupportedFileError, match=r"one\.pt, two\.pt\n  give one of them"):
        open_archive(tmp_path)
    (tmp_path / "two.pt").unlink()
    assert opened(tmp_path).keys() == SMALL.keys()


def test_a_checkpoint_of_luthier_is_its_parts(tmp_path: Path) -> None:
    model = torch.nn.Linear(2, 1)
    optimizer = torch.optim.Adam(model.parameters())
    with luthier.Run(
        tmp_path / "run",
        save_every="1 steps",
        console=Console(quiet=True),
        model=model,
        optimizer=optimizer,
    ) as loop:
        for _step in loop.steps(1):
            model(torch.ones(1, 2)).sum().backward()
            optimizer.step()
    with pytest.raises(UnsupportedFileError, match=r"a run of luthier: give .*step-00000001"):
        open_archive(tmp_path / "run")
    path = tmp_path / "run" / "checkpoints" / "step-00000001"
    archive = open_archive(path)
    archive.check()
    assert archive.kind == "luthier checkpoint"
    assert torch.equal(tensors.weights(archive)["weight"], model.weight)
    assert archive.content["optimizer"].keys()
    assert archive.metadata["step"] == 1
    content = bytearray((path / "optimizer.safetensors").read_bytes())
    content[-1] ^= 1
    (path / "optimizer.safetensors").write_bytes(content)
    with pytest.raises(DamagedError, match=r"optimizer\.safetensors has another SHA-256"):
        open_archive(path).check()


def test_a_distributed_checkpoint_is_opened_by_its_folder(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch says that no process group is there
        torch.distributed.checkpoint.save({"model": SMALL}, checkpoint_id=tmp_path / "dcp")
    found = tensors.weights(open_archive(tmp_path / "dcp"))
    assert all(torch.equal(found[name], tensor) for name, tensor in SMALL.items())
    with pytest.raises(UnsupportedFileError, match="give a folder in it: dcp"):
        open_archive(tmp_path)


# --- live tensors in place of a file --------------------------------------------------------------


def test_live_tensors_are_given_as_a_file_would_be() -> None:
    base = torch.arange(12.0).view(3, 4)
    named = {
        "tied": torch.nn.Parameter(base),
        "view": base.t()[1:, ::2],
        "conjugate": torch.tensor([1 + 2j]).conj(),
        "empty": torch.ones(0, 3),
        "half": torch.ones(2, dtype=torch.bfloat16),
    }
    archive = tensors.archive_of(named, Path("timm/x"), "timm")
    found = tensors.weights(archive)
    assert list(found) == list(named)
    for name, tensor in named.items():
        assert torch.equal(found[name], tensor.detach())
        assert found[name].stride() == tensor.stride()
    assert found["tied"].data_ptr() == base.data_ptr(), "nothing is copied"
    assert (archive.sha256, archive.kind) == ("", "timm")


# --- numpy ----------------------------------------------------------------------------------------

ARRAYS = {
    "plain": np.arange(6.0).reshape(2, 3),
    "fortran": np.asfortranarray(np.arange(24, dtype="f4").reshape(2, 3, 4)),
    "scalar": np.float16(3),
    "empty": np.zeros((0, 3), "i8"),
    "flags": np.array([True, False]),
    "complex": np.array([1 + 2j], "c8"),
}


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_npz_is_read_back(tmp_path: Path, save: Any) -> None:
    save(tmp_path / "w.npz", **ARRAYS)
    open_archive(tmp_path / "w.npz").check()
    assert same(opened(tmp_path / "w.npz"), ARRAYS)


def test_npy_is_one_array_and_may_be_of_the_other_byte_order(tmp_path: Path) -> None:
    for dtype in (">f4", ">i8", ">u2", ">c16", ">f8"):
        array = np.array([[1, 2], [3, -4]]).astype(dtype)
        np.save(tmp_path / "w.npy", array)
        entry = open_archive(tmp_path / "w.npy").content
        assert isinstance(entry, TensorEntry)
        assert np.array_equal(tensors.tensor(entry).numpy(), array)


def test_arrays_that_are_no_tensors_are_refused_by_what_they_hold(tmp_path: Path) -> None:
    odd = {
        "texts": np.array(["a"]),
        "objects": np.array([1, "a"], object),
        "records": np.zeros(2, [("a", "f4")]),
        "dates": np.array(["2020-01-01"], "M8[D]"),
        "dtype": np.ones(2, np.longdouble),
    }
    np.savez(tmp_path / "w.npz", **odd)
    for name, entry in open_archive(tmp_path / "w.npz").content.items():
        assert isinstance(entry, RefusedEntry)
        assert name in entry.why


@given(st.binary(max_size=100))
def test_a_header_of_numpys_is_matched_or_damaged(
    tmp_path_factory: pytest.TempPathFactory, text: bytes
) -> None:
    path = tmp_path_factory.mktemp("npy") / "w.npy"
    path.write_bytes(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text)
    with pytest.raises(DamagedError, match="is truncated or damaged"):
        open_archive(path)


# --- ONNX, GGUF, HDF5 -----------------------------------------------------------------------------


def test_onnx_initialisers_are_read_as_the_package_reads_them(tmp_path: Path) -> None:
    made = [numpy_helper.from_array(np.arange(6).astype(t), t) for t in ("f4", "f2", "i8", "u1")]
    typed = (("INT64", [1, -2, 300]), ("FLOAT16", [1.5, -2.0]), ("BOOL", [True, False]))
    typed += (("FLOAT", [0.5]), ("INT8", [-1, 3]), ("DOUBLE", [0.1]), ("UINT64", [2**63]))
    for name, values in typed:  # as lists of numbers, not as bytes
        kind = onnx.TensorProto.DataType.Value(name)
        made.append(helper.make_tensor(name, kind, [len(values)], values))
    model = helper.make_model(
        helper.make_graph([], "g", [], [], made), producer_name="pytorch", producer_version="2.9"
    )
    expected = {one.name: numpy_helper.to_array(one) for one in made}
    onnx.save(model, tmp_path / "m.onnx")
    assert same(opened(tmp_path / "m.onnx"), expected)
    assert open_archive(tmp_path / "m.onnx").facts == (("written by", "pytorch 2.9"),)
    outside = {"save_as_external_data": True, "location": "m.data", "size_threshold": 0}
    onnx.save(model, tmp_path / "e.onnx", **outside)
    assert (tmp_path / "m.data").exists()
    assert same(opened(tmp_path / "e.onnx"), expected)


@pytest.mark.parametrize("endian", [gguf.GGUFEndian.LITTLE, gguf.GGUFEndian.BIG])
def test_gguf_is_read_in_either_byte_order(tmp_path: Path, endian: gguf.GGUFEndian) -> None:
    path = tmp_path / "m.gguf"
    arrays = {t: np.arange(6).astype(t).reshape(2, 3) for t in ("f4", "f2", "i4", "i1", "f8")}
    writer = gguf.GGUFWriter(path, "llama", endianess=endian)
    writer.add_token_list(["a", "bc"] * 10)
    writer.add_description("words")
    for name, array in arrays.items():
        writer.add_tensor(name, array.copy())
    blocks = gguf.GGMLQuantizationType.Q8_0
    writer.add_tensor("packed", np.zeros((2, 34), np.uint8), raw_dtype=blocks)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    archive = open_archive(path)
    refused = archive.content.pop("packed")
    assert refused == RefusedEntry("is quantised (Q8_0)", TensorSpec((2, 32), "Q8_0"))
    assert same(dict(tensors.Tensors(archive.content)), arrays)
    facts = dict(archive.facts)
    assert facts["general.description"] == "words"
    assert facts["tokenizer.ggml.tokens"] == "an array of 20"


def test_the_sizes_of_ggufs_blocks_are_those_of_llama_cpp() -> None:
    theirs = {int(kind): sizes for kind, sizes in gguf.GGML_QUANT_SIZES.items()}
    ours = {
        kind: (elements, nbytes) for kind, (_, elements, nbytes) in luthiers_gguf._BLOCKS.items()
    }
    plain = {kind: (1, DTYPES[name].itemsize) for kind, name in luthiers_gguf._DTYPES.items()}
    assert ours | plain == theirs


def test_hdf5_of_keras_is_read_by_path(tmp_path: Path) -> None:
    packed = np.arange(1000, dtype=">i4").reshape(10, 100)
    with h5py.File(tmp_path / "m.h5", "w") as file:
        file.attrs["keras_version"] = "3.1"
        group = file.create_group("model_weights/dense")
        group["kernel:0"] = np.ones((3, 4), "f4")
        group.create_dataset("packed", data=packed, compression="gzip", chunks=(2, 50))
        group.create_dataset("unwritten", (3,), "f8")
        file["again"] = file["model_weights"]  # a second name, and so a circle could be
        group["top"] = file["/"]
    archive = open_archive(tmp_path / "m.h5")
    found = {name.rpartition("/")[2]: t for name, t in tensors.Tensors(archive.content).items()}
    expected = {"kernel:0": np.ones((3, 4), "f4"), "packed": packed.astype("i4")}
    assert same(found, expected | {"unwritten": np.zeros(3)})
    assert archive.facts == (("keras_version", "3.1"),)


def test_without_h5py_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with h5py.File(tmp_path / "m.h5", "w") as file:
        file["a"] = [1.0]
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'luthier\[hdf5\]'"):
        open_archive(tmp_path / "m.h5")


def written(kind: str, path: Path) -> None:
    if kind == "onnx":
        one = numpy_helper.from_array(np.arange(6.0), "a")
        onnx.save(helper.make_model(helper.make_graph([], "g", [], [], [one])), path)
    elif kind == "gguf":
        tensor = struct.pack("<Q", 1) + b"a" + struct.pack("<IQIQ", 1, 4, 0, 0)
        path.write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 1, 0) + tensor + bytes(7 + 64))
    elif kind == "npz":
        np.savez(path.with_suffix(".npz"), a=np.arange(6.0))
        path.with_suffix(".npz").rename(path)
    else:
        tensors.write(path, SMALL)


@pytest.mark.parametrize("kind", ["onnx", "gguf", "npz", "safetensors"])
def test_every_truncation_and_every_flipped_byte_ends_in_a_result_or_our_error(
    tmp_path: Path, kind: str
) -> None:
    path = tmp_path / "w"
    written(kind, path)
    whole = path.read_bytes()
    changed = [whole[:length] for length in range(len(whole))]
    changed += [whole[:i] + bytes([whole[i] ^ 0xFF]) + whole[i + 1 :] for i in range(len(whole))]
    messages = []
    for content in changed:
        path.write_bytes(content)
        try:
            archive = open_archive(path)
            archive.check()
            for entry in archive.content.values():
                if isinstance(entry, TensorEntry):
                    entry.blob.view()
        except LuthierError as error:
            messages.append(error.what)
    assert len(messages) > len(whole), "every truncation, and a few of the flips"
    assert all(str(path) in message for message in messages)


BEGINNINGS = [
    b"",
    b"\x93NUMPY\x01\x00",
    b"GGUF\x03\x00\x00\x00",
    b"\x08\x08\x12\x01x\x3a",
    b"\x80\x02",
    b"PK\x03\x04",
    b"\x40\x00\x00\x00\x00\x00\x00\x00{",
    b'{"weight_map": {',
    b"(dp0\n",
]


@settings(max_examples=300)
@given(st.sampled_from(BEGINNINGS), st.binary(max_size=200), st.sampled_from([b"", b".", b"}}"]))
def test_whatever_the_bytes_are_opening_ends_in_a_result_or_our_error(
    tmp_path_factory: pytest.TempPathFactory, start: bytes, middle: bytes, end: bytes
) -> None:
    path = tmp_path_factory.getbasetemp() / "any"
    path.write_bytes(start + middle + end)
    with contextlib.suppress(LuthierError):
        open_archive(path).check()


# --- attacks --------------------------------------------------------------------------------------

ANSWERS = {
    "file_device": "is no file but a device",
    "file_pipe": "is no file but a named pipe",
    "gguf_array": "bytes are expected at byte",
    "gguf_counts": "1152921504606846976 tensors and .* keys in 1024 bytes",
    "gguf_outside": "ends at byte",
    "gguf_overlap": "'a' and 'b' overlap",
    "hdf5_of_nothing": "would take 1099511627776 bytes",
    "json_deep": "could take up .* bytes of memory",
    "npy_code_in_header": "its header is",
    "npy_deep_header": "its header is",
    "npy_huge_shape": "larger than any tensor's",
    "npz_inflating": "over the limit",
    "onnx_data_above": "no file in the same folder",
    "onnx_many_numbers": "would take 160000000 bytes",
    "safetensors_deep_header": "nested too deeply|bytes of memory",
    "safetensors_empty_and_huge": "larger than any tensor's",
    "safetensors_gap": "'b' begins at byte 8 of the data, expected 4",
    "safetensors_header_length": "a header of 9223372036854775807 bytes in a file of 13",
    "safetensors_huge_number": "a number of thousands of digits",
    "safetensors_long_header": "the format allows 100000000",
    "safetensors_many_values": "could take up .* bytes of memory",
    "safetensors_negative_shape": r"has the shape \[-2, -4\]",
    "safetensors_no_numbers": r"has the shape \[True\]",
    "safetensors_offset_overflow": "which is no place",
    "safetensors_overlap": "'b' begins at byte 4 of the data, expected 8",
    "safetensors_same_name_twice": "the name 'a' is there twice",
    "safetensors_shape_overflow": "larger than any tensor's",
    "shard_above": "expected the name of a file in the same folder",
    "shard_absolute": "expected the name of a file in the same folder",
    "shard_device": "a link to /dev/zero, out of the folder",
    "shard_index_of_itself": "is named as a shard, and is JSON",
    "shard_link_out": "a link to .*secret.*, out of the folder",
    "shard_pipe": "shard.safetensors is no file but a named pipe",
}
REFUSED = {
    "hdf5_data_elsewhere": ("a", "has its numbers in another file"),
    "hdf5_link_out": ("a", "is a link to somewhere else"),
    "npz_objects": ("payload", "holds objects of Python"),
}


@pytest.mark.parametrize("name", ANSWERS)
def test_an_attack_is_answered_with_what_is_wrong(tmp_path: Path, name: str) -> None:
    path, marker = attack(name, tmp_path)
    with pytest.raises((DamagedError, UnsupportedFileError), match=ANSWERS[name]):
        open_archive(path).check()
    assert not marker.exists()


@pytest.mark.parametrize("name", REFUSED)
def test_beside_an_attack_the_rest_is_read(tmp_path: Path, name: str) -> None:
    path, marker = attack(name, tmp_path)
    content = open_archive(path).content
    refused, why = REFUSED[name]
    assert why in content[refused].why
    assert tensors.tensor(content["sound"]).sum() > 0
    assert not marker.exists()


# --- without torch --------------------------------------------------------------------------------

LOOK = """
import sys
from pathlib import Path
from luthier.files.opening import open_archive
from luthier.run.verify import verify
for path in map(Path, sys.argv[1:]):
    assert open_archive(path).content
    assert "torch" not in sys.modules, path
    assert "numpy" not in sys.modules, path
for path in map(Path, sys.argv[1:]):
    assert verify(path).sound
    assert "torch" not in sys.modules, path
"""


def test_files_are_opened_and_verified_without_torch(tmp_path: Path) -> None:
    paths = [tmp_path / f"w.{kind}" for kind in ("safetensors", "npz", "onnx", "gguf")]
    for path in paths:
        written(path.suffix[1:], path)
    torch.save(SMALL, tmp_path / "zip.pt")
    torch.save(SMALL, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    paths += [tmp_path / "zip.pt", tmp_path / "old.pt"]
    subprocess.run([sys.executable, "-c", LOOK, *map(str, paths)], check=True)


# --- numbers that are not finite ------------------------------------------------------------------

FLOATS = [d for d in DTYPES.values() if d.name.startswith(("float", "bfloat", "complex"))]
FLOATS = [d for d in FLOATS if d.name != "complex32"]  # with which torch itself does little


@pytest.mark.parametrize("dtype", FLOATS, ids=lambda dtype: dtype.name)
def test_nan_and_infinity_are_counted_as_torch_does(dtype: Any) -> None:
    raw = torch.randint(0, 256, (3000, dtype.itemsize), dtype=torch.uint8)
    flat = raw.view(getattr(torch, dtype.name)).reshape(-1)
    if dtype.itemsize > 2 or dtype.name.startswith("complex"):  # by chance there would be few
        flat[::7], flat[::11] = float("inf"), float("nan")
    parts = torch.view_as_real(flat) if flat.is_complex() else flat
    parts = parts.double()
    blob = Held(bytearray(flat.view(torch.uint8).numpy().tobytes()))
    whole = TensorEntry(TensorSpec((30, 100), dtype.name), blob)
    assert count(whole) == (int(parts.isnan().sum()), int(parts.isinf().sum()))
    view = TensorEntry(TensorSpec((30, 5, 10), dtype.name), blob, offset=3, strides=(1, 0, 90))
    steps = (2, 180, 1) if flat.is_complex() else (1, 90)
    shape = (30, 10, 2) if flat.is_complex() else (30, 10)
    shown = parts.as_strided(shape, steps, 6 if flat.is_complex() else 3)
    assert count(view) == (int(shown.isnan().sum()), int(shown.isinf().sum()))
