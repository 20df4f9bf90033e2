"""Evaluating: every figure is scikit-learn's or scipy's, and is of the images that are meant."""

from __future__ import annotations

import json
import math
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar
from scipy.stats import binomtest
from sklearn import metrics as reference
from torch.nn import functional as F

import luthier
from conftest import LENET, write_photos
from faults import FaultyDisk
from luthier.cli.main import main
from luthier.errors import CannotWriteError, DamagedError, DataError, RecipeError
from luthier.files import disk, tensors
from luthier.files.opening import open_archive
from luthier.metrics import evaluation, fit_temperature, log_probabilities, mcnemar
from luthier.models.lenet import LeNet
from luthier.report import Console, evaluation_lines, mcnemar_lines
from luthier.values import Evaluation, Score

QUIET = Console(quiet=True)
SMALL: dict[str, Any] = {"model": LENET, "image_size": 32, "batch_size": 4, "weights": "none"}


@st.composite
def scored(draw: st.DrawFn, most: int = 8) -> tuple[torch.Tensor, torch.Tensor]:
    """Scores ``[images, 1, classes]`` and labels; some classes may have no images."""
    classes, images = draw(st.integers(2, most)), draw(st.integers(1, 40))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 10**6)))
    labels = torch.randint(0, draw(st.integers(1, classes)), (images,), generator=generator)
    scores = torch.randn(images, 1, classes, generator=generator)
    scores[:, 0] += draw(st.sampled_from([0, 1, 3])) * F.one_hot(labels, classes)
    return scores, labels


def evaluated(scores: torch.Tensor, labels: torch.Tensor) -> tuple[Evaluation, torch.Tensor]:
    likely = log_probabilities(scores)
    names = [f"class {index}" for index in range(likely.shape[1])]
    images = [f"{index}.jpg" for index in range(len(labels))]
    return evaluation(names, images, labels, likely), likely.exp()


@settings(max_examples=25, deadline=None)
@given(case=scored())
def test_every_figure_is_that_of_scikit_learn(case: tuple[torch.Tensor, torch.Tensor]) -> None:
    scores, labels = case
    found, likely = evaluated(scores, labels)
    every, said = range(likely.shape[1]), likely.argmax(1)
    assert found.accuracy.correct == (said == labels).sum()
    assert found.accuracy.total == len(labels)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of classes without images
        balanced = reference.balanced_accuracy_score(labels, said)
        columns = reference.precision_recall_fscore_support(
            labels, said, labels=every, zero_division=np.nan
        )
    assert found.balanced_accuracy == pytest.approx(balanced, rel=1e-6)
    assert found.loss == pytest.approx(reference.log_loss(labels, likely, labels=every), rel=1e-6)
    for one, *row in zip(found.per_class, *columns, strict=True):
        assert (one.precision, one.recall, one.f1) == pytest.approx(row[:3], nan_ok=True, rel=1e-6)
        assert one.images == row[3]
    matrix = reference.confusion_matrix(labels, said, labels=every)
    assert np.array_equal(matrix, found.confusion)
    for k, right in found.top_k.items():
        assert right.correct == reference.top_k_accuracy_score(
            labels, likely, k=k, labels=every, normalize=False
        )
    if len(every) == 2 and len(labels.unique()) == 2:
        expected = reference.roc_auc_score(labels, likely[:, 1])
        assert found.roc_auc == pytest.approx(expected, rel=1e-6)
    else:
        assert found.roc_auc is None
    assert found.calibration_error == pytest.approx(_calibration_error(likely, labels), rel=1e-5)
    assert [m.probability for m in found.mistakes] == sorted(
        likely.max(1).values[said != labels].tolist(), reverse=True
    )
    for mistake in found.mistakes:
        at = int(mistake.image.removesuffix(".jpg"))
        assert mistake.label == f"class {labels[at]}" != mistake.said == f"class {said[at]}"
    assert sum(count for *_, count in found.confused) == len(found.mistakes)
    json.dumps(found.as_dict(), allow_nan=False)


def _calibration_error(likely: torch.Tensor, labels: torch.Tensor) -> float:
    """Return Guo et al.'s equation 3, by bins written out."""
    sure, said = (found.numpy() for found in likely.max(1))
    right = said == labels.numpy()
    bins = np.minimum((sure.astype(np.float32) * np.float32(15)).astype(int), 14)
    gaps = [abs(right[bins == b].sum() - sure[bins == b].sum()) for b in range(15)]
    return float(sum(gaps) / len(labels))


