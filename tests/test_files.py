"""Files: tensors go through to the bit, damage is noticed, no code runs, nothing is half there."""

from __future__ import annotations

import json
import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from safetensors import safe_open

from luthier.errors import (
    DamagedError,
    LuthierError,
    UnsupportedFileError,
    UnsupportedStateError,
)
from luthier.files import durable, tensors
from luthier.files.contents.candidates import suspicious
from luthier.files.entries import Record
from luthier.files.opening import open_archive

DTYPES = [
    torch.float64,
    torch.float32,
    torch.float16,
    torch.bfloat16,
    torch.float8_e4m3fn,
    torch.float8_e5m2,
    torch.complex64,
    torch.int64,
    torch.int32,
    torch.int16,
    torch.int8,
    torch.uint64,
    torch.uint32,
    torch.uint16,
    torch.uint8,
    torch.bool,
]


def random_bits(dtype: torch.dtype, *shape: int) -> torch.Tensor:
    """Give a tensor of random bits, NaNs and all (true and false for bool)."""
    generator = torch.Generator().manual_seed(1)
    if dtype is torch.bool:
        return torch.randint(0, 2, shape, generator=generator).bool()
    size = torch.empty((), dtype=dtype).element_size()
    flat = torch.randint(0, 256, (*shape, size), dtype=torch.uint8, generator=generator)
    return flat.view(dtype).reshape(shape)


def bits(tensor: torch.Tensor) -> tuple[torch.dtype, tuple[int, ...], bytes]:
    plain = tensor.detach().clone(memory_format=torch.contiguous_format)
    raw = plain.reshape(-1).view(torch.uint8).numpy().tobytes()
    return tensor.dtype, tuple(tensor.shape), raw


def all_bits(named: Any) -> dict[str, Any]:
    return {name: bits(tensor) for name, tensor in named.items()}


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_dtype_is_read_by_safetensors_to_the_bit(tmp_path: Path, dtype: torch.dtype) -> None:
    path = tmp_path / "t.safetensors"
    named = {
        "scalar": random_bits(dtype),
        "empty": random_bits(dtype, 0, 3),
        "odd": random_bits(dtype, 3),
        "wide": random_bits(dtype, 2, 3, 5),
    }
    tensors.write(path, named)
    assert all_bits(safetensors.torch.load_file(path)) == all_bits(named)
    archive = open_archive(path)
    assert all_bits(tensors.weights(archive)) == all_bits(named)
    assert archive.kind == "safetensors"
    assert archive.sha256 == durable.sha256(path)


def test_dtypes_beside_each_other_stay_aligned(tmp_path: Path) -> None:
    path = tmp_path / "t.safetensors"
    named = {f"{i:02d}": random_bits(dtype, 3) for i, dtype in enumerate(reversed(DTYPES))}
    tensors.write(path, named)
    assert all_bits(safetensors.torch.load_file(path)) == all_bits(named)
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    assert length % 8 == 0
    header = json.loads(content[8 : 8 + length])
    for name, tensor in named.items():
        assert header[name]["data_offsets"][0] % tensor.element_size() == 0


def test_views_of_all_kinds_are_written_as_what_they_show(tmp_path: Path) -> None:
    path = tmp_path / "t.safetensors"
    base = torch.arange(2 * 3 * 4 * 5, dtype=torch.float32).reshape(2, 3, 4, 5)
    named = {
        "base": base,
        "same storage": base,
        "slice": base[1, :, ::2],
        "transposed": base.transpose(0, 3),
        "channels_last": base.to(memory_format=torch.channels_last),
        "expanded": torch.ones(1).expand(3, 2),
        "parameter": torch.nn.Parameter(base[0]),
        "conjugate": torch.tensor([1 + 2j, 3 - 4j]).conj(),
    }
    tensors.write(path, named)
    expected = {n: t.detach().resolve_conj().contiguous() for n, t in named.items()}
    assert all_bits(safetensors.torch.load_file(path)) == all_bits(expected)


def test_the_same_tensors_give_the_same_bytes(tmp_path: Path) -> None:
    named = {"b": torch.ones(2, 3), "a": torch.zeros(4, dtype=torch.int8), "ü": torch.ones(())}
    about = {"y": [1, 2], "x": {"b": 0.1, "a": None}}
    tensors.write(tmp_path / "1", named, about)
    backwards = dict(reversed(named.items()))
    tensors.write(tmp_path / "2", backwards, dict(reversed(about.items())))
    tensors.write_in_place(tmp_path / "3", named, about)
    contents = [(tmp_path / name).read_bytes() for name in "123"]
    assert contents[0] == contents[1] == contents[2]


