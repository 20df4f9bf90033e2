"""Saving: what plain readers get, what ties and wrappers become, what a fault leaves behind."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import luthier
from faults import ERRORS, FaultyDisk, Victims
from luthier import vision
from luthier.errors import (
    CannotWriteError,
    DoesNotFitError,
    LuthierError,
    ModelError,
    RecipeError,
    UnsupportedFileError,
    UnsupportedStateError,
)
from luthier.files import disk, tensors, torch_file
from luthier.files.contents.candidates import candidates
from luthier.files.dtypes import DTYPES
from luthier.files.opening import open_archive
from luthier.models.lenet import LeNet
from luthier.weights import registry

ONLY_BY_DISK = True
NO_TORCH_CODE = sorted(name for name, dtype in DTYPES.items() if dtype.safetensors is None)


def random_bits(dtype: str, *shape: int, seed: int = 1) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    if dtype == "bool":
        return torch.randint(0, 2, shape, generator=generator).bool()
    size = (*shape, DTYPES[dtype].itemsize)
    flat = torch.randint(0, 256, size, dtype=torch.uint8, generator=generator)
    return flat.view(getattr(torch, dtype)).reshape(shape)


def bits(tensor: torch.Tensor) -> tuple[torch.dtype, tuple[int, ...], bytes]:
    plain = tensor.detach().resolve_conj().resolve_neg().contiguous()
    raw = plain.reshape(-1).view(torch.uint8).numpy().tobytes() if plain.numel() else b""
    return tensor.dtype, tuple(tensor.shape), raw


def all_bits(state: Any) -> dict[str, Any]:
    return {name: bits(tensor) for name, tensor in state.items()}


def read(path: Path) -> tensors.Tensors:
    return tensors.Tensors(candidates(open_archive(path))[0].entries)


class Tied(nn.Module):
    """A language model's two ends in small: one matrix under two names."""

    def __init__(self, size: int = 4) -> None:
        super().__init__()
        self.embed = nn.Embedding(6, size)
        self.norm = nn.BatchNorm1d(size)
        self.head = nn.Linear(size, 6, bias=False)
        self.head.weight = self.embed.weight


# --- the formats ------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:ComplexHalf support")
@pytest.mark.parametrize("mmap", [False, True])
def test_a_pt_file_of_every_dtype_is_read_by_torch_to_the_bit(tmp_path: Path, mmap: bool) -> None:
    state = {
        f"{dtype}.{index}": random_bits(dtype, *shape)
        for dtype in DTYPES
        for index, shape in enumerate([(), (0, 3), (3,), (2, 3, 5)])
    }
    luthier.save(state, tmp_path / "w.pt")
    found = torch.load(tmp_path / "w.pt", weights_only=True, mmap=mmap)
    assert list(found) == list(state)
    assert all_bits(found) == all_bits(state)
    assert all_bits(read(tmp_path / "w.pt")) == all_bits(state)


@pytest.mark.parametrize("dtype", [name for name in DTYPES if name not in NO_TORCH_CODE])
def test_safetensors_holds_every_dtype_that_the_format_has(tmp_path: Path, dtype: str) -> None:
    state = {"a": random_bits(dtype, 2, 3), "b": random_bits(dtype)}
    luthier.save(state, tmp_path / "w.safetensors")
    assert all_bits(read(tmp_path / "w.safetensors")) == all_bits(state)
    assert all_bits(safetensors.torch.load_file(tmp_path / "w.safetensors")) == all_bits(state)


@pytest.mark.filterwarnings("ignore:ComplexHalf support")
@pytest.mark.parametrize("dtype", NO_TORCH_CODE)
def test_a_dtype_that_the_format_lacks_is_named_and_nothing_is_written(
    tmp_path: Path, dtype: str
) -> None:
    with pytest.raises(UnsupportedStateError, match=rf"'b' is torch\.{dtype}"):
        luthier.save({"b": random_bits(dtype, 2)}, tmp_path / "w.safetensors")
    assert not list(tmp_path.iterdir())


