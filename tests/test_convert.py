"""Converting: every bit arrives, what is no weights is said, nothing is overwritten."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import luthier
from faults import FaultyDisk
from luthier.cli.main import main
from luthier.errors import (
    CannotWriteError,
    RecipeError,
    UnsupportedFileError,
    UnsupportedStateError,
)
from luthier.files import disk
from luthier.files.dtypes import DTYPES
from luthier.models.lenet import LeNet
from luthier.weights.convert import bytes_of
from test_save import Tied, all_bits, random_bits, read

BOTH = [name for name, dtype in DTYPES.items() if dtype.safetensors]


def checkpoint(path: Path) -> dict[str, Any]:
    """Write what a training script of timm's kind writes; give the model's state."""
    model = LeNet(2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    model(torch.zeros(2, 3, 32, 32)).sum().backward()
    optimizer.step()
    state = model.state_dict()
    average = {name: tensor + 1 for name, tensor in state.items()}
    content = {"epoch": 7, "state_dict": state, "optimizer": optimizer.state_dict()}
    torch.save(content | {"state_dict_ema": average}, path)
    return state


@pytest.mark.parametrize("suffix", ["safetensors", "pt", "pth", "bin"])
@pytest.mark.parametrize("legacy", [False, True])
def test_the_weights_of_a_checkpoint_arrive_and_the_rest_is_said(
    tmp_path: Path, suffix: str, legacy: bool
) -> None:
    state = checkpoint(tmp_path / "c.pt")
    if legacy:
        content = torch.load(tmp_path / "c.pt", weights_only=True)
        torch.save(content, tmp_path / "c.pt", _use_new_zipfile_serialization=False)
    out = tmp_path / f"w.{suffix}"
    found = luthier.convert(tmp_path / "c.pt", out)
    assert (found.where, found.tensors, found.cast) == ("state_dict", len(state), 0)
    assert all_bits(read(out)) == all_bits(state)
    if suffix == "safetensors":
        assert all_bits(safetensors.torch.load_file(out)) == all_bits(state)
    else:
        assert all_bits(torch.load(out, weights_only=True)) == all_bits(state)
    left = "\n".join(found.left_out)
    assert "epoch: 7" in left
    assert "optimizer: an optimizer's state" in left
    assert "state_dict_ema: 10 tensors" in left
    assert "--where 'state_dict_ema'" in left
    assert left in str(found).replace("  left out: ", "")


def test_the_place_is_chosen_by_its_name(tmp_path: Path) -> None:
    state = checkpoint(tmp_path / "c.pt")
    found = luthier.convert(tmp_path / "c.pt", tmp_path / "w.pt", where="state_dict_ema")
    assert found.where == "state_dict_ema"
    expected = {name: tensor + 1 for name, tensor in state.items()}
    assert all_bits(read(tmp_path / "w.pt")) == all_bits(expected)
    with pytest.raises(UnsupportedFileError, match="did you mean 'state_dict_ema'"):
        luthier.convert(tmp_path / "c.pt", tmp_path / "v.pt", where="state_dict_em")


@settings(max_examples=25, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from(BOTH), st.lists(st.integers(0, 4), max_size=4)),
        min_size=1,
        max_size=8,
    ),
    st.integers(1, 300),
)
def test_to_safetensors_to_shards_and_back_everything_is_equal(
    tmp_path_factory: pytest.TempPathFactory,
    wanted: list[tuple[str, list[int]]],
    limit: int,
) -> None:
    folder = tmp_path_factory.mktemp("round")
    state = {f"l.{i}": random_bits(d, *shape, seed=i) for i, (d, shape) in enumerate(wanted)}
    state["tied"] = state["l.0"]
    torch.save(state, folder / "a.pt")
    luthier.convert(folder / "a.pt", folder / "b.safetensors")
    luthier.convert(folder / "b.safetensors", folder / "c", shard_size=limit)
    luthier.convert(folder / "c", folder / "d.pt")
    found = torch.load(folder / "d.pt", weights_only=True)
    assert all_bits(found) == all_bits(state)
    if state["tied"].numel():
        assert found["tied"].data_ptr() == found["l.0"].data_ptr()
    luthier.convert(folder / "d.pt", folder / "e.safetensors")
    one, two = folder / "b.safetensors", folder / "e.safetensors"
    assert one.read_bytes() == two.read_bytes()


def test_shards_are_named_and_indexed_as_transformers_does(tmp_path: Path) -> None:
    state = {f"layer{i}.weight": torch.full((100,), float(i)) for i in range(5)}
    torch.save(state, tmp_path / "a.pt")
    found = luthier.convert(tmp_path / "a.pt", tmp_path / "out", shard_size="900")
    shards = [f"model-0000{n}-of-00003.safetensors" for n in (1, 2, 3)]
    index = "model.safetensors.index.json"
    assert found.files == (*shards, index)
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == sorted(found.files)
    written = json.loads((tmp_path / "out" / index).read_text())
    assert written["metadata"] == {"total_size": 2000}
    for name, shard in written["weight_map"].items():
        held = safetensors.torch.load_file(tmp_path / "out" / shard)
        assert torch.equal(held[name], state[name])
    luthier.convert(tmp_path / "a.pt", tmp_path / "one", shard_size="1GB")
    assert [p.name for p in (tmp_path / "one").iterdir()] == ["model.safetensors"]


def test_a_description_goes_along_and_what_cannot_hold_one_says_so(tmp_path: Path) -> None:
    model, path = LeNet(2), tmp_path / "m.safetensors"
    luthier.save(model, path, architecture=LeNet, classes=["a", "b"], arguments={"num_classes": 2})
    luthier.convert(path, tmp_path / "n.safetensors", dtype="float16")
    luthier.convert(path, tmp_path / "shards", shard_size="100kB")
    for copy in ("n.safetensors", "shards"):
        assert luthier.describe(tmp_path / copy) == luthier.describe(path)
    found = luthier.load_model(tmp_path / "shards", model=LeNet)
    assert all_bits(found.state_dict()) == all_bits(model.state_dict())
    left = luthier.convert(path, tmp_path / "w.pt").left_out
    assert left == ("the file's description of its model",)
    safetensors.torch.save_file({"a": torch.ones(1)}, tmp_path / "f.safetensors", {"by": "me"})
    left = luthier.convert(tmp_path / "f.safetensors", tmp_path / "g.safetensors").left_out
    assert left == ("metadata by: me",)


def test_a_module_that_was_pickled_whole_gives_its_state_dict(tmp_path: Path) -> None:
    model = Tied()
    torch.save(model, tmp_path / "whole.pt")
    found = luthier.convert(tmp_path / "whole.pt", tmp_path / "w.safetensors")
    assert all_bits(read(tmp_path / "w.safetensors")) == all_bits(model.state_dict())
    assert found.ties == {"head.weight": "embed.weight"}
    assert any("test_save.Tied" in line for line in found.left_out)


def test_a_cast_is_said_and_so_is_what_it_loses(tmp_path: Path) -> None:
    state = {"w": torch.tensor([1.0, 1e30]), "n": torch.tensor([3]), "i": torch.tensor([torch.inf])}
    torch.save(state, tmp_path / "a.pt")
    found = luthier.convert(tmp_path / "a.pt", tmp_path / "b.safetensors", dtype="float16")
    assert found.cast == 2
    assert found.notes == (
        "cast to float16: 2 tensors",
        "numbers too large for float16 are no longer finite in: w",
    )
    expected = {n: t.half() if t.is_floating_point() else t for n, t in state.items()}
    assert all_bits(read(tmp_path / "b.safetensors")) == all_bits(expected)
    for dtype in ("float8_e4m3fn", "bfloat16", "float64"):
        luthier.convert(tmp_path / "a.pt", tmp_path / f"{dtype}.pt", dtype=dtype)
    with pytest.raises(RecipeError, match="did you mean 'float16'"):
        luthier.convert(tmp_path / "a.pt", tmp_path / "c.pt", dtype="flaot16")


def test_nothing_is_overwritten_unless_it_is_asked_for_and_never_the_input(tmp_path: Path) -> None:
    state = {"a": torch.ones(2)}
    torch.save(state, tmp_path / "a.pt")
    (tmp_path / "b.pt").write_text("mine")
    (tmp_path / "folder").mkdir()
    with pytest.raises(RecipeError, match=r"b\.pt is there already\n.*--force"):
        luthier.convert(tmp_path / "a.pt", tmp_path / "b.pt")
    assert (tmp_path / "b.pt").read_text() == "mine"
    luthier.convert(tmp_path / "a.pt", tmp_path / "b.pt", force=True)
    assert all_bits(read(tmp_path / "b.pt")) == all_bits(state)
    before = (tmp_path / "a.pt").read_bytes()
    (tmp_path / "link.pt").symlink_to(tmp_path / "a.pt")
    (tmp_path / "hard.pt").hardlink_to(tmp_path / "a.pt")
    for out in ("a.pt", "link.pt", "hard.pt"):
        with pytest.raises(RecipeError, match="never writes over its input"):
            luthier.convert(tmp_path / "a.pt", tmp_path / out, force=True)
    luthier.convert(tmp_path / "a.pt", tmp_path / "s", shard_size=1)
    shard = tmp_path / "s" / "model.safetensors"
    for file in (tmp_path / "s", shard):
        with pytest.raises(RecipeError, match="never writes over its input"):
            luthier.convert(file, shard, force=True)
    with pytest.raises(RecipeError, match="never changes a folder"):
        luthier.convert(tmp_path / "a.pt", tmp_path / "folder", shard_size=1, force=True)
    assert (tmp_path / "a.pt").read_bytes() == before


def test_a_shard_of_the_input_is_its_input_too(tmp_path: Path) -> None:
    torch.save({"a": torch.ones(9), "b": torch.ones(9)}, tmp_path / "a.pt")
    luthier.convert(tmp_path / "a.pt", tmp_path / "s", shard_size=36)
    index = tmp_path / "s" / "model.safetensors.index.json"
    with pytest.raises(RecipeError, match="never writes over its input"):
        luthier.convert(index, tmp_path / "s" / "model-00001-of-00002.safetensors", force=True)


@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor")
@pytest.mark.parametrize("refused", ["sparse", "quantised", "complex128"])
def test_what_cannot_be_written_is_named_before_anything_is(tmp_path: Path, refused: str) -> None:
    wrong = {
        "sparse": torch.eye(2).to_sparse(),
        "quantised": torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8),
        "complex128": torch.ones(2, dtype=torch.complex128),
    }[refused]
    torch.save({"fine": torch.ones(2), "wrong": wrong}, tmp_path / "a.pt")
    with pytest.raises((UnsupportedFileError, UnsupportedStateError), match="'wrong' is"):
        luthier.convert(tmp_path / "a.pt", tmp_path / "b.safetensors")
    assert [p.name for p in tmp_path.iterdir()] == ["a.pt"]


@pytest.mark.parametrize("fault", ["ENOSPC", "full", "EIO"])
@pytest.mark.parametrize("shard_size", [None, 36])
def test_a_disk_that_refuses_leaves_nothing_by_half(
    tmp_path: Path, fault: str, shard_size: int | None
) -> None:
    state = {f"{i}": torch.full((9,), float(i)) for i in range(3)}
    torch.save(state, tmp_path / "a.pt")
    refused = 0
    for at in range(100):
        out = tmp_path / str(at) / ("b" if shard_size else "b.pt")
        out.parent.mkdir()
        faulty = FaultyDisk(fault, at)
        with disk.using(faulty):
            try:
                luthier.convert(tmp_path / "a.pt", out, shard_size=shard_size)
            except CannotWriteError:
                refused += 1
        assert out.exists() or not list(out.parent.iterdir())
        if out.exists():
            assert all_bits(read(out)) == all_bits(state)
        if at > len(faulty.log):
            break
    assert refused > 5


WATCHED = """
import re, sys, luthier, luthier.weights.convert
from luthier.files import durable