def test_metadata_comes_back(tmp_path: Path) -> None:
    path = tmp_path / "t.safetensors"
    about = {"classes": ["ants", "bees", "Hornisse ü"], "mean": [0.1, 0.2], "deep": {"none": None}}
    tensors.write(path, {"a": torch.ones(1)}, about)
    assert open_archive(path).metadata == about
    with safe_open(path, framework="pt") as file:
        assert file.metadata()["format"] == "pt"
    tensors.write(path, {"a": torch.ones(1)})
    assert open_archive(path).metadata == {}


def test_foreign_metadata_that_is_no_description_is_no_surprise(tmp_path: Path) -> None:
    path = tmp_path / "t.safetensors"
    safetensors.torch.save_file({"a": torch.ones(1)}, path, {"luthier": "[1, 2]", "other": "x"})
    with pytest.raises(DamagedError, match=r"t\.safetensors"):
        open_archive(path)
    safetensors.torch.save_file({"a": torch.ones(1)}, path, {"other": "x"})
    assert open_archive(path).metadata == {}


def test_a_dtype_that_safetensors_lacks_is_an_error_and_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "t.safetensors"
    tensors.write(path, {"a": torch.ones(1)})
    with pytest.raises(UnsupportedStateError, match=r"'b' is torch\.complex128"):
        tensors.write(path, {"a": torch.zeros(1), "b": torch.ones(1, dtype=torch.complex128)})
    assert tensors.weights(open_archive(path))["a"] == 1
    assert [p.name for p in tmp_path.iterdir()] == ["t.safetensors"]


SMALL = {
    "fc.weight": torch.arange(6, dtype=torch.float32).reshape(2, 3),
    "fc.bias": torch.tensor([1.5, -2.0], dtype=torch.bfloat16),
    "steps": torch.tensor(7),
}


def save_safetensors(path: Path) -> None:
    tensors.write(path, SMALL, {"classes": ["a", "b"]})


def save_zip(path: Path) -> None:
    torch.save(SMALL, path)


def save_legacy(path: Path) -> None:
    torch.save(SMALL, path, _use_new_zipfile_serialization=False)


FORMATS = [save_safetensors, save_zip, save_legacy]


def read_or_refusal(path: Path) -> dict[str, Any] | None:
    """Read; None if it was refused as it should be. Any other exception goes through."""
    try:
        return all_bits(tensors.weights(open_archive(path)))
    except (DamagedError, UnsupportedFileError):
        return None


@pytest.mark.parametrize("save", FORMATS)
def test_every_truncation_is_noticed(tmp_path: Path, save: Callable[[Path], None]) -> None:
    path = tmp_path / "whole"
    save(path)
    whole = path.read_bytes()
    assert read_or_refusal(path) == all_bits(SMALL)
    cut = tmp_path / "cut"
    for length in range(0, len(whole), 1 if len(whole) < 1000 else 2):
        cut.write_bytes(whole[:length])
        found = read_or_refusal(cut)
        assert found in (None, all_bits(SMALL)), f"cut to {length} of {len(whole)} bytes"
        assert found is None or save is not save_safetensors