@settings(max_examples=25, deadline=None)
@given(
    st.dictionaries(
        st.text(min_size=1, max_size=8).filter(lambda name: not name.startswith("module.")),
        st.tuples(
            st.sampled_from([n for n in DTYPES if n not in NO_TORCH_CODE]),
            st.lists(st.integers(0, 4), max_size=4),
        ),
        min_size=1,
        max_size=6,
    )
)
def test_any_names_and_shapes_come_back_equal_from_both_formats(
    tmp_path_factory: pytest.TempPathFactory, wanted: dict[str, tuple[str, list[int]]]
) -> None:
    folder = tmp_path_factory.mktemp("any")
    state = {name: random_bits(dtype, *shape) for name, (dtype, shape) in wanted.items()}
    try:
        for suffix in ("pt", "safetensors"):
            luthier.save(state, folder / f"w.{suffix}")
    except UnsupportedStateError as error:
        bare = {".".join(p for p in n.split(".") if p != "_orig_mod") for n in state}
        assert "safetensors file cannot hold" in str(error) or len(bare) < len(state)  # noqa: PT017
        return
    assert all_bits(torch.load(folder / "w.pt", weights_only=True)) == all_bits(state)
    assert all_bits(read(folder / "w.safetensors")) == all_bits(state)


def test_the_same_tensors_give_the_same_bytes_wherever_they_lie(tmp_path: Path) -> None:
    base = torch.arange(24.0).reshape(4, 6)
    spread = torch.empty(6, 4).t()
    spread.copy_(base)
    for suffix in ("pt", "safetensors"):
        luthier.save({"a": base, "b": base + 1}, tmp_path / f"1.{suffix}")
        luthier.save({"a": spread, "b": base + 1}, tmp_path / f"2-with-a-name.{suffix}")
        one, two = tmp_path / f"1.{suffix}", tmp_path / f"2-with-a-name.{suffix}"
        assert one.read_bytes() == two.read_bytes()


def test_a_slice_does_not_bring_its_storage_along(tmp_path: Path) -> None:
    large = torch.randn(1000, 100)
    luthier.save({"row": large[3], "turned": large[:2].t()}, tmp_path / "w.pt")
    assert (tmp_path / "w.pt").stat().st_size < 10_000
    found = torch.load(tmp_path / "w.pt", weights_only=True)
    assert torch.equal(found["row"], large[3])
    assert torch.equal(found["turned"], large[:2].t())


def test_large_files_have_numbers_of_64_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch_file, "_TOO_LARGE", 100)
    state = {f"layer{i}": torch.randn(50) for i in range(4)} | {"small": torch.ones(3)}
    luthier.save(state, tmp_path / "w.pt")
    assert all_bits(torch.load(tmp_path / "w.pt", weights_only=True, mmap=True)) == all_bits(state)
    assert all_bits(read(tmp_path / "w.pt")) == all_bits(state)
    with zipfile.ZipFile(tmp_path / "w.pt") as archive:
        assert archive.testzip() is None


def test_storages_of_a_pt_file_begin_at_multiples_of_64(tmp_path: Path) -> None:
    luthier.save({"a": torch.ones(3), "b": torch.ones(5), "c": torch.ones(1)}, tmp_path / "w.pt")
    with zipfile.ZipFile(tmp_path / "w.pt") as archive:
        content = (tmp_path / "w.pt").read_bytes()
        for info in archive.infolist():
            at = info.header_offset
            names, extra = content[at + 26 : at + 28], content[at + 28 : at + 30]
            start = at + 30 + int.from_bytes(names, "little") + int.from_bytes(extra, "little")
            assert start % 64 == 0


