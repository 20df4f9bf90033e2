"""TorchScript, exported programs and distributed checkpoints: only their weights are read."""

from __future__ import annotations

import io
import os
import pickle
import struct
import subprocess
import sys
import warnings
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed.checkpoint
from torch.distributed.tensor import Replicate, Shard, distribute_tensor, init_device_mesh

from luthier.errors import DamagedError
from luthier.files import tensors
from luthier.files.opening import open_archive
from test_torch_files import assert_same, bits, filled, read_back, save

# --- TorchScript ---------------------------------------------------------------------------------


class Net(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = torch.nn.ModuleList([torch.nn.Linear(2, 2), torch.nn.BatchNorm1d(2)])
        self.shared = self.layers[0]
        self.scale = torch.nn.Parameter(torch.ones(2))
        self.register_buffer("kept", torch.arange(2.0))
        self.constant = torch.arange(2.0)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = layer(x)
        return self.shared(x) * self.scale + self.kept + self.constant


@pytest.mark.filterwarnings("ignore:.*torch.jit.*is deprecated")
@pytest.mark.parametrize("how", ["script", "trace"])
def test_torchscript_gives_what_its_state_dict_would(tmp_path: Path, how: str) -> None:
    model = Net().eval()
    path = tmp_path / "a.pt"
    if how == "script":
        torch.jit.script(model).save(path)
    else:
        torch.jit.trace(model, torch.ones(3, 2)).save(path)
    expected = torch.jit.load(path).state_dict()
    archive = open_archive(path)
    archive.check()
    found = tensors.Tensors(archive.content)
    assert archive.kind == "TorchScript"
    assert list(found) == list(expected)
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert archive.content["scale"].is_parameter
    assert not archive.content["kept"].is_parameter
    assert found["shared.weight"].data_ptr() == found["layers.0.weight"].data_ptr()


# --- torch.export --------------------------------------------------------------------------------


class Exported(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(2, 2)
        self.tied = self.layer.weight
        self.small = torch.nn.Parameter(torch.ones(2, 3).half())
        self.register_buffer("kept", torch.arange(2.0))
        self.register_buffer("dropped", torch.arange(2.0), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x) + self.tied.sum() + self.small.sum() + self.kept + self.dropped


@pytest.fixture(scope="module")
def exported() -> Any:
    return torch.export.export(Exported().eval(), (torch.ones(3, 2),))


def test_exported_programs(tmp_path: Path, exported: Any) -> None:
    path = tmp_path / "a.pt2"
    torch.export.save(exported, path)
    archive = open_archive(path)
    archive.check()
    found = tensors.live(archive.content)
    assert archive.kind == "torch.export"
    assert found["state_dict"].keys() == exported.state_dict.keys()
    for name, expected in exported.state_dict.items():
        assert_same(found["state_dict"][name], expected)
    assert found["constants"]["dropped"].tolist() == [0, 1]
    tied = [found["state_dict"][name].data_ptr() for name in ("tied", "layer.weight")]
    assert tied[0] == tied[1]


def test_exported_programs_of_torch_before_2_8(tmp_path: Path, exported: Any) -> None:
    path = tmp_path / "a.pt2"
    inner = io.BytesIO()
    torch.save(dict(exported.state_dict), inner)
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("serialized_exported_program.json", "{}")
        file.writestr("serialized_state_dict.pt", inner.getvalue())
        file.writestr("version", "8.4")
    found = read_back(path)
    for name, expected in exported.state_dict.items():
        assert_same(found["state_dict"][name], expected)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"as_int": 3', '"as_int": 4'),
        ('"dtype": 7', '"dtype": 8'),
        ('"dtype": 7', '"dtype": 99'),
        ('"storage_offset": {"as_int": 0}', '"storage_offset": {"as_int": 9}'),
        ('"storage_offset": {"as_int": 0}', '"storage_offset": {"as_int": -1}'),
        ('"path_name": "weight_0"', '"path_name": "../weights/weight_0"'),
        ('"path_name": "weight_0"', '"path_name": "weight_9"'),
        ('"tensor_meta": {', '"tensor_meta": [], "x": {'),
    ],
)
def test_exported_programs_that_contradict_themselves(
    tmp_path: Path, exported: Any, old: str, new: str
) -> None:
    path, changed = tmp_path / "a.pt2", tmp_path / "b.pt2"
    torch.export.save(exported, path)
    with zipfile.ZipFile(path) as file, zipfile.ZipFile(changed, "w") as other:
        for name in file.namelist():
            content = file.read(name)
            if name.endswith("model_weights_config.json"):
                assert old.encode() in content
                content = content.replace(old.encode(), new.encode())
            other.writestr(name, content)
    with pytest.raises(DamagedError):
        open_archive(changed)


