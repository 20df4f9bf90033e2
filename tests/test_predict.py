"""Predicting: the model sees what it saw in validation, and what it says has the right name."""

from __future__ import annotations

import csv
import io
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import nn

import luthier
from conftest import LENET, write_photos
from luthier import data, vision
from luthier.cli.main import main
from luthier.data.finding import find_photos
from luthier.data.rendering import AVERAGED, views
from luthier.errors import DataError, ModelError, RunFolderError
from luthier.models.lenet import LeNet
from luthier.report import Console
from luthier.values import Preprocessing, Unreadable

SMALL = Preprocessing(36, 32, "bilinear", (0.5, 0.4, 0.3), (0.2, 0.3, 0.4))
CLASSES = ["dog", "cat"]  # not in the alphabet's order


def save_lenet(path: Path, look: Preprocessing | None = SMALL, **told: Any) -> Path:
    """Write a LeNet of two classes that was not trained; its scores differ well enough."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        model = LeNet(2)
    own: dict[str, Any] = {"classes": CLASSES, "preprocessing": look}
    luthier.save(model, path, architecture=LeNet, **(own | told))
    return path


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_lenet(tmp_path_factory.mktemp("model") / "model.safetensors")


def predictor(path: Path, **settings: Any) -> luthier.Predictor:
    return luthier.Predictor(path, model=LENET, device="cpu", **settings)


def run(*words: str | Path) -> int:
    """Run a command with LeNet named, which the file may not choose."""
    return main([*map(str, words), "--model", LENET])


class Recording(nn.Module):
    """Keeps what it sees; its scores are the mean red and the mean blue."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(3, 2)
        self.seen: list[torch.Tensor] = []

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.seen += images.clone()
        scores: torch.Tensor = self.fc(images.mean((2, 3)))
        return scores


def test_the_model_sees_real_photos_as_validation_does_byte_for_byte(
    shared: Path, tmp_path: Path
) -> None:
    look = Preprocessing(256, 224, "bilinear", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    recording, path = Recording(), tmp_path / "model.safetensors"
    luthier.save(recording, path, architecture=Recording, classes=CLASSES, preprocessing=look)
    samples = data.open_photos(data.list_images(shared / "hymenoptera")).val
    with luthier.Predictor(path, model=lambda: recording, device="cpu", batch_size=10) as it:
        found = it([sample.path for sample in samples])
    assert [one.image for one in found] == [str(sample.path) for sample in samples]
    batches = data.Batches(samples, look, batch_size=16, workers=2)
    number = 0
    for images, _ in batches.epoch():
        for image in images:
            assert image.numpy().tobytes() == recording.seen[number].numpy().tobytes()
            number += 1
    batches.close()
    assert number == len(recording.seen) == 153


def test_classes_are_named_in_the_models_order(photos: Path, model: Path) -> None:
    paths = sorted((photos / "val").rglob("*.png"))
    with predictor(model) as it:
        found = it(paths)
        seen = [data.preprocess(data.decode(p.read_bytes()), SMALL) for p in paths]
        expected = it.scores(torch.stack(seen)).double().softmax(1)
    for one, row in zip(found, expected, strict=True):
        assert one.classes == tuple(CLASSES[i] for i in row.argsort(descending=True).tolist())
        assert one.ranked[0][1] == max(one.probabilities) == pytest.approx(float(row.max()))
        assert sum(one.probabilities) == pytest.approx(1)


def test_paths_images_and_arrays_are_the_same_photo(
    shared: Path, tmp_path: Path, model: Path
) -> None:
    path = next((shared / "hymenoptera" / "val" / "ants").glob("*.jpg"))
    lossless = tmp_path / "large.png"
    with Image.open(path) as opened:
        opened.resize((900, 700)).save(lossless)  # large enough to be reduced
    turned = tmp_path / "turned.png"
    exif = Image.Exif()
    exif[0x0112] = 6
    with Image.open(lossless) as opened:
        opened.save(turned, exif=exif)
        pixels = np.asarray(opened)
    with predictor(model) as it:
        of_path = it(lossless)
        assert it(pixels).probabilities == of_path.probabilities
        assert it(pixels).image is None
        for name in (lossless, turned):
            with Image.open(name) as opened:
                assert it(opened).probabilities == it(name).probabilities
        assert it(turned).probabilities != of_path.probabilities
        assert it([str(lossless), pixels]) == [it(str(lossless)), it(pixels)]


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        (np.zeros((4, 4, 3), np.float32), r"array float32 \[4, 4, 3\]"),
        (np.zeros((3, 4, 4), np.uint8), r"array uint8 \[3, 4, 4\]"),
        (7, "int"),
    ],
)
def test_what_is_no_photo_is_named(model: Path, wrong: Any, named: str) -> None:
    with predictor(model) as it, pytest.raises(DataError, match=named):
        it([wrong])