@pytest.mark.parametrize("name", ["w.ckpt", "w", "w.safetensors.gz", "w.PT"])
def test_another_suffix_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(UnsupportedFileError, match=r"\.safetensors"):
        luthier.save({"a": torch.ones(1)}, tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_what_is_no_tensor_is_named(tmp_path: Path) -> None:
    path = tmp_path / "w.pt"
    wrong: dict[str, Any] = {
        "epoch": {"w": torch.ones(1), "epoch": 3},
        "sparse": {"sparse": torch.eye(2).to_sparse()},
        "meta": {"meta": torch.empty(2, device="meta")},
        "1": {1: torch.ones(1)},
    }
    for name, state in wrong.items():
        with pytest.raises(UnsupportedStateError, match=name):
            luthier.save(state, path)
    with pytest.raises(UnsupportedStateError, match="list"):
        luthier.save([torch.ones(1)], path)  # type: ignore[arg-type]
    assert not path.exists()


# --- ties and wrappers ------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
def test_tied_weights_are_stored_once_and_tied_when_read(tmp_path: Path, suffix: str) -> None:
    model = Tied(64)
    saved = luthier.save(model, tmp_path / f"w.{suffix}")
    assert saved.ties == {"head.weight": "embed.weight"}
    assert saved.tensors == len(model.state_dict())
    assert saved.nbytes < 6 * 64 * 4 + 2000
    found = read(tmp_path / f"w.{suffix}")
    assert all_bits(found) == all_bits(model.state_dict())
    assert found["head.weight"].data_ptr() == found["embed.weight"].data_ptr()
    assert "head.weight is embed.weight" in str(saved)


def test_plain_readers_know_the_ties(tmp_path: Path) -> None:
    model, path = Tied(), tmp_path / "w.safetensors"
    luthier.save(model, path)
    other = Tied()
    assert safetensors.torch.load_model(other, path) == (set(), [])
    assert all_bits(other.state_dict()) == all_bits(model.state_dict())
    luthier.save(model, tmp_path / "w.pt")
    other.load_state_dict(torch.load(tmp_path / "w.pt", weights_only=True))


def test_ties_noted_by_the_formats_own_package_are_read(tmp_path: Path) -> None:
    model, path = Tied(), tmp_path / "w.safetensors"
    safetensors.torch.save_model(model, str(path))
    assert all_bits(read(path)) == all_bits(model.state_dict())


def test_a_tied_name_that_the_metadata_needs_is_stored_itself(tmp_path: Path) -> None:
    one = torch.ones(2)
    state = {"a": one, "format": one, "luthier": one}
    luthier.save(state, tmp_path / "w.safetensors")
    assert all_bits(read(tmp_path / "w.safetensors")) == all_bits(state)


def compiled(model: nn.Module) -> Any:
    return torch.compile(model, backend="eager")  # the usual one takes seconds to import


WRAPPED: dict[str, Any] = {
    "DataParallel": nn.DataParallel,
    "compile": compiled,
    "both": lambda model: nn.DataParallel(compiled(model)),
    "both, the other way": lambda model: compiled(nn.DataParallel(model)),
    "average": torch.optim.swa_utils.AveragedModel,
}


@pytest.mark.parametrize("wrapper", WRAPPED)
@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
def test_prefixes_of_wrappers_are_taken_off(tmp_path: Path, wrapper: str, suffix: str) -> None:
    model = LeNet(3)
    saved = luthier.save(WRAPPED[wrapper](model), tmp_path / f"w.{suffix}")
    assert all_bits(read(tmp_path / f"w.{suffix}")) == all_bits(model.state_dict())
    assert set(saved.taken) <= {"module.", "_orig_mod."}
    assert saved.taken
    assert saved.left_out == (("n_averaged",) if wrapper == "average" else ())


def test_a_wrapper_inside_of_a_model_goes_and_a_module_of_that_name_stays(tmp_path: Path) -> None:
    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.module = nn.Linear(2, 2)
            self.trunk = compiled(nn.Linear(2, 2))

    luthier.save(Own(), tmp_path / "w.pt")
    names = ["module.weight", "module.bias", "trunk.weight", "trunk.bias"]
    assert list(read(tmp_path / "w.pt")) == names
    state = {"module._orig_mod.a": torch.ones(1), "module.b.module.c": torch.ones(1)}
    assert luthier.save(state, tmp_path / "w.pt").taken == ("module.", "_orig_mod.")
    assert list(read(tmp_path / "w.pt")) == ["a", "b.module.c"]


def test_two_names_that_would_become_one_are_an_error(tmp_path: Path) -> None:
    state = {"a": torch.ones(1), "_orig_mod.a": torch.ones(1)}
    with pytest.raises(UnsupportedStateError, match="second 'a'"):
        luthier.save(state, tmp_path / "w.pt")


# --- faults -----------------------------------------------------------------------------------

OLD, NEW = torch.zeros(300), torch.ones(300)


def save_over(root: Path) -> None:
    for suffix in ("pt", "safetensors"):
        luthier.save({"a": NEW, "b": NEW + 1}, root / f"w.{suffix}")


def prepared(root: Path) -> Path:
    root.mkdir()
    for suffix in ("pt", "safetensors"):
        luthier.save({"a": OLD}, root / f"w.{suffix}")
    return root


def check_old_or_new(root: Path) -> list[str]:
    seen = []
    for suffix in ("pt", "safetensors"):
        found = read(root / f"w.{suffix}")
        is_old = all_bits(found) == all_bits({"a": OLD})
        assert is_old or all_bits(found) == all_bits({"a": NEW, "b": NEW + 1})
        seen.append("old" if is_old else "new")
    return seen


@pytest.mark.parametrize("fault", ERRORS)
def test_a_disk_that_refuses_costs_nothing_that_was_there(tmp_path: Path, fault: str) -> None:
    faulty, at = FaultyDisk(fault, 0), 0
    while True:
        root = prepared(tmp_path / f"{at}")
        faulty = FaultyDisk(fault, at)
        with disk.using(faulty):
            try:
                save_over(root)
            except CannotWriteError as error:
                assert "cannot be written" in str(error)  # noqa: PT017
        check_old_or_new(root)
        at += 1
        if at > len(faulty.log):
            break
    assert check_old_or_new(root) == ["new", "new"]


@pytest.fixture(scope="module")
def victims() -> Iterator[Victims]:
    found = Victims("test_save")
    yield found
    found.close()


@pytest.mark.parametrize("fault", ["kill", "kill in write", "power: all"])
def test_a_kill_at_any_moment_leaves_the_old_file_or_the_new(
    tmp_path: Path, victims: Victims, fault: str
) -> None:
    seen = set()
    for at in range(60):
        root, aside = prepared(tmp_path / f"{at}"), tmp_path / f"aside-{at}"
        aside.mkdir()
        was_killed = victims.run("save_over", root, aside, fault, at)
        seen.add(tuple(check_old_or_new(root)))
        if not was_killed and fault != "kill in write":
            break
        if fault == "kill in write" and at > 30:
            break
    assert seen >= {("old", "old"), ("new", "old"), ("new", "new")}


def test_a_folder_that_cannot_be_written_to_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CannotWriteError, match=r"w\.pt cannot be written"):
        luthier.save({"a": torch.ones(1)}, tmp_path / "file" / "w.pt")