@given(only=st.tuples(st.integers(0, 60), st.integers(0, 60)))
def test_mcnemars_test_is_scipys_exact_binomial_test(only: tuple[int, int]) -> None:
    first = torch.tensor([True] * (5 + only[0]) + [False] * (only[1] + 2))
    second = torch.tensor([True] * 5 + [False] * only[0] + [True] * only[1] + [False] * 2)
    found = mcnemar(first, second)
    assert (found.both, found.first, found.second, found.neither) == (5, *only, 2)
    expected = binomtest(only[0], sum(only)).pvalue if sum(only) else 1.0
    assert found.p_value == pytest.approx(expected, rel=1e-9)


def test_a_comparison_says_what_it_means() -> None:
    right = torch.ones(100, dtype=torch.bool)
    worse = right.clone()
    worse[:20] = False
    accuracy = evaluated(torch.randn(3, 1, 2), torch.tensor([0, 1, 0]))[0].accuracy
    assert "B is the better one" in mcnemar_lines(("A", "B"), accuracy, mcnemar(worse, right))
    worse[2:] = True
    assert "No difference is shown" in mcnemar_lines(("A", "B"), accuracy, mcnemar(right, worse))
    assert mcnemar(torch.zeros(40_000).bool(), torch.ones(40_000).bool()).p_value == 0


# --- temperature --------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(case=scored(), factor=st.floats(0.2, 20))
def test_the_temperature_is_where_the_loss_is_least(
    case: tuple[torch.Tensor, torch.Tensor], factor: float
) -> None:
    scores, labels = case[0][:, 0].double() * factor, case[1]
    own = scores.gather(1, labels[:, None])[:, 0]

    def loss(sharpness: float) -> float:
        return float(F.cross_entropy(scores * sharpness, labels))

    if bool((own >= scores.max(1).values).all()):
        with pytest.raises(DataError, match="all right"):
            fit_temperature(scores, labels)
    elif float(own.mean()) <= float(scores.mean()):
        with pytest.raises(DataError, match="no higher than"):
            fit_temperature(scores, labels)
    else:
        best = minimize_scalar(
            lambda x: loss(math.exp(x)), bounds=(-12, 12), options={"xatol": 1e-9}
        )
        found = fit_temperature(scores, labels)
        assert loss(1 / found) <= best.fun * (1 + 1e-7)


def test_a_calibrated_file_has_the_same_weights_and_another_certainty(
    photos: Path, trained: Path, tmp_path: Path
) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(trained.read_bytes())
    before = open_archive(path)
    plain = luthier.evaluate(path, photos, **OWN)
    found = luthier.evaluate(path, photos, calibrate=True, **OWN)
    after = open_archive(path)
    assert found.calibration is not None
    assert after.metadata == {**before.metadata, "temperature": found.temperature}
    for name, tensor in tensors.weights(before).items():
        assert torch.equal(tensor, tensors.weights(after)[name]), name
    assert found.calibration.loss == (pytest.approx(plain.found.loss), found.found.loss)
    assert found.found.loss < plain.found.loss
    assert found.found.accuracy == plain.found.accuracy
    image = next((photos / "val").rglob("*.png"))
    with predictor(path) as sure, predictor(path, temperature=False) as raw:
        assert f"temperature, {found.temperature:.4g}" in str(sure)
        logs = torch.tensor(raw(image).probabilities).log()
        expected = (logs / found.temperature).softmax(0).tolist()
        assert sure(image).probabilities == pytest.approx(expected, rel=1e-5)
        assert sure(image).classes == raw(image).classes
        assert luthier.evaluate(path, photos, **OWN).found.as_dict() == found.found.as_dict()
    # A second calibration starts from the scores themselves.
    again = luthier.evaluate(path, photos, calibrate=True, **OWN)
    assert again.temperature == found.temperature
    assert luthier.verify(path)