def private():
    with open("/proc/self/status") as status:
        return 1024 * int(re.search(r"RssAnon:\\s+(\\d+)", status.read())[1])

most, before, write = [], private(), durable._write_all

def watched(*given):
    most.append(private() - before)
    write(*given)

durable._write_all = watched
for out in sys.argv[2:]:
    luthier.convert(sys.argv[1], out, dtype="float64")
print(max(most))
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's /proc")
def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    # 256 MB are written, 8 MB at a time.
    luthier.save({f"{i}": torch.zeros(1 << 20) + i for i in range(32)}, tmp_path / "a.pt")
    outs = [str(tmp_path / "b.safetensors"), str(tmp_path / "b.pt")]
    program = [sys.executable, "-c", WATCHED, str(tmp_path / "a.pt"), *outs]
    done = subprocess.run(program, capture_output=True, text=True, check=True)
    assert int(done.stdout) < 80 << 20


def test_sizes_are_read_as_people_write_them() -> None:
    assert bytes_of("2GB") == 2 * 10**9
    assert bytes_of("1.5 mb") == 1_500_000
    assert bytes_of("1GiB") == 1 << 30
    assert bytes_of("64KiB") == 1 << 16
    assert bytes_of(" 7 ") == bytes_of(7) == 7
    for wrong in ("", "GB", "0", "-1", "2 potatoes", "0.1"):
        with pytest.raises(RecipeError, match="no size"):
            bytes_of(wrong)