def test_too_little_room_is_found_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("luthier.files.durable.free_bytes", lambda _folder: 100)
    with pytest.raises(CannotWriteError, match="free"):
        luthier.save({"a": torch.ones(100)}, tmp_path / "w.pt")
    assert not list(tmp_path.iterdir())


def test_memory_that_is_mapped_from_the_old_file_stays_what_it_was(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    luthier.save({"a": OLD}, path)
    mapped = read(path)["a"]
    luthier.save({"a": mapped + 1}, path)
    assert torch.equal(mapped, OLD)
    assert torch.equal(read(path)["a"], OLD + 1)


# --- descriptions and load_model --------------------------------------------------------------

LOOKS = {
    "resize": 36,
    "image_size": 32,
    "interpolation": "bilinear",
    "mean": [0.5, 0.5, 0.5],
    "std": [0.25, 0.25, 0.25],
}


def resnet(**arguments: Any) -> nn.Module:
    model: nn.Module = vision.load("torchvision.models").get_model("resnet18", **arguments)
    return model


def test_a_model_of_torchvision_is_built_again_from_its_file(tmp_path: Path) -> None:
    path, model = tmp_path / "m.safetensors", resnet(num_classes=3).half()
    luthier.save(
        nn.DataParallel(model),
        path,
        architecture="resnet18",
        classes=["ant", "bee", "wasp"],
        preprocessing=LOOKS,
    )
    before = torch.random.get_rng_state()
    found = luthier.load_model(path)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert not found.training
    assert list(found.state_dict()) == list(model.state_dict())
    assert all_bits(found.state_dict()) == all_bits(model.state_dict())
    about = luthier.describe(path)
    assert (about.architecture, about.head) == ("torchvision/resnet18", "fc")
    assert about.classes == ("ant", "bee", "wasp")
    assert about.preprocessing is not None
    assert about.preprocessing.as_dict() == LOOKS


def test_a_model_of_timm_is_built_again_from_its_file(tmp_path: Path) -> None:
    vision.load()
    timm = pytest.importorskip("timm")
    model = timm.create_model("resnet10t", num_classes=2, in_chans=1)
    arguments = {"num_classes": 2, "in_chans": 1}
    path = tmp_path / "m.safetensors"
    luthier.save(model, path, architecture="timm/resnet10t", arguments=arguments)
    assert all_bits(luthier.load_model(path).state_dict()) == all_bits(model.state_dict())


def test_a_class_is_called_where_it_is_passed_or_registered_and_never_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, model = tmp_path / "m.safetensors", Tied(3)
    luthier.save(model, path, architecture=Tied, arguments={"size": 3})
    assert luthier.describe(path).architecture == "test_save:Tied"
    with pytest.raises(ModelError, match=r"'test_save:Tied'.*\n.*load_model\(path, model=Tied\)"):
        luthier.load_model(path)
    found = luthier.load_model(path, model=Tied)
    assert all_bits(found.state_dict()) == all_bits(model.state_dict())
    assert found.head.weight is found.embed.weight
    monkeypatch.setattr(registry, "_known", {})
    luthier.register("test_save:Tied", Tied)
    assert all_bits(luthier.load_model(path).state_dict()) == all_bits(model.state_dict())
    luthier.register("test_save:Tied", Tied)
    with pytest.raises(ModelError, match="registered already"):
        luthier.register("test_save:Tied", LeNet)
    with pytest.raises(ModelError, match="name of your own"):
        luthier.register("timm/resnet18", LeNet)


def test_no_module_is_imported_because_a_file_names_it(tmp_path: Path) -> None:
    marker = tmp_path / "imported"
    (tmp_path / "evil.py").write_text(f"open({str(marker)!r}, 'w')")
    path = tmp_path / "m.safetensors"
    luthier.save(LeNet(2), path, architecture="evil:Net", classes=["a", "b"])
    program = (
        f"import luthier\ntry: luthier.load_model({str(path)!r})\nexcept luthier.LuthierError:"
    )
    program += " print('refused')"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(["src", str(tmp_path)])}
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=environment,
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "refused\n"
    assert not marker.exists()