def test_a_changed_bit_in_a_safetensors_header_gives_no_other_shapes(tmp_path: Path) -> None:
    path = tmp_path / "t.safetensors"
    save_safetensors(path)
    whole = path.read_bytes()
    header = 8 + int.from_bytes(whole[:8], "little")
    shapes = sorted(tuple(t.shape) for t in SMALL.values())
    data = sorted(raw for _, _, raw in all_bits(SMALL).values())
    refused = 0
    for bit in range(0, 8 * header, 3):  # 3 and 8 have no common factor
        content = bytearray(whole)
        content[bit // 8] ^= 1 << bit % 8
        path.write_bytes(content)
        found = read_or_refusal(path)
        refused += found is None
        if found is not None:  # a name or a letter of the metadata
            assert sorted(shape for _, shape, _ in found.values()) == shapes
            assert sorted(raw for _, _, raw in found.values()) == data
    assert refused > header


def test_a_changed_bit_in_a_torch_zip_is_noticed_or_has_no_effect(tmp_path: Path) -> None:
    path = tmp_path / "t.pt"
    save_zip(path)
    whole = path.read_bytes()
    for bit in range(0, 8 * len(whole), 5):
        content = bytearray(whole)
        content[bit // 8] ^= 1 << bit % 8
        path.write_bytes(content)
        assert read_or_refusal(path) in (None, all_bits(SMALL)), f"bit {bit}"


def test_a_changed_bit_in_a_legacy_file_raises_nothing_unforeseen(tmp_path: Path) -> None:
    path = tmp_path / "t.pt"
    save_legacy(path)
    whole = path.read_bytes()
    refused = 0
    for bit in range(0, 8 * len(whole), 3):
        content = bytearray(whole)
        content[bit // 8] ^= 1 << bit % 8
        path.write_bytes(content)
        refused += read_or_refusal(path) is None
    assert refused > 100


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("under", [None, "state_dict", "model_state_dict", "model", "net"])
def test_a_state_dict_of_torch_is_read(tmp_path: Path, zipped: bool, under: str | None) -> None:
    path = tmp_path / "no particular name"
    content = SMALL if under is None else {"epoch": 3, under: SMALL}
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    archive = open_archive(path)
    assert all_bits(tensors.weights(archive)) == all_bits(SMALL)
    kind = "torch" if zipped else "torch (before 1.6)"
    assert (archive.kind, archive.metadata) == (kind, {})
    assert archive.sha256 == durable.sha256(path)


def test_parameters_come_without_a_gradient(tmp_path: Path) -> None:
    model = torch.nn.Linear(2, 2)
    torch.save(dict(model.named_parameters()), tmp_path / "p.pt")
    found = tensors.weights(open_archive(tmp_path / "p.pt"))
    assert not any(t.requires_grad for t in found.values())
    assert torch.equal(found["weight"], model.weight)


class Malicious:
    """Makes a file when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.marker}",)


@pytest.mark.parametrize("how", ["zip", "legacy", "pickle", "beside tensors", "protocol 4"])
def test_code_in_a_file_is_named_and_not_run(tmp_path: Path, how: str) -> None:
    marker, path = tmp_path / "marker", tmp_path / "w.pt"
    bad = Malicious(marker)
    if how == "pickle":
        path.write_bytes(pickle.dumps({"a": bad}, protocol=2))
    elif how == "protocol 4":
        path.write_bytes(pickle.dumps({"a": bad}, protocol=4))
    elif how == "beside tensors":
        torch.save(SMALL | {"a": bad}, path)
    else:
        torch.save({"a": bad}, path, _use_new_zipfile_serialization=how == "zip")
    archive = open_archive(path)
    archive.check()
    live = tensors.live(archive.content)
    assert isinstance(live["a"], Record)
    assert "system" in " ".join(suspicious(archive))
    if how == "beside tensors":
        assert all_bits(tensors.weights(archive)) == all_bits(SMALL)
    else:
        with pytest.raises(UnsupportedFileError, match="holds no named tensors"):
            tensors.weights(archive)
    assert not marker.exists()
    pickle.loads(pickle.dumps(bad))  # noqa: S301 - the marker is made where code is run
    assert marker.exists()


def test_of_a_whole_module_the_weights_are_read(tmp_path: Path) -> None:
    module = torch.nn.Linear(2, 2)
    torch.save(module, tmp_path / "m.pt")
    found = tensors.weights(open_archive(tmp_path / "m.pt"))
    assert all_bits(found) == all_bits(module.state_dict())


@pytest.mark.parametrize("content", [{}, {"epoch": 1}, [1, 2], {"model": {"a": 1}}], ids=repr)
def test_a_torch_file_without_a_state_dict_is_refused(tmp_path: Path, content: Any) -> None:
    torch.save(content, tmp_path / "c.pt")
    with pytest.raises(UnsupportedFileError, match="holds no named tensors"):
        tensors.weights(open_archive(tmp_path / "c.pt"))


@pytest.mark.parametrize(
    ("make", "error", "says"),
    [
        (lambda p: p.write_text("epoch,loss\n1,2\n"), UnsupportedFileError, "is text, no weights"),
        (lambda p: p.write_bytes(b"\xf0x"), UnsupportedFileError, "is no weights file"),
        (lambda p: p.write_bytes(b"PK\x03\x04junk"), DamagedError, "truncated or damaged"),
        (lambda p: p.touch(), DamagedError, "is empty"),
        (lambda p: p.mkdir(), UnsupportedFileError, "holds no weights"),
        (str, UnsupportedFileError, "does not exist"),
    ],
    ids=["text", "two bytes", "no zip", "empty", "folder", "missing"],
)
def test_what_is_no_weights_file_is_told(
    tmp_path: Path, make: Callable[[Path], Any], error: type[LuthierError], says: str
) -> None:
    path = tmp_path / "w.pt"
    make(path)
    with pytest.raises(error, match=says) as raised:
        open_archive(path)
    assert str(path) in str(raised.value)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_new_file_replaces_the_old_in_one_step(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "file"
    durable.write_text(path, "ü1")
    with durable.new_file(path) as temporary:
        temporary.write_text("2")
        assert path.read_text(encoding="utf-8") == "ü1"
    assert path.read_text() == "2"
    assert names(path.parent) == ["file"]


def test_a_new_file_whose_writer_raises_leaves_the_old(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")

    def write_half() -> None:
        with durable.new_file(path) as temporary:
            temporary.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_half()
    assert path.read_text() == "old"
    assert names(tmp_path) == ["file"]


def test_a_new_directory_is_there_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "step-1"

    def write_half() -> None:
        with durable.new_directory(path) as new:
            (new / "half").write_text("half")
            raise OSError("full")

    with pytest.raises(OSError, match="full"):
        write_half()
    assert names(tmp_path) == []
    with durable.new_directory(path) as new:
        (new / "a").write_text("1")
        assert not path.exists()
    assert names(tmp_path) == ["step-1"]
    assert (path / "a").read_text() == "1"


def test_a_published_directory_is_never_changed(tmp_path: Path) -> None:
    with durable.new_directory(tmp_path / "step-1") as new:
        (new / "a").write_text("1")
    entered = False
    with pytest.raises(FileExistsError), durable.new_directory(tmp_path / "step-1"):
        entered = True
    assert not entered
    assert names(tmp_path) == ["step-1"]
    assert names(tmp_path / "step-1") == ["a"]


def test_removing_a_directory_leaves_its_neighbours(tmp_path: Path) -> None:
    for name in ("step-1", "step-2"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a").touch()
    durable.remove_directory(tmp_path / "step-1")
    assert names(tmp_path) == ["step-2"]


def test_sweeping_removes_leftovers_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / ".tmp-file-1").touch()
    (tmp_path / ".tmp-step-1").mkdir()
    (tmp_path / ".tmp-step-1" / "half").touch()
    (tmp_path / "tmp-kept").touch()
    (tmp_path / "step-1").mkdir()
    swept = durable.sweep(tmp_path)
    assert [path.name for path in swept] == [".tmp-file-1", ".tmp-step-1"]
    assert names(tmp_path) == ["step-1", "tmp-kept"]
    assert durable.sweep(tmp_path) == []
    assert durable.sweep(tmp_path / "missing") == []


WRITER = """
import signal, sys
from pathlib import Path
from luthier.files import durable
with durable.new_directory(Path(sys.argv[1])) as new, durable.new_file(Path(sys.argv[2])) as file:
    (new / "half").write_text("half")
    file.write_text("half")
    print("written", flush=True)
    signal.pause()
"""


def test_a_killed_writer_leaves_nothing_under_the_final_names(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("old")
    command = [sys.executable, "-c", WRITER, str(tmp_path / "step-1"), str(tmp_path / "file")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
        try:
            assert writer.stdout is not None
            assert writer.stdout.readline() == "written\n"
        finally:
            writer.send_signal(signal.SIGKILL)
    assert writer.returncode == -signal.SIGKILL
    assert not (tmp_path / "step-1").exists()
    assert (tmp_path / "file").read_text() == "old"
    assert len(names(tmp_path)) == 3
    durable.sweep(tmp_path)
    assert names(tmp_path) == ["file"]


def test_sha256_is_that_of_the_bytes(tmp_path: Path) -> None:
    (tmp_path / "abc").write_bytes(b"abc")
    expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert durable.sha256(tmp_path / "abc") == expected