def test_scores_depend_on_no_other_photo_but_by_rounding(photos: Path, model: Path) -> None:
    paths = sorted((photos / "train").rglob("*.png"))
    with predictor(model, batch_size=len(paths)) as whole, predictor(model, batch_size=1) as single:
        together = torch.tensor([one.ranked[0][1] for one in whole(paths)])
        turned = torch.tensor([one.ranked[0][1] for one in whole(paths[::-1])]).flip(0)
        alone = torch.tensor([one.ranked[0][1] for one in single(paths)])
    assert torch.allclose(together, alone, rtol=1e-5)
    assert torch.allclose(together, turned, rtol=1e-5)


# --- test-time augmentation ---------------------------------------------------------------------


@pytest.mark.parametrize("size", [(90, 60), (50, 77), (20, 90)])
def test_views_are_the_photo_its_corners_and_mirror_images(size: tuple[int, int]) -> None:
    noise = np.random.default_rng(1).integers(0, 255, (*size, 3), dtype=np.uint8)
    photo = Image.fromarray(noise)
    plain = data.preprocess(photo, SMALL)
    found = {name: views(photo, SMALL, name) for name in AVERAGED}
    assert [len(found[name]) for name in AVERAGED] == [1, 2, 10]
    for each in found.values():
        assert torch.equal(each[0], plain)
    assert torch.equal(found["flip"][1], plain.flip(2))
    functional = vision.load("torchvision.transforms.v2.functional")
    raw = functional.pil_to_tensor(photo)
    resized = functional.resize(raw, [SMALL.resize], antialias=True)
    *corners, centre = functional.five_crop(resized, [SMALL.image_size] * 2)
    five = functional.normalize(torch.stack([centre, *corners]) / 255, SMALL.mean, SMALL.std)
    expected = torch.cat([five, five.flip(3)])
    assert torch.allclose(found["ten-crop"], expected, atol=1e-5)


def test_probabilities_are_averaged_over_views(photos: Path, model: Path) -> None:
    path = next((photos / "val").rglob("*.png"))
    with Image.open(path) as opened:
        mirrored = opened.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    with predictor(model) as plain, predictor(model, tta="flip") as flipped:
        each = [dict(plain(image).ranked) for image in (path, mirrored)]
        assert each[0] != each[1]
        for name, value in flipped(path).ranked:
            assert value == pytest.approx((each[0][name] + each[1][name]) / 2, rel=1e-5)


# --- what cannot be read ------------------------------------------------------------------------


