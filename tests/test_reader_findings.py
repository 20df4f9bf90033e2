"""What reviews of the readers have found, each as a small file that shows it."""

from __future__ import annotations

import json
import os
import pickle
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import luthier
from luthier.errors import DamagedError
from luthier.files import tensors
from luthier.files.contents.candidates import contents
from luthier.files.contents.finite import not_finite
from luthier.files.entries import walk
from luthier.files.formats import torch_legacy
from luthier.files.opening import open_archive
from luthier.files.parsing import zips
from luthier.files.wording import shown
from luthier.run.verify import verify
from pickles_by_hand import Called, Raw, pickled, read, write
from torch_by_hand import distributed, tensor_of

# --- what is in a file is said in few words, whatever it is -----------------------------------


def nested(step: bytes, count: int) -> bytes:
    """Return a pickle of a value that is put into the next one by ``step``, and so on."""
    return pickled({"x": Raw(b"N" + (b"q\x01" + step) * count)})


HUGE = 1 << 20_000
REFERENCE = b"cmypackage\nf\n"
SLICE = b"cbuiltins\nslice\n"


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(pickled({"x": Called("builtins", "slice", HUGE, None, None)}), id="slice"),
        pytest.param(pickled({"x": Called("builtins", "range", HUGE, HUGE, 1)}), id="range"),
        pytest.param(nested(b"0" + SLICE + b"h\x01h\x01h\x01\x87R", 40), id="slices of slices"),
        pytest.param(nested(b"0" + REFERENCE + b"}h\x01Ns\x85R", 400), id="calls as keys"),
        pytest.param(nested(b"0cos\nsystem\n}h\x01Ns\x85R", 400), id="dangerous calls as keys"),
    ],
)
def test_what_is_said_of_a_value_has_limits(content: bytes, tmp_path: Path) -> None:
    path = write(tmp_path, content)
    assert len(str(luthier.inspect(path))) < 5_000
    assert verify(path).sound


def test_a_slice_is_shown_as_python_would() -> None:
    for value in (slice(1, None, 2), range(3, 9, 2), [slice("a", None, None)]):
        assert shown(value) == repr(value)


def test_a_slice_of_anything_but_numbers_is_no_slice() -> None:
    # Where slices have a hash, that of one that is nested takes exponential time.
    inner = Called("builtins", "slice", None, 3, None)
    assert read(pickled(inner)).value == slice(None, 3, None)
    assert type(read(pickled(Called("builtins", "slice", inner, inner, inner))).value) is not slice


def test_walking_takes_less_memory_than_what_is_walked() -> None:
    content: Any = [None] * 500_000
    tracemalloc.start()
    try:
        assert sum(1 for _ in walk(content)) == 500_001
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


# --- nothing is lost, and nothing is read as what it is not -----------------------------------


def test_weights_beside_the_parts_of_an_optimizer_are_found(tmp_path: Path) -> None:
    model = torch.nn.Linear(2, 2)
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    path = tmp_path / "merged.pt"
    torch.save({**optimizer.state_dict(), "model": model.state_dict()}, path)
    found = contents(open_archive(path))
    assert [candidate.where for candidate in found.candidates] == ["model"]
    assert [where for where, _ in found.optimizers] == [""]
    assert luthier.inspect(path).values == ()