@pytest.mark.parametrize(
    "arguments",
    [
        {"weights": "DEFAULT"},
        {"progress": True},
        {"num_classes": 10**12},
        {"num_classes": 10**6},
        {"num_classes": -1},
        {"replace_stride_with_dilation": [[[[[[1]]]]]]},
        {"nope": 1},
    ],
    ids=str,
)
def test_arguments_in_a_file_can_neither_fetch_nor_fill_the_memory(
    tmp_path: Path, arguments: dict[str, Any]
) -> None:
    path = tmp_path / "m.safetensors"
    luthier.save({"fc.bias": torch.ones(2)}, path, architecture="resnet18", arguments=arguments)
    with pytest.raises((ModelError, DoesNotFitError)):
        luthier.load_model(path)


@pytest.mark.parametrize(
    "argument", ["checkpoint_path", "pretrained", "pretrained_cfg", "cache_dir"]
)
def test_arguments_of_timm_that_open_or_fetch_are_refused(tmp_path: Path, argument: str) -> None:
    path = tmp_path / "m.safetensors"
    luthier.save(
        {"a": torch.ones(2)}, path, architecture="timm/resnet10t", arguments={argument: "x"}
    )
    with pytest.raises(ModelError, match="may not decide"):
        luthier.load_model(path)


def test_weights_that_do_not_fit_to_the_last_tensor_are_an_error(tmp_path: Path) -> None:
    path, model = tmp_path / "m.safetensors", resnet(num_classes=2)
    luthier.save(
        model.state_dict() | {"extra": torch.ones(1)},
        path,
        architecture="resnet18",
        arguments={"num_classes": 2},
    )
    with pytest.raises(DoesNotFitError, match="extra"):
        luthier.load_model(path)
    fewer = dict(list(model.state_dict().items())[1:])
    luthier.save(fewer, path, architecture="resnet18", arguments={"num_classes": 2})
    with pytest.raises(DoesNotFitError, match=r"conv1\.weight"):
        luthier.load_model(path)


