"""Exports: what other programs load gives the model's own scores, or is not there."""

from __future__ import annotations

import itertools
import json
import math
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import nn

import luthier
from conftest import LENET, weights_of_three
from faults import FaultyDisk, Victims
from luthier import recipe, vision
from luthier.cli.main import main
from luthier.data import preprocess
from luthier.errors import (
    CannotWriteError,
    DamagedError,
    DataError,
    LuthierError,
    MissingExtraError,
    ModelError,
    RecipeError,
    UnsupportedFileError,
)
from luthier.exporting import Opened, Subject, check, graph
from luthier.exporting.timm import crop_pct
from luthier.files import disk
from luthier.models.lenet import LeNet
from luthier.values import Preprocessing

torchvision, timm, transformers = map(vision.load, ("torchvision", "timm", "transformers"))

HOW = Preprocessing(36, 32, "bilinear", (0.5, 0.4, 0.3), (0.2, 0.25, 0.3))
HOSTILE = ("<b>|`ant`*\n---", "蜂🐝\u2028\x7f", "\"\\: #'[x](http://y)")
FILES = ("onnx", "pt2", "safetensors", "pt")


def save_lenet(path: Path, **changes: Any) -> Path:
    torch.manual_seed(0)
    about = {"architecture": LeNet, "arguments": {"num_classes": 3}, "classes": HOSTILE}
    luthier.save(LeNet(num_classes=3), path, preprocessing=HOW, **(about | changes))
    return path


def photos_of(*sizes: tuple[int, int]) -> list[Image.Image]:
    generator = np.random.default_rng(3)
    patches = [generator.integers(0, 256, (5, 6, 3), dtype=np.uint8) for _ in sizes]
    return [Image.fromarray(p).resize(size) for p, size in zip(patches, sizes, strict=True)]


@pytest.fixture(scope="module")
def lenet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_lenet(tmp_path_factory.mktemp("lenet") / "model.safetensors")