# --- torch.distributed.checkpoint ----------------------------------------------------------------


WHOLE = torch.arange(35.0).reshape(5, 7)


def save_as_one_of_four(rank: int, folder: Path) -> None:
    warnings.simplefilter("ignore")
    meet = f"file://{folder}/meet"
    torch.distributed.init_process_group("gloo", init_method=meet, rank=rank, world_size=4)
    mesh = init_device_mesh("cpu", (2, 2))
    cuts: dict[str, list[Any]] = {
        "rows": [Shard(0), Replicate()],
        "both": [Shard(0), Shard(1)],
        "whole": [Replicate(), Replicate()],
        "fine": [Shard(1), Shard(1)],
    }
    state = {name: distribute_tensor(WHOLE, mesh, cut) for name, cut in cuts.items()}
    state["half"] = distribute_tensor(WHOLE.bfloat16(), mesh, cuts["both"])
    torch.distributed.checkpoint.save({"model": state, "epoch": 3}, checkpoint_id=folder / "saved")
    torch.distributed.destroy_process_group()


def saved_by(tmp_path: Path, content: dict[str, Any]) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.distributed.checkpoint.save(content, checkpoint_id=tmp_path / "saved")
    return tmp_path / "saved"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
def test_a_checkpoint_of_four_processes_is_put_together(tmp_path: Path) -> None:
    children = []
    for rank in range(4):
        child = os.fork()
        if not child:
            try:
                save_as_one_of_four(rank, tmp_path)
                os._exit(0)
            finally:
                os._exit(1)
        children.append(child)
    assert [os.waitpid(child, 0)[1] for child in children] == [0] * 4
    archive = open_archive(tmp_path / "saved")
    archive.check()
    found = tensors.live(archive.content)
    assert found["epoch"] == 3
    assert found["model"].keys() == {"rows", "both", "whole", "fine", "half"}
    for name in ("rows", "both", "whole", "fine"):
        assert torch.equal(found["model"][name], WHOLE)
    assert torch.equal(found["model"]["half"], WHOLE.bfloat16())


def test_a_checkpoint_is_nested_as_its_state_was(tmp_path: Path) -> None:
    weight = filled((4, 3, 2, 2), torch.float32, 1).to(memory_format=torch.channels_last)
    content = {
        "model": {"0.weight": weight, "scale": torch.tensor(2.0)},
        "optim": {"groups": [{"lr": 0.1, "params": [0, 1]}], "state": {"0": torch.ones(3)[1:]}},
        "nothing": torch.ones(0, 3),
    }
    found = read_back(saved_by(tmp_path, content))
    assert bits(found["model"].pop("0.weight")) == bits(content["model"].pop("0.weight"))
    assert_same(found, content)