def test_requests_that_make_no_sense_are_refused(tmp_path: Path) -> None:
    torch.save({"a": torch.ones(2)}, tmp_path / "a.pt")
    torch.save({"epoch": 3}, tmp_path / "none.pt")
    with pytest.raises(RecipeError, match="shards are several"):
        luthier.convert(tmp_path / "a.pt", tmp_path / "b.safetensors", shard_size="1GB")
    with pytest.raises(UnsupportedFileError, match="holds no tensors"):
        luthier.convert(tmp_path / "none.pt", tmp_path / "b.safetensors")
    with pytest.raises(UnsupportedFileError, match="suffix"):
        luthier.convert(tmp_path / "a.pt", tmp_path / "b")
    with pytest.raises(UnsupportedFileError, match="does not exist"):
        luthier.convert(tmp_path / "missing.pt", tmp_path / "b.pt")


def test_the_command_says_what_it_did(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    checkpoint(tmp_path / "c.pt")
    out = str(tmp_path / "w.safetensors")
    assert main(["convert", str(tmp_path / "c.pt"), out]) == 0
    assert "left out: epoch: 7" in capsys.readouterr().out
    assert main(["convert", str(tmp_path / "c.pt"), out]) == 2
    assert main(["convert", str(tmp_path / "c.pt"), out, "--force", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["tensors"] == 10
    assert found["path"] == out


def test_a_run_s_checkpoint_is_converted(tmp_path: Path) -> None:
    model = nn.Linear(3, 2)
    run = luthier.Run(tmp_path / "run", model=model, save_every="1 epoch")
    for _ in run.epochs(1):
        pass
    step = next((tmp_path / "run" / "checkpoints").iterdir())
    luthier.convert(step, tmp_path / "w.pt")
    assert all_bits(torch.load(tmp_path / "w.pt", weights_only=True)) == all_bits(
        model.state_dict()
    )