def test_a_full_disk_leaves_the_file_as_it_was(photos: Path, trained: Path, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(trained.read_bytes())
    with disk.using(FaultyDisk("ENOSPC", 3)), pytest.raises(CannotWriteError):
        luthier.evaluate(path, photos, calibrate=True, **OWN)
    assert path.read_bytes() == trained.read_bytes()
    assert [file.name for file in tmp_path.iterdir()] == ["model.safetensors"]


@pytest.mark.parametrize("temperature", [0.0, -1.0, math.inf, math.nan, True, "2", 3])
def test_a_temperature_that_is_none_is_damage(tmp_path: Path, temperature: Any) -> None:
    path = tmp_path / "model.safetensors"
    told = {"format": 1, "luthier": "0", "classes": ["a", "b"], "temperature": temperature}
    tensors.write(path, {"x": torch.zeros(1)}, told)
    with pytest.raises(DamagedError, match="temperature"):
        luthier.describe(path)


def test_what_contradicts_a_calibration_is_refused(photos: Path, trained: Path) -> None:
    for settings_ in ({"tta": "flip"}, {"temperature": False}):
        with pytest.raises(RecipeError, match="--calibrate fits a temperature to one view"):
            luthier.evaluate(trained, photos, calibrate=True, **OWN, **settings_)


# --- which images, which classes ----------------------------------------------------------------

OWN: dict[str, Any] = {"model": LENET, "device": "cpu", "console": QUIET}


def predictor(path: Path, **settings_: Any) -> luthier.Predictor:
    return luthier.Predictor(path, model=LENET, device="cpu", **settings_)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train and val of two classes; three validation images lie in the wrong folder."""
    root = tmp_path_factory.mktemp("photos")
    write_photos(root / "train", {"cat": 17, "dog": 15}, seed=1, spread=90)
    write_photos(root / "val", {"cat": 9, "dog": 8}, seed=2, spread=90)
    for name, wrong in (("cat/000", "dog/100"), ("dog/001", "cat/101"), ("dog/002", "cat/102")):
        (root / "val" / f"{name}.png").rename(root / "val" / f"{wrong}.png")
    return root


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, photos: Path) -> Path:
    """A model of the photos that has some of them wrong."""
    out = tmp_path_factory.mktemp("trained") / "run"
    made = luthier.finetune(
        photos, out=out, console=QUIET, epochs=3, lr=0.002, optimizer="adamw", **SMALL
    )
    assert 0 < made.best.accuracy.correct < made.best.accuracy.total
    return made.model


def _score(run: Path) -> Score:
    return Score.from_dict(json.loads((run / "summary.json").read_text())["best"])


def test_the_validation_of_a_run_is_found_again_from_the_file_alone(
    photos: Path, trained: Path, tmp_path: Path
) -> None:
    alone = tmp_path / "elsewhere.safetensors"
    alone.write_bytes(trained.read_bytes())
    best = _score(trained.parent)
    for path in (alone, trained, trained.parent):
        found = luthier.evaluate(path, photos, **OWN)
        assert found.split == "val"
        assert found.found.accuracy == best.accuracy
        assert found.found.loss == pytest.approx(best.loss, rel=1e-5)
    assert luthier.evaluate(alone, photos, split="train", **OWN).found.accuracy.total == 32
    assert luthier.evaluate(alone, photos, split="all", **OWN).found.accuracy.total == 49
    assert luthier.evaluate(alone, photos / "val", **OWN).found.accuracy == best.accuracy


def test_a_split_that_a_run_has_made_is_found_in_its_folder(tmp_path: Path) -> None:
    folder = write_photos(tmp_path / "photos", {"a": 20, "b": 20}, spread=6)
    run = tmp_path / "run"
    luthier.finetune(folder, out=run, console=QUIET, epochs=1, val_fraction=0.3, **SMALL)
    found = luthier.evaluate(run, folder, **OWN)
    assert found.found.accuracy == _score(run).accuracy
    assert found.split == "val"
    # Other images of the same names were not held out from that run.
    others = write_photos(tmp_path / "others", {"a": 20, "b": 20}, seed=9)
    assert luthier.evaluate(run, others, **OWN).split == "all"
    alone = tmp_path / "model.safetensors"
    alone.write_bytes((run / "model.safetensors").read_bytes())
    whole = luthier.evaluate(alone, folder, **OWN)
    assert (whole.split, whole.found.accuracy.total) == ("all", 40)
    with pytest.raises(DataError, match="has no split"):
        luthier.evaluate(alone, folder, split="val", **OWN)
    with pytest.raises(RecipeError, match="split 'test'"):
        luthier.evaluate(alone, folder, split="test", **OWN)


def _reordered(path: Path, to: Path, extra: str) -> Path:
    """Write the same model with its classes the other way round, and one more in the middle."""
    about, old = luthier.describe(path), luthier.load_model(path, model=LeNet)
    new, rows = LeNet(3), [1, 1, 0]
    state = old.state_dict()
    for name in ("fc3.weight", "fc3.bias"):
        state[name] = state[name][rows].clone()
    state["fc3.bias"][1] = -100.0  # the extra class, never said
    new.load_state_dict(state)
    classes = (about.classes[1], extra, about.classes[0])
    luthier.save(new, to, like=replace(about, classes=classes, arguments={"num_classes": 3}))
    return to


def test_classes_are_matched_by_name_whatever_their_order(
    photos: Path, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = _reordered(trained, tmp_path / "other.safetensors", "cow")
    plain = luthier.evaluate(trained, photos, **OWN)
    found = luthier.evaluate(other, photos, against=trained, **OWN)
    assert found.found.classes == ("dog", "cow", "cat")
    assert found.found.accuracy == plain.found.accuracy
    assert found.found.mistakes == tuple(
        replace(ours, probability=pytest.approx(ours.probability, rel=1e-5))
        for ours in plain.found.mistakes
    )
    assert found.other is not None
    assert found.other.as_dict() == plain.found.as_dict()
    assert found.mcnemar is not None
    right, total = plain.found.accuracy.correct, plain.found.accuracy.total
    assert found.mcnemar.both == right
    assert found.mcnemar.neither == total - right
    assert found.mcnemar.p_value == 1
    # One class alone is enough, and its name must be known.
    single = write_photos(tmp_path / "single", {"cat": 3})
    assert luthier.evaluate(other, single, **OWN).found.accuracy.total == 3
    strange = write_photos(tmp_path / "strange", {"cat": 3, "cats": 2})
    words = ["evaluate", str(other), str(strange), "--model", LENET]
    assert main(words) == 2
    assert "'cats'" in (said := capsys.readouterr().err)
    assert "did you mean 'cat'" in said


def test_a_table_of_images_is_evaluated_too(photos: Path, trained: Path, tmp_path: Path) -> None:
    rows = [f"{path},{path.parent.name}" for path in (photos / "val").rglob("*.png")]
    (tmp_path / "images.csv").write_text("\n".join(["path,label", *rows]))
    found = luthier.evaluate(trained, tmp_path / "images.csv", **OWN)
    assert found.found.accuracy == luthier.evaluate(trained, photos, **OWN).found.accuracy


def test_unreadable_images_are_left_out_and_told(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_photos(tmp_path / "photos", {"cat": 3, "dog": 3})
    (folder / "cat" / "001.png").write_bytes(b"no image")
    words = ["evaluate", str(trained), str(folder), "--model", LENET]
    assert main([*words, "--json"]) == 1
    out, err = capsys.readouterr()
    told = json.loads(out)
    assert told["images"] == 5
    assert [one["image"] for one in told["unreadable"]] == ["cat/001.png"]
    assert "cat/001.png cannot be read: not an image" in err
    assert main(words) == 1
    assert "5 images" in capsys.readouterr().out
    for path in folder.rglob("*.png"):
        path.write_bytes(b"")
    assert main(words) == 2
    assert "none of 6 images" in capsys.readouterr().err


# --- what is printed ----------------------------------------------------------------------------


def test_tables_of_many_classes_show_the_worst() -> None:
    generator = torch.Generator().manual_seed(1)
    labels = torch.randint(0, 300, (900,), generator=generator)
    scores = 3 * F.one_hot(labels, 300) + torch.randn(900, 300, generator=generator)
    found, _ = evaluated(scores[:, None], labels)
    text = evaluation_lines(found)
    assert "the 10 classes with the lowest F1, of 300" in text
    assert "the 10 most confused pairs" in text
    assert f"{len(found.mistakes)} mistakes, the 10 most certain ones" in text
    assert max(map(len, text.splitlines())) < 100
    few, _ = evaluated(scores[:, None, :3], labels % 3)
    assert "taken for  class 0  class 1  class 2" in evaluation_lines(few)