def test_a_damaged_piece_is_found(tmp_path: Path) -> None:
    folder = saved_by(tmp_path, {"a": torch.arange(4.0), "b": torch.ones(2)})
    (piece,) = folder.glob("*.distcp")
    content = piece.read_bytes()
    piece.write_bytes(
        content.replace(struct.pack("<4f", 0, 1, 2, 3), struct.pack("<4f", 0, 1, 2, 9))
    )
    archive = open_archive(folder)
    with pytest.raises(DamagedError, match="CRC-32"):
        archive.check()
    with pytest.raises(DamagedError, match="CRC-32"):
        tensors.tensor(archive.content["a"])
    piece.write_bytes(content[:-30])
    with pytest.raises(DamagedError, match="ends at byte"):
        open_archive(folder)
    piece.unlink()
    with pytest.raises(DamagedError, match=r"\.distcp' is missing"):
        open_archive(folder)


def changed_metadata(folder: Path, change: Any) -> None:
    path = folder / ".metadata"
    with path.open("rb") as file:
        metadata = pickle.load(file)  # noqa: S301 - the test's own
    change(metadata)
    with path.open("wb") as file:
        pickle.dump(metadata, file)


def _elsewhere(metadata: Any) -> None:
    for place in metadata.storage_data.values():
        place.relative_path = "../saved/__0_0.distcp"


def _overlapping(metadata: Any) -> None:
    # As many elements as the whole, but one twice and one never.
    chunk = type(metadata.state_dict_metadata["a"].chunks[0])
    described = metadata.state_dict_metadata["a"]
    described.chunks = [chunk(torch.Size([at]), torch.Size([2])) for at in (0, 1)]


def _beyond(metadata: Any) -> None:
    described = metadata.state_dict_metadata["a"].chunks[0]
    described.offsets = torch.Size([1])


def _short(metadata: Any) -> None:
    metadata.state_dict_metadata["a"].size = torch.Size([5])


def _swapped(metadata: Any) -> None:
    (a, b) = list(metadata.storage_data)
    data = metadata.storage_data
    data[a], data[b] = data[b], data[a]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_elsewhere, "not one of its folder"),
        (_overlapping, "do not make up its shape"),
        (_beyond, "do not make up its shape"),
        (_short, "do not make up its shape"),
    ],
)
def test_metadata_that_contradicts_itself(tmp_path: Path, change: Any, message: str) -> None:
    folder = saved_by(tmp_path, {"a": torch.arange(4.0), "b": torch.ones(2)})
    changed_metadata(folder, change)
    with pytest.raises(DamagedError, match=message):
        open_archive(folder)


def test_a_piece_that_is_another_tensor_is_damage(tmp_path: Path) -> None:
    folder = saved_by(tmp_path, {"a": torch.arange(4.0), "b": torch.ones(2)})
    changed_metadata(folder, _swapped)
    archive = open_archive(folder)
    with pytest.raises(DamagedError, match=r"lies tensor float32\[2\], expected a tensor"):
        tensors.tensor(archive.content["a"])


def test_links_out_of_a_checkpoint_are_not_followed(tmp_path: Path) -> None:
    folder = saved_by(tmp_path, {"a": torch.arange(4.0)})
    (piece,) = folder.glob("*.distcp")
    piece.rename(tmp_path / "elsewhere")
    piece.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(DamagedError, match="a link out of the folder"):
        open_archive(folder)


# --- without torch -------------------------------------------------------------------------------


def test_opening_and_checking_need_neither_torch_nor_numpy(tmp_path: Path, exported: Any) -> None:
    save({"a": torch.ones(3)}, tmp_path / "zip")
    save({"a": torch.ones(3)}, tmp_path / "legacy", is_zip=False)
    torch.export.save(exported, tmp_path / "exported.pt2")
    saved_by(tmp_path, {"a": torch.arange(4.0)})
    code = (
        "import sys\nfrom pathlib import Path\nfrom luthier.files.opening import open_archive\n"
        f"for path in sorted(Path({str(tmp_path)!r}).iterdir()):\n"
        "    open_archive(path).check()\n"
        "assert not {'torch', 'numpy'} & set(sys.modules)\n"
    )
    assert len(list(tmp_path.iterdir())) == 4
    subprocess.run([sys.executable, "-c", code], check=True)