def test_a_file_that_does_not_say_its_model_asks_for_the_class(tmp_path: Path) -> None:
    torch.save(LeNet(2), tmp_path / "whole.pt")
    with pytest.raises(ModelError, match=r"pickled whole.*LeNet[\s\S]*model=LeNet"):
        luthier.load_model(tmp_path / "whole.pt")
    found = luthier.load_model(tmp_path / "whole.pt", model=lambda: LeNet(2))
    assert isinstance(found, LeNet)
    luthier.save(LeNet(2), tmp_path / "plain.pt")
    with pytest.raises(ModelError, match="does not say"):
        luthier.load_model(tmp_path / "plain.pt")
    with pytest.raises(ModelError, match="does not say"):
        luthier.describe(tmp_path / "plain.pt")
    with pytest.raises(ModelError, match=r"luthier\.load\(model, file\)"):
        luthier.load_model(tmp_path / "plain.pt", model=LeNet(2))
    with pytest.raises(ModelError, match="could not be called"):
        luthier.load_model(tmp_path / "plain.pt", model=nn.Linear)


def test_a_description_is_taken_over_from_another_file(tmp_path: Path) -> None:
    first, second = tmp_path / "1.safetensors", tmp_path / "2.safetensors"
    luthier.save(
        LeNet(2),
        first,
        architecture=LeNet,
        classes=["a", "b"],
        preprocessing=LOOKS,
        arguments={"num_classes": 2},
    )
    saved = luthier.save(LeNet(2), second, like=first, classes=["c", "d"])
    assert saved.described
    one, two = luthier.describe(first), luthier.describe(second)
    assert two.classes == ("c", "d")
    assert (two.architecture, two.preprocessing) == (one.architecture, one.preprocessing)


def test_a_description_that_makes_no_sense_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    with pytest.raises(ModelError, match="3 classes are named, and the head 'fc3' gives 2"):
        luthier.save(LeNet(2), path, classes=["a", "b", "c"])
    with pytest.raises(ModelError, match="image_size"):
        luthier.save(LeNet(2), path, preprocessing={"resize": 3})
    with pytest.raises(ModelError, match="no name"):
        luthier.save(LeNet(2), path, architecture=lambda: LeNet(2))
    with pytest.raises(RecipeError, match="tensors and no more"):
        luthier.save(LeNet(2), tmp_path / "m.pt", classes=["a", "b"])
    for classes in ("ab", [0, 1]):
        with pytest.raises(ModelError, match="expected a list of texts"):
            luthier.save(LeNet(2), path, classes=classes)  # type: ignore[arg-type]
    for arguments in ({"act": nn.ReLU}, {"eps": float("nan")}, {"two words": 1}):
        with pytest.raises(ModelError, match=f"argument '{next(iter(arguments))}' cannot be"):
            luthier.save(LeNet(2), path, architecture=LeNet, arguments=arguments)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"resize": "large"}, "invalid literal"),
        ({"image_size": 0}, "numbers of pixels"),
        ({"interpolation": "nearest"}, "'nearest', not bilinear or bicubic"),
        ({"std": [1, 1, 0]}, "above 0"),
        ({"mean": [1, float("inf"), 0]}, "means are numbers"),
    ],
)
def test_a_preprocessing_that_makes_no_sense_is_refused(
    tmp_path: Path, wrong: dict[str, Any], words: str
) -> None:
    right = {"resize": 9, "image_size": 8, "interpolation": "bilinear"}
    right |= {"mean": [0, 0, 0], "std": [1, 1, 1]}
    with pytest.raises(ModelError, match=f"preprocessing: .*{words}"):
        luthier.save(LeNet(2), tmp_path / "m.safetensors", preprocessing=right | wrong)


def test_a_file_cannot_ask_for_a_million_layers(tmp_path: Path) -> None:
    pytest.importorskip("timm")
    path = tmp_path / "m.safetensors"
    name = "timm/vit_tiny_patch16_224"
    luthier.save({"a": torch.ones(2)}, path, architecture=name, arguments={"depth": 10**5})
    with pytest.raises(DoesNotFitError, match="20,000 layers"):
        luthier.load_model(path)


@pytest.mark.parametrize(
    "wrong",
    [
        {"classes": [1]},
        {"arguments": []},
        {"preprocessing": {}},
        {"architecture": 3},
        {"format": 2},
    ],
)
def test_a_damaged_description_is_an_error_of_luthiers(
    tmp_path: Path, wrong: dict[str, Any]
) -> None:
    path = tmp_path / "m.safetensors"
    about = {"format": 1, "luthier": "0", "architecture": "torchvision/resnet18", **wrong}
    safetensors.torch.save_file({"a": torch.ones(1)}, path, {"luthier": json.dumps(about)})
    with pytest.raises(LuthierError, match="description"):
        luthier.load_model(path)