def test_unreadable_images_are_told_and_the_rest_goes_on(
    photos: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good = sorted((photos / "val").rglob("*.png"))
    broken, empty, pipe = tmp_path / "broken.png", tmp_path / "empty.jpg", tmp_path / "pipe.jpg"
    broken.write_bytes(good[0].read_bytes()[:300])
    empty.write_bytes(b"")
    os.mkfifo(pipe)
    bad = [broken, empty, pipe, tmp_path / "missing.jpg"]
    words = [good[0], *bad, good[1]]
    assert run("predict", model, *words, "--json", "--top", "1", "--batch-size", "2") == 1
    said = capsys.readouterr()
    told = json.loads(said.out)
    assert [one["image"] for one in told["images"]] == [str(good[0]), str(good[1])]
    assert [one["image"] for one in told["unreadable"]] == list(map(str, bad))
    for path in bad:
        assert f"{path} cannot be read: " in said.err
    assert [len(one["predictions"]) for one in told["images"]] == [1, 1]
    with predictor(model) as it:
        assert it(good[1]).ranked[0][1] == told["images"][1]["predictions"][0]["probability"]
        assert [isinstance(one, Unreadable) for one in it.stream(words)] == [0, 1, 1, 1, 1, 0]
        with pytest.raises(DataError, match=r"broken\.png cannot be read"):
            it(words)


def _encoded(kind: str) -> bytes:
    pixels = np.random.default_rng(2).integers(0, 255, (20, 30, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind)
    return file.getvalue()


ENCODED = {kind: _encoded(kind) for kind in ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "PPM")}


@settings(max_examples=150, deadline=None)
@given(
    kind=st.sampled_from(sorted(ENCODED)),
    changes=st.lists(st.tuples(st.integers(0, 200), st.integers(0, 255)), max_size=6),
    kept=st.floats(0.2, 1),
)
def test_no_damage_to_a_file_ends_a_prediction(
    tmp_path_factory: pytest.TempPathFactory,
    kind: str,
    changes: list[tuple[int, int]],
    kept: float,
) -> None:
    content = bytearray(ENCODED[kind])
    for place, value in changes:
        content[place % len(content)] = value
    path = tmp_path_factory.getbasetemp() / "damaged"
    path.write_bytes(content[: int(kept * len(content))])
    (found,) = next(iter(data.read_batches([path], SMALL, batch_size=1, workers=1)))
    assert (found.views is None) is (found.problem is not None)


# --- the command --------------------------------------------------------------------------------


@pytest.mark.parametrize("end", ["\n", "\0"])
def test_paths_come_by_standard_input_in_order(
    photos: Path, model: Path, tmp_path: Path, end: str
) -> None:
    strange = tmp_path / os.fsdecode(b"caf\xe9 1.png")
    strange.write_bytes(next((photos / "val").rglob("*.png")).read_bytes())
    paths = [strange, *sorted((photos / "train").rglob("*.png"))]
    command = [sys.executable, "-m", "luthier", "predict", model, "-", "--model", LENET, "--csv"]
    done = subprocess.run(
        [*command, *(["--null"] if end == "\0" else [])],
        input=os.fsencode(end.join(map(str, paths))),
        capture_output=True,
        check=True,
    )
    rows = list(csv.DictReader(os.fsdecode(done.stdout).splitlines()))
    assert [row["image"] for row in rows if row["rank"] == "1"] == list(map(str, paths))
    assert len(rows) == 2 * len(paths)
    with predictor(model) as it:
        first = it(paths)[0].ranked
    assert [(row["class"], float(row["probability"])) for row in rows[:2]] == list(first)


def test_a_word_is_a_file_a_folder_or_a_pattern(tmp_path: Path) -> None:
    for name in (
        "a/1.JPG",
        "a/b/2.png",
        "a/b/[3].png",
        "a/note.txt",
        "a/.hidden/4.png",
        "a/.5.png",
    ):
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()

    def names(word: str) -> list[str]:
        found = find_photos(str(tmp_path / word))
        return [Path(path).relative_to(tmp_path).as_posix() for path in found]

    assert names("a") == ["a/1.JPG", "a/b/2.png", "a/b/[3].png"]
    assert names("a/b/[3].png") == ["a/b/[3].png"]  # a file, though it looks like a pattern
    assert names("a/**/*.png") == ["a/b/2.png", "a/b/[3].png"]
    assert names("a/note.txt") == ["a/note.txt"]
    assert names("gone.jpg") == ["gone.jpg"]
    with pytest.raises(DataError, match="no file matches"):
        names("a/*.bmp")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="holds no images"):
        names("empty")