def test_an_onnx_model_with_two_graphs_is_refused(tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx", reason="it writes the files")
    path, content = tmp_path / "two.onnx", b""
    for name in ("a", "b"):
        weight = onnx.numpy_helper.from_array(np.ones(3, np.float32), name)
        graph = onnx.helper.make_graph([], "graph", [], [], [weight])
        content += onnx.helper.make_model(graph).SerializeToString()
    path.write_bytes(content)
    with pytest.raises(DamagedError, match="two graphs"):
        open_archive(path)


def test_numbers_that_numpy_has_not_are_converted_by_the_library(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py", reason="the extra hdf5 is not installed")
    bfloat16 = h5py.h5t.IEEE_F32LE.copy()
    bfloat16.set_fields(15, 7, 8, 0, 7)
    bfloat16.set_size(2)
    bfloat16.set_ebias(127)
    numbers = np.array([1, -2, 0.5, 4], np.float32)
    path = tmp_path / "narrow.h5"
    with h5py.File(path, "w") as file:
        place = h5py.h5d.create(file.id, b"w", bfloat16, h5py.h5s.create_simple((4,)))
        place.write(h5py.h5s.ALL, h5py.h5s.ALL, numbers)
    found = tensors.weights(open_archive(path))
    assert found["w"].tolist() == numbers.tolist()


def test_a_date_at_the_end_of_a_name_is_no_hash(tmp_path: Path) -> None:
    path = tmp_path / "model-20240131.pt"
    torch.save({"w": torch.ones(2)}, path)
    assert verify(path).sound


def test_a_file_that_became_shorter_is_an_error_and_no_crash(tmp_path: Path) -> None:
    path = tmp_path / "shrinking.npy"
    np.save(path, np.ones(100_000))
    kept, mapped = (tensors.weights(open_archive(path)) for _ in range(2))
    assert mapped["tensor"].sum() == 100_000
    os.truncate(path, 4096)
    for found in (kept, mapped):
        with pytest.raises(DamagedError, match="became shorter"):
            found["tensor"]


# --- folders that contradict themselves -------------------------------------------------------


def luthiers(folder: Path, parts: str, state: str) -> Path:
    (folder / "manifest.json").write_text(f'{{"parts": {parts}, "files": {{}}}}')
    (folder / "state.json").write_text(state)
    for name in ("a", "b"):
        tensors.write(folder / f"{name}.safetensors", {"w": torch.ones(1)})
    return folder


def test_parts_of_a_checkpoint_that_are_described_as_numbers(tmp_path: Path) -> None:
    folder = luthiers(tmp_path, '{"model": ["a.safetensors"]}', '{"parts": {"model": 5}}')
    assert [found.where for found in luthier.inspect(folder).weights] == ["model"]


def test_a_tensor_in_two_files_of_one_part_is_damage(tmp_path: Path) -> None:
    folder = luthiers(tmp_path, '{"model": ["a.safetensors", "b.safetensors"]}', "{}")
    with pytest.raises(DamagedError, match="w is in two files"):
        open_archive(folder)


def placed(paths: Callable[[int], tuple[Any, ...]], count: int, folder: Path) -> Path:
    names = [f"a{number}" for number in range(count)]
    described = {name: tensor_of((0,), []) for name in names}
    return distributed(folder, described, {}, {n: paths(i) for i, n in enumerate(names)})


def test_two_items_at_one_place_of_a_distributed_checkpoint_are_damage(tmp_path: Path) -> None:
    with pytest.raises(DamagedError, match="something else"):
        open_archive(placed(lambda _: ("model", "w"), 2, tmp_path))


def test_many_long_lists_in_a_distributed_checkpoint_are_refused(tmp_path: Path) -> None:
    count = 4_000
    with pytest.raises(DamagedError, match="would take more"):
        open_archive(placed(lambda number: (f"x{number}", count - 1), count, tmp_path))


def test_pickles_of_every_protocol_hold_slices(tmp_path: Path) -> None:
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        path = write(tmp_path, pickle.dumps({"s": slice(1, 2)}, protocol))
        assert open_archive(path).content == {"s": slice(1, 2)}


# --- together no more than one file may take --------------------------------------------------


def test_shards_share_one_account(tmp_path: Path) -> None:
    tensor = Called("torch._utils", "_rebuild_meta_tensor_no_storage", Raw(b"ctorch\nint8\n"), ())
    names = {f"w{number}": f"{number}.bin" for number in range(4)}
    for name, shard in names.items():
        content = pickled({"many": [Raw(b"]" * 300_000)], name: tensor})
        with zipfile.ZipFile(tmp_path / shard, "w", zipfile.ZIP_DEFLATED) as file:
            file.writestr("archive/data.pkl", content)
    assert open_archive(tmp_path / "0.bin").kind == "torch"
    (tmp_path / "model.index.json").write_text(json.dumps({"weight_map": names}))
    with pytest.raises(DamagedError, match=r"\d\.bin describes objects that would take more"):
        open_archive(tmp_path / "model.index.json")


@pytest.mark.parametrize("how", ["old", "deflated"])
def test_a_storage_of_many_tensors_is_read_once(
    tmp_path: Path, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    flat = torch.arange(1000.0)
    path = tmp_path / "flat.pt"
    sizes: list[int] = []
    tensors_in_it = {f"w{number}": flat[number : number + 10] for number in range(50)}
    torch.save(tensors_in_it, path, _use_new_zipfile_serialization=how == "deflated")
    if how == "deflated":
        deflated = tmp_path / "deflated.pt"
        with zipfile.ZipFile(path) as old, zipfile.ZipFile(deflated, "w", 8) as new:
            for name in old.namelist():
                new.writestr(name, old.read(name))
        path = deflated
    archive = open_archive(path)

    class Counted(zips.Content):
        def __init__(self, size: int) -> None:
            sizes.append(size)
            super().__init__(size)

    for module in (zips, torch_legacy):
        monkeypatch.setattr(module, "Content", Counted)
    assert list(not_finite(archive)) == []
    assert sizes.count(4000) == 1


def test_a_manifest_of_others_makes_no_checkpoint(tmp_path: Path) -> None:
    torch.save({"w": torch.ones(2)}, tmp_path / "pytorch_model.bin")
    (tmp_path / "manifest.json").write_text('{"name": "an app"}')
    assert verify(tmp_path).kind == "folder"
    assert verify(tmp_path).sound


# --- what would have run is named -------------------------------------------------------------


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("torch.utils.collect_env", "run"),
        ("torch.jit.unsupported_tensor_ops", "execWrapper"),
        ("torch.utils.cpp_extension", "_run_ninja_build"),
        ("torch.ops", "load_library"),
        ("numpy", "save"),
        ("pathlib", "Path.unlink"),
    ],
)
def test_a_function_that_rebuilds_nothing_is_told(module: str, name: str, tmp_path: Path) -> None:
    path = write(tmp_path, pickled({"x": Called(module, name, "touch it")}))
    assert luthier.inspect(path).suspicious == (f"would have run {module}.{name}('touch it')",)


@pytest.mark.filterwarnings("ignore")  # torch will do away with some of these
def test_what_checkpoints_hold_of_torch_and_numpy_is_not_suspicious(tmp_path: Path) -> None:
    content = {
        "numpy": np.random.RandomState(1),
        "generator": np.random.default_rng(1),
        "masked": np.ma.masked_array([1.0, 2.0], [True, False]),
        "number": np.float32(3),
        "function": np.add,
        "sparse": torch.eye(2).to_sparse(),
        "quantised": torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8),
        "nested": torch.nested.nested_tensor([torch.ones(1), torch.ones(2)]),
        "meta": torch.empty(2, device="meta"),
        "called": torch.nn.functional.relu,
    }
    torch.save(content, tmp_path / "many.pt")
    assert luthier.inspect(tmp_path / "many.pt").suspicious == ()
    scripted = torch.jit.script(torch.nn.Sequential(torch.nn.Conv2d(1, 1, 1)))
    scripted.save(str(tmp_path / "scripted.pt"))
    assert luthier.inspect(tmp_path / "scripted.pt").suspicious == ()


# --- names and numbers ------------------------------------------------------------------------


def test_a_file_that_was_called_after_a_time_is_opened(tmp_path: Path) -> None:
    torch.save({"w": torch.ones(2)}, tmp_path / "9:30.pt")  # its records lie in the folder "9:30"
    assert tensors.weights(open_archive(tmp_path / "9:30.pt"))["w"].tolist() == [1, 1]


def test_a_number_too_large_for_json_is_refused(tmp_path: Path) -> None:
    (tmp_path / "found.json").write_text('{"weight_map": 1e999}')
    with pytest.raises(DamagedError, match="1e999, which is no JSON"):
        open_archive(tmp_path / "found.json")