@pytest.fixture(scope="module")
def run_of_three(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return weights_of_three(tmp_path_factory.mktemp("three")).parent


@pytest.fixture(scope="module")
def lenet_onnx(lenet: Path) -> Path:
    path: Path = export(lenet, lenet.with_name("a.onnx")).path
    return path


def export(file: Path, out: Path, **how: Any) -> Any:
    return luthier.export(file, out, model=LeNet, **how)


# --- the same scores ----------------------------------------------------------------------------


def scores_of(path: Path, batch: torch.Tensor) -> torch.Tensor:
    """Run an ONNX or torch.export file as somebody without luthier would."""
    if path.suffix == ".onnx":
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        return torch.from_numpy(
            session.run(["logits"], {session.get_inputs()[0].name: batch.numpy()})[0]
        )
    return torch.export.load(path).module()(batch)


@pytest.mark.parametrize("suffix", ["onnx", "pt2"])
def test_a_graph_takes_batches_of_any_size(lenet: Path, tmp_path: Path, suffix: str) -> None:
    done = export(lenet, tmp_path / f"a.{suffix}")
    model = luthier.load_model(lenet, model=LeNet)
    for count in (1, 2, 5):
        batch = torch.randn(count, 3, 32, 32)
        with torch.no_grad():
            assert torch.allclose(scores_of(done.path, batch), model(batch), atol=1e-5)
    assert done.checks[0].largest_batch > 1
    assert done.checks[0].difference < 1e-5


@pytest.mark.parametrize("suffix", ["onnx", "pt2"])
def test_with_preprocessing_a_graph_takes_photos_of_any_size(
    lenet: Path, tmp_path: Path, suffix: str
) -> None:
    done = export(lenet, tmp_path / f"a.{suffix}", with_preprocessing=True)
    model = luthier.load_model(lenet, model=LeNet)
    for photo in photos_of((50, 40), (33, 90), (36, 36)):
        with torch.no_grad():
            wanted = model(preprocess(photo, HOW)[None])
            found = scores_of(done.path, torch.from_numpy(np.array(photo))[None].repeat(2, 1, 1, 1))
        assert torch.allclose(found, wanted.repeat(2, 1), atol=1e-2 if suffix == "onnx" else 1e-6)


@pytest.mark.parametrize("suffix", ["safetensors", "pt"])
def test_weights_keep_their_bits(tmp_path: Path, suffix: str) -> None:
    torch.manual_seed(0)
    half = save_lenet(tmp_path / "half.safetensors")
    luthier.save(
        luthier.load_model(half, model=LeNet).bfloat16(), half, like=luthier.describe(half)
    )
    done = export(half, tmp_path / f"b.{suffix}")
    assert str(luthier.diff(half, done.path)).startswith("equal: 10 tensors, to the bit")
    assert export(half, tmp_path / "b.onnx").checks[0].passes  # which computes in float32


@settings(max_examples=60, deadline=None)
@given(
    resize=st.integers(4, 40),
    size=st.integers(4, 40),
    interpolation=st.sampled_from(["bilinear", "bicubic"]),
    edges=st.tuples(st.integers(2, 90), st.integers(2, 90)),
)
def test_preprocessing_in_a_graph_is_that_of_validation(
    resize: int, size: int, interpolation: str, edges: tuple[int, int]
) -> None:
    how = replace(HOW, resize=resize, image_size=size, interpolation=interpolation)
    photo = photos_of(edges)[0]
    found = graph.FromPhotos(nn.Identity(), how)(torch.from_numpy(np.array(photo))[None])
    assert torch.equal(found[0], preprocess(photo, how))


@pytest.mark.parametrize("resize", [36, 20], ids=["cropped", "laid over black"])
def test_the_exported_graph_computes_the_same(resize: int) -> None:
    how = replace(HOW, resize=resize, interpolation="bicubic")
    subject = Subject(nn.Flatten(), {}, "flat", {}, (), how, {})
    call = graph.program(subject, with_preprocessing=True).module()
    for photo in photos_of((50, 40), (33, 90), (31, 36), (200, 70)):
        found = call(torch.from_numpy(np.array(photo))[None])
        assert torch.equal(found[0], preprocess(photo, how).flatten())


@given(resize=st.integers(1, 3000), size=st.integers(1, 3000))
def test_timm_finds_the_edge_again(resize: int, size: int) -> None:
    how = replace(HOW, resize=resize, image_size=size)
    assert math.floor(size / json.loads(json.dumps(crop_pct(how)))) == resize


# --- the check ----------------------------------------------------------------------------------


class Pretender(LeNet):
    """Gives other scores once it is a graph."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        scores = super().forward(images)
        return scores.flip(1) if torch.compiler.is_exporting() else scores


class Deciding(LeNet):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return super().forward(images) * (2 if images.sum() > 0 else 1)


@pytest.mark.parametrize("suffix", ["onnx", "pt2"])
def test_an_export_that_gives_other_scores_is_not_kept(
    tmp_path: Path, suffix: str, capfd: pytest.CaptureFixture[str]
) -> None:
    file = save_lenet(tmp_path / "a.safetensors", architecture=Pretender)
    out = tmp_path / f"out.{suffix}"
    out.write_bytes(b"the old one")
    words = ["export", str(file), str(out), "--force", "--model", f"{__name__}:Pretender"]
    assert main(words) == 1
    assert "was not kept" in capfd.readouterr().err
    assert out.read_bytes() == b"the old one"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.safetensors", out.name]


@pytest.mark.parametrize(
    "wrong",
    [{"mean": (0.0, 0.4, 0.3)}, {"std": (1.0, 1.0, 1.0)}, {"resize": 64}],
    ids=str,
)
def test_wrong_preprocessing_is_found(wrong: dict[str, Any]) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 2)).eval()
    subject = Subject(model, {}, "", {}, ("a", "b"), replace(HOW, **wrong), {})
    call = graph.program(subject, with_preprocessing=True).module()
    photos = photos_of(*[(50, 40), (44, 60)] * 6)
    samples = [(preprocess(photo, HOW), photo) for photo in photos]
    (found,) = check(model, graph.opened(call, takes_photos=True), samples)
    assert not found.passes
    right = graph.program(replace(subject, preprocessing=HOW), with_preprocessing=True).module()
    (found,) = check(model, graph.opened(right, takes_photos=True), samples)
    assert found.passes
    assert (found.difference < 1e-5, found.images) == (True, 12)


@pytest.mark.parametrize(
    ("scores", "passes"),
    [
        (lambda x: x, True),
        (lambda x: x + 1e-6 * torch.randn_like(x), True),
        (lambda x: x + torch.tensor([0.01, 0.0]), False),
        (lambda x: x * math.nan, False),
        (lambda x: x.where(torch.arange(len(x))[:, None] != 7, math.nan), False),
        (lambda x: x[:, :1], False),
        (lambda x: x[:1].expand_as(x), False),
    ],
    ids=["same", "rounded", "shifted", "NaN", "one NaN", "too few", "the first for all"],
)
def test_what_passes(scores: Any, passes: bool) -> None:
    torch.manual_seed(0)
    samples = [(torch.randn(2) * 3, Image.new("RGB", (2, 2))) for _ in range(40)]
    (found,) = check(nn.Identity(), Opened(scores=scores), samples)
    assert found.passes is passes
    assert (found.difference <= found.tolerance) is passes  # which NaN is not, once there is one
    assert (found.images, found.largest_batch) == (40, 16)
    json.dumps(found.as_dict(), allow_nan=False)


def test_no_image_is_no_agreement() -> None:
    assert check(nn.Identity(), Opened(scores=nn.Identity()), []) == ()


def test_images_are_those_of_the_run_or_those_that_are_named(
    run_of_three: Path, tmp_path: Path
) -> None:
    inventory = json.loads((run_of_three / "data.json").read_text())
    held_out = sum(row[2] == "val" for row in inventory["files"])
    done = export(run_of_three, tmp_path / "a.pt")
    assert "validation images" in done.images
    assert done.checks[0].images == held_out
    data = Path(recipe.read(run_of_three / "recipe.toml").data.data or "")
    (data / "x" / "no.png").write_bytes(b"no image")
    named = export(run_of_three, tmp_path / "b.pt", check=[data / "x", data / "y" / "000.png"])
    assert named.checks[0].images == 10
    with pytest.raises(DataError, match="none of these files is an image"):
        export(run_of_three, tmp_path / "c.pt", check=data / "x" / "no.png")
    moved = shutil.copytree(run_of_three, tmp_path / "moved")
    data.rename(data.with_name("elsewhere"))
    try:
        away = export(moved / "model.safetensors", tmp_path / "d.pt")
    finally:
        data.with_name("elsewhere").rename(data)
    assert "random images" in away.images
    assert "no longer in" in away.images


# --- what travels with it -----------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["onnx", "pt2", "safetensors"])
def test_the_description_travels_along(lenet: Path, tmp_path: Path, suffix: str) -> None:
    done = export(lenet, tmp_path / f"a.{suffix}")
    assert luthier.describe(done.path) == luthier.describe(lenet)
    assert luthier.describe(done.path).classes == HOSTILE
    assert "classes" in str(luthier.inspect(done.path))
    content = done.path.read_bytes()
    for of_this_machine in (str(tmp_path), str(Path(luthier.__file__).parent), "test_export"):
        assert of_this_machine.encode() not in content


def test_onnx_programs_find_names_and_dimensions(lenet: Path, tmp_path: Path) -> None:
    done = export(lenet, tmp_path / "a.onnx", with_preprocessing=True)
    model = onnx.load(done.path)
    onnx.checker.check_model(model, full_check=True)
    (entry,) = model.metadata_props
    assert (entry.key, tuple(json.loads(entry.value)["classes"])) == ("luthier", HOSTILE)
    shape = model.graph.input[0].type.tensor_type.shape.dim
    assert [d.dim_param or d.dim_value for d in shape] == ["batch", "height", "width", 3]
    assert model.graph.output[0].type.tensor_type.shape.dim[0].dim_param == "batch"


@pytest.mark.parametrize(
    "value", ["{", "[]", '{"format": 1, "format": 1}', '{"luthier": "", "classes": 3}']
)
def test_a_damaged_description_in_onnx_is_said(
    lenet_onnx: Path, tmp_path: Path, value: str
) -> None:
    path = Path(shutil.copy(lenet_onnx, tmp_path))
    model = onnx.load(path)
    model.metadata_props.add(key="another", value="{")  # which is nobody's business here
    onnx.save(model, path)
    assert luthier.describe(path).classes == HOSTILE
    model.metadata_props[0].value = value
    onnx.save(model, path)
    with pytest.raises(DamagedError):
        luthier.describe(path)


# --- timm and transformers ----------------------------------------------------------------------


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small model of timm's."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("tiny") / "tiny.safetensors"
    model = timm.create_model("test_resnet", num_classes=3, in_chans=3)
    how = Preprocessing(71, 64, "bicubic", (0.5, 0.4, 0.3), (0.2, 0.25, 0.3))
    luthier.save(model, path, architecture="timm/test_resnet", classes=HOSTILE, preprocessing=how)
    return path


@pytest.mark.parametrize("form", ["timm", "hf"])
def test_a_model_of_timms_is_loaded_by_timm_and_transformers(
    tiny: Path, tmp_path: Path, form: str
) -> None:
    done = luthier.export(tiny, tmp_path / "out", to=form)
    assert [one.difference < 0.05 for one in done.checks] == [True, True]
    batch = torch.randn(3, 3, 64, 64)
    with torch.no_grad():
        wanted = luthier.load_model(tiny)(batch)
        model = timm.create_model(f"local-dir:{done.path}", pretrained=True).eval()
        assert torch.equal(model(batch), wanted)
        assert tuple(model.pretrained_cfg["label_names"]) == HOSTILE
        other = transformers.AutoModelForImageClassification.from_pretrained(done.path).eval()
        assert torch.equal(other(batch).logits, wanted)
        assert tuple(other.config.id2label.values()) == HOSTILE
    again = luthier.load_model(done.path / "model.safetensors").eval()
    assert torch.equal(again(batch), wanted)


@pytest.mark.parametrize("form", ["timm", "hf"])
def test_resnet_of_torchvision_becomes_theirs(tmp_path: Path, form: str) -> None:
    torch.manual_seed(0)
    model = torchvision.models.resnet18(num_classes=2).eval()
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.uniform_(layer.running_mean, -0.1, 0.1)
            nn.init.uniform_(layer.running_var, 0.5, 2)
    how = replace(HOW, resize=73, image_size=64)
    file = tmp_path / "a.safetensors"
    luthier.save(
        model,
        file,
        architecture="torchvision/resnet18",
        classes=["ant", "bee"],
        preprocessing=how,
    )
    done = luthier.export(file, tmp_path / "out", to=form)
    assert done.checks[0].difference < 1e-6
    assert "122 tensors renamed" in done.note
    modes = {path.name: path.stat().st_mode & 0o777 for path in done.path.iterdir()}
    assert len(set(modes.values())) == 1, modes
    if form == "hf":
        config = json.loads((done.path / "config.json").read_text())
        assert config["architectures"] == ["ResNetForImageClassification"]
        assert config["id2label"] == {"0": "ant", "1": "bee"}
        assert config["label2id"] == {"ant": 0, "bee": 1}


@pytest.mark.long
def test_vit_of_torchvision_becomes_transformers_own(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = torchvision.models.vit_b_32(num_classes=2)
    nn.init.normal_(model.heads.head.weight)
    how = replace(HOW, resize=256, image_size=224)
    file = tmp_path / "a.safetensors"
    name = "torchvision/vit_b_32"
    luthier.save(model, file, architecture=name, classes=["a", "b"], preprocessing=how)
    done = luthier.export(file, tmp_path / "out", to="hf")
    assert done.checks[0].difference < 1e-5
    config = json.loads((done.path / "config.json").read_text())
    assert config["architectures"] == ["ViTForImageClassification"]


@pytest.fixture(scope="module")
def mobilenet(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """MobileNetV2 with its published weights, of 1000 classes."""
    path = tmp_path_factory.mktemp("mobilenet") / "m.safetensors"
    model = torchvision.models.mobilenet_v2()
    luthier.load(model, shared / "weights" / "mobilenet_v2-b0353104.pth")
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    luthier.save(
        model,
        path,
        architecture="torchvision/mobilenet_v2",
        classes=[f"class {number}" for number in range(1000)],
        preprocessing=Preprocessing(256, 224, "bilinear", mean, std),
    )
    return path


@pytest.mark.parametrize(
    ("name", "how", "within"),
    [
        ("a.onnx", {"with_preprocessing": True}, [0.02]),
        ("a", {"to": "hf"}, [1e-6, 0.03]),
        pytest.param("a.onnx", {}, [1e-5], marks=pytest.mark.long),
        pytest.param("a.pt2", {"with_preprocessing": True}, [0.02], marks=pytest.mark.long),
        pytest.param("a", {"to": "timm"}, [1e-6, 0.03], marks=pytest.mark.long),
    ],
)
def test_real_weights_on_real_photos(
    mobilenet: Path, shared: Path, tmp_path: Path, name: str, how: Any, within: list[float]
) -> None:
    photos = sorted((shared / "hymenoptera" / "val" / "bees").iterdir())[:10]
    done = luthier.export(mobilenet, tmp_path / name, check=photos, **how)
    assert [one.images for one in done.checks] == [10] * len(within)
    assert all(one.difference <= most for one, most in zip(done.checks, within, strict=True))
    assert [one.other_tops for one in done.checks] == [0] * len(within)


# --- what is refused ----------------------------------------------------------------------------

REFUSED: dict[str, tuple[str, dict[str, Any], type[LuthierError], str]] = {
    "no format": ("a.xyz", {}, UnsupportedFileError, "give --to: onnx, pt2, safetensors"),
    "an unknown one": ("a", {"to": "onx"}, RecipeError, "did you mean 'onnx'"),
    "two": ("a.onnx", {"to": "pt2"}, RecipeError, r"name it NAME\.pt2"),
    "a file for a folder": ("a.pt", {"to": "hf"}, RecipeError, "name a new folder"),
    "no graph": ("a", {"to": "timm", "with_preprocessing": True}, RecipeError, "use onnx or pt2"),
    "no counterpart": ("a", {"to": "timm"}, UnsupportedFileError, "timm has no model that luthier"),
    "nor there": ("a", {"to": "hf"}, UnsupportedFileError, "use --to onnx, pt2 or safetensors"),
    "two cards": ("a", {"to": "timm", "card": "b.md"}, RecipeError, "--card has no effect"),
    "a card over it": ("a.pt", {"card": "a.pt"}, RecipeError, "no place for a card"),
    "no such image": ("a.pt", {"check": "gone.png"}, DataError, "gone.png does not exist"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused_leaves_nothing(
    lenet: Path, tmp_path: Path, case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    name, how, error, said = REFUSED[case]
    with pytest.raises(error, match=said):
        export(lenet, Path(name), **how)
    assert not list(tmp_path.iterdir())


def test_what_is_there_is_not_replaced_unasked(lenet: Path, tmp_path: Path) -> None:
    (tmp_path / "a.pt").write_bytes(b"old")
    with pytest.raises(RecipeError, match="--force"):
        export(lenet, tmp_path / "a.pt")
    assert (tmp_path / "a.pt").read_bytes() == b"old"
    assert export(lenet, tmp_path / "a.pt", force=True).checks[0].passes
    (tmp_path / "there").mkdir()
    with pytest.raises(RecipeError, match="name a new folder"):
        export(lenet, tmp_path / "there", to="timm", force=True)
    with pytest.raises(RecipeError, match="never writes over its input"):
        export(lenet, lenet, force=True)


@pytest.mark.parametrize("package", ["onnx", "onnxscript", "onnxruntime"])
def test_what_is_not_installed_is_named(
    lenet: Path, tmp_path: Path, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingExtraError, match=rf"{package}.*\n.*luthier\[onnx\]"):
        export(lenet, tmp_path / "a.onnx")
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(MissingExtraError, match=r"luthier\[hf\]"):
        export(lenet, tmp_path / "a", to="hf")
    assert not list(tmp_path.iterdir())


def test_a_file_that_says_too_little_is_refused(tmp_path: Path) -> None:
    luthier.save(LeNet(num_classes=3), tmp_path / "a.safetensors", architecture=LeNet)
    with pytest.raises(ModelError, match="does not say what its model sees of a photo"):
        export(tmp_path / "a.safetensors", tmp_path / "a.onnx")


def test_a_model_that_is_no_graph_is_refused(tmp_path: Path) -> None:
    file = save_lenet(tmp_path / "a.safetensors", architecture=Deciding)
    with pytest.raises(ModelError, match=r"Deciding is no graph(.|\n)*--to safetensors"):
        luthier.export(file, tmp_path / "a.onnx", model=Deciding)
    assert [p.name for p in tmp_path.iterdir()] == ["a.safetensors"]


# --- disks --------------------------------------------------------------------------------------


def export_weights(root: Path) -> None:
    luthier.export(root / "a.safetensors", root / "out" / "b.pt", model=LeNet, force=True)


def export_graph(root: Path) -> None:
    luthier.export(root / "a.safetensors", root / "out" / "b.pt2", model=LeNet, force=True)


def export_folder(root: Path) -> None:
    luthier.export(root / "a.safetensors", root / "out" / "b", to="timm")


SCENARIOS = {"b.pt": export_weights, "b.pt2": export_graph, "b": export_folder}


def prepared(root: Path, name: str, tiny: Path) -> Path:
    root.mkdir()
    (root / "out").mkdir()
    if name == "b":
        shutil.copy(tiny, root / "a.safetensors")
    else:
        save_lenet(root / "a.safetensors")
        (root / "out" / name).write_bytes(b"old")
    return root


def whole_or_old(place: Path) -> bool:
    if not place.exists():
        return place.suffix == ""
    if place.is_dir():
        files = {path.name for path in place.iterdir()}
        return files == {"README.md", "config.json", "model.safetensors"}
    return place.read_bytes() == b"old" or bool(luthier.inspect(place).weights)


@pytest.mark.parametrize("fault", ["ENOSPC", "full"])
@pytest.mark.parametrize("name", SCENARIOS)
def test_a_disk_that_refuses_leaves_nothing_by_half(
    tiny: Path, tmp_path: Path, name: str, fault: str
) -> None:
    refused = 0
    for at in itertools.count(step=3 if name == "b" else 1):
        root = prepared(tmp_path / str(at), name, tiny)
        faulty = FaultyDisk(fault, at)
        with disk.using(faulty):
            try:
                SCENARIOS[name](root)
            except CannotWriteError:
                refused += 1
        assert [p.name for p in (root / "out").iterdir() if p.name != name] == []
        assert whole_or_old(root / "out" / name)
        if at > len(faulty.log):
            break
    assert refused


@pytest.mark.parametrize("name", ["b.pt", pytest.param("b", marks=pytest.mark.long)])
def test_a_kill_leaves_nothing_by_half(
    tiny: Path, tmp_path: Path, name: str, victims: Victims
) -> None:
    killed = 0
    for at in itertools.count(step=2):
        root = prepared(tmp_path / str(at), name, tiny)
        aside = tmp_path / f"aside-{at}"
        aside.mkdir()
        was_killed = victims.run(SCENARIOS[name].__name__, root, aside, "kill", at)
        killed += was_killed
        assert whole_or_old(root / "out" / name)
        if not was_killed:
            break
    assert killed > 1


# --- the command --------------------------------------------------------------------------------


def test_the_command_exports_a_run(run_of_three: Path, tmp_path: Path) -> None:
    words = ["export", run_of_three, "a.onnx", "--model", LENET, "--card", "a.md", "--json"]
    command = [sys.executable, "-m", "luthier", *map(str, words)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    told = json.loads(done.stdout)
    assert (told["format"], told["card"]) == ("onnx", "a.md")
    assert told["checks"][0]["passes"] is True
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.md", "a.onnx"]
    card = (tmp_path / "a.md").read_text()
    assert "strategy" in card
    assert "| all |" in card
    assert str(run_of_three) not in card