def test_flags_without_sense_are_refused(
    photos: Path, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for words, said in (
        (["--top", "0"], "--top 0"),
        (["--null"], "--null has no effect"),
        (["--tta", "12"], "tta '12'"),
        (["--batch-size", "0"], "batch size 0"),
        (["--precision", "fp8"], "precision 'fp8'"),
        (["--csv", "--json"], "not allowed with"),
    ):
        assert run("predict", model, photos, *words) == 2
        out, err = capsys.readouterr()
        assert said in err
        assert not out


# --- files --------------------------------------------------------------------------------------


def test_a_runs_folder_stands_for_its_model(photos: Path, tmp_path: Path) -> None:
    own: dict[str, Any] = {"model": LENET, "image_size": 32, "weights": "none", "epochs": 1}
    quiet = Console(quiet=True)
    result = luthier.finetune(photos, out=tmp_path / "run", console=quiet, device="cpu", **own)
    path = next((photos / "val").rglob("*.png"))
    with predictor(tmp_path / "run") as by_run, predictor(result.model) as by_file:
        assert by_run(path) == by_file(path)
        assert by_run.classes == ("cat", "dog")
        assert "fp32 (as in its validation)" in str(by_run)
    result.model.unlink()
    with pytest.raises(RunFolderError, match="has no model yet"):
        predictor(tmp_path / "run")


def test_precision_is_that_of_the_validation(tmp_path: Path, photos: Path) -> None:
    path = save_lenet(tmp_path / "model.safetensors")
    about = luthier.describe(path)
    told = replace(about, training={"precision": "bf16"})
    model = luthier.load_model(path, model=LeNet)
    luthier.save(model, path, like=told)
    image = next((photos / "val").rglob("*.png"))
    with predictor(path) as as_told, predictor(path, precision="fp32") as exact:
        assert "precision bf16 (as in its validation)" in str(as_told)
        assert "precision fp32 (asked for)" in str(exact)
        assert as_told(image).probabilities != exact(image).probabilities
        assert as_told(image).probabilities == pytest.approx(exact(image).probabilities, abs=0.02)


def test_half_precision_weights_and_broken_ones(tmp_path: Path, photos: Path) -> None:
    path, image = tmp_path / "model.safetensors", next((photos / "val").rglob("*.png"))
    save_lenet(path)
    about, model = luthier.describe(path), luthier.load_model(path, model=LeNet)
    luthier.save(model.half(), path, like=about)
    with predictor(path) as it:
        assert sum(it(image).probabilities) == pytest.approx(1)
    with torch.no_grad():
        model.fc3.bias[0] = torch.nan
    luthier.save(model, path, like=about)
    with predictor(path) as it, pytest.raises(ModelError, match="no finite numbers"):
        it(image)


def test_a_file_that_does_not_say_enough_is_refused(tmp_path: Path) -> None:
    path = save_lenet(tmp_path / "model.safetensors", look=None)
    with pytest.raises(ModelError, match="does not say what its preprocessing is"):
        predictor(path)
    save_lenet(path, classes=None)
    with pytest.raises(ModelError, match="does not say what its classes are called"):
        predictor(path)
    save_lenet(path)
    with pytest.raises(ModelError, match="not known"):  # and nothing was imported by its name
        luthier.Predictor(path)


def test_photos_are_asked_for_as_they_are_needed_and_threads_end(
    photos: Path,
) -> None:
    paths = sorted((photos / "train").rglob("*.png"))
    asked: list[Path] = []

    def some() -> Iterator[Path]:
        for path in paths:
            asked.append(path)
            yield path

    before = threading.active_count()
    batches = data.read_batches(some(), SMALL, batch_size=4, workers=3, ahead=2)
    assert [one.image for one in next(batches)] == list(map(str, paths[:4]))
    assert len(asked) == 12
    batches.close()
    assert threading.active_count() == before
    whole = data.read_batches(paths, SMALL, batch_size=4, workers=3, ahead=2)
    assert [one.image for batch in whole for one in batch] == list(map(str, paths))
    assert threading.active_count() == before


def test_photos_of_one_class_folder_are_found_by_the_folder(
    tmp_path: Path, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_photos(tmp_path / "photos", {"cat": 3})
    assert run("predict", model, tmp_path / "photos") == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("  ")[0].split("/")[-1] for line in lines] == [
        "000.png",
        "001.png",
        "002.png",
    ]
    assert all(line.count("%") == 2 for line in lines)
