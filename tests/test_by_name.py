"""A head by class name: which rows it begins with, what is said of it, what training keeps."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch

import luthier
from conftest import LENET, write_photos
from luthier import data, models, recipe, vision
from luthier.errors import DoesNotFitError, InterruptedRunError
from luthier.files import tensors
from luthier.files.opening import open_archive
from luthier.report import Console, read_metrics
from luthier.run import finetune as run_finetune
from luthier.run.job import Job, prepare

SMALL: dict[str, Any] = {"model": LENET, "image_size": 32, "batch_size": 4, "workers": 0}
QUIET = {"epochs": 2, "lr": 1e-8}  # learns nothing that could beat its start


def finetune(photos: Path, out: Path, **knobs: Any) -> luthier.Result:
    return luthier.finetune(photos, out=out, console=Console(quiet=True), **(SMALL | knobs))


def job(photos: Path, **knobs: Any) -> Job:
    wanted = recipe.replace(recipe.Recipe(), data=str(photos), **(SMALL | knobs))
    return prepare(recipe.resolve(wanted), Console(quiet=True))


def weights_of(path: Path) -> dict[str, torch.Tensor]:
    return dict(tensors.weights(open_archive(path)))


def last_checkpoint(run: Path) -> Path:
    return sorted((run / "checkpoints").iterdir())[-1]


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that knows dogs, cats and one more class, in another order than the photos'."""
    folder = tmp_path_factory.mktemp("zoo")
    photos = write_photos(folder / "data", {"cat": 17, "Dogs": 17, "bus": 9}, seed=5)
    return finetune(photos, folder / "run", weights="none", epochs=8, lr=0.02).model


@pytest.fixture(scope="module")
def pets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photos of cats, dogs and newts, which the zoo has none of."""
    root = tmp_path_factory.mktemp("pets")
    write_photos(root / "train", {"cat": 9, "dog": 9, "newt": 9}, seed=1)
    write_photos(root / "val", {"cat": 5, "dog": 5, "newt": 5}, seed=2)
    return root


def test_rows_are_taken_by_name_and_the_rest_starts_fresh(zoo: Path, pets: Path) -> None:
    by_name = job(pets, weights=str(zoo), head="by-name").model.state_dict()
    fresh = job(pets, weights=str(zoo)).model.state_dict()
    file = weights_of(zoo)
    for kind in ("weight", "bias"):
        head, theirs = by_name[f"fc3.{kind}"], file[f"fc3.{kind}"]
        assert torch.equal(head[0], theirs[2])  # in order: Dogs, bus, cat
        assert torch.equal(head[1], theirs[0])
        assert torch.equal(head[2], fresh[f"fc3.{kind}"][2])
        assert not torch.equal(head[0], fresh[f"fc3.{kind}"][0])
    for name, tensor in by_name.items():
        assert name.startswith("fc3.") or torch.equal(tensor, file[name])


def test_the_score_before_the_first_step_is_shown_everywhere(
    photos: Path, zoo: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    result = finetune(photos, run, weights=str(zoo), head="by-name", **QUIET)
    first, *others = read_metrics(run / "metrics.jsonl")
    assert {k: v for k, v in first.items() if k not in ("seconds", "loss", "accuracy")} == {
        "kind": "val",
        "epoch": 0,
        "iteration": 0,
        "step": 0,
        "correct": result.before.accuracy.correct if result.before else None,
        "images": 11,
        "lr": 0.0,
    }
    assert [r["epoch"] for r in others if r["kind"] == "val"] == [1, 2]
    assert result.summary["before"]["correct"] == first["correct"]
    log = (run / "log.txt").read_text()
    assert "val   epoch 0/2  iteration 0/14" in log
    assert f"start epoch 0: {result.before.accuracy if result.before else None}" in log
    assert "cat ← row 2 'cat' (same)" in log
    assert "dog ← row 0 'Dogs' (plural)" in log
    assert "were trained on 2 of these 2 classes already (cat, dog)" in log
    assert "little about classes that are new" in log


def test_the_best_model_may_be_the_start_itself(photos: Path, zoo: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    knobs = {"lr": 3.0, "momentum": 0.0, "epochs": 1, "clip_norm": 1.0}  # leaps away from it
    result = finetune(photos, run, weights=str(zoo), head="by-name", **knobs)
    assert result.before is not None
    assert result.before.better_than(result.last)
    assert result.best == result.before
    start = job(photos, weights=str(zoo), head="by-name").model.state_dict()
    for name, tensor in weights_of(result.model).items():
        assert torch.equal(tensor, start[name])
    told = open_archive(result.model).metadata
    assert told["training"]["validation"]["epoch"] == 0
    assert told["start"]["classes"] == {
        "cat": {"row": 2, "name": "cat", "how": "same"},
        "dog": {"row": 0, "name": "Dogs", "how": "plural"},
    }
    kept = json.loads((run / "checkpoints" / "step-00000000" / "manifest.json").read_text())
    assert kept["best"] is True


def test_patience_counts_from_the_start(photos: Path, zoo: Path, tmp_path: Path) -> None:
    knobs = {"lr": 3.0, "momentum": 0.0, "epochs": 9, "clip_norm": 1.0, "patience": 1}
    result = finetune(photos, tmp_path / "run", weights=str(zoo), head="by-name", **knobs)
    assert (result.best.epoch, result.last.epoch) == (0, 1)


def test_a_new_head_is_not_scored_and_the_log_says_what_the_weights_know(
    photos: Path, zoo: Path, tmp_path: Path
) -> None:
    result = finetune(photos, tmp_path / "run", weights=str(zoo), epochs=1)
    assert result.before is None
    assert read_metrics(tmp_path / "run" / "metrics.jsonl")[0]["kind"] == "step"
    log = (tmp_path / "run" / "log.txt").read_text()
    assert "were trained on 2 of these 2 classes already (cat, dog)" in log
    assert "--head by-name begins with what they know" in log


def test_no_name_in_common_is_an_error_with_the_nearest(zoo: Path, tmp_path: Path) -> None:
    other = write_photos(tmp_path / "data", {"bush": 3, "newt": 3})
    with pytest.raises(DoesNotFitError) as caught:
        job(other, weights=str(zoo), head="by-name")
    assert "none of the 2 classes has a row by its name among the 3" in caught.value.what
    assert "bush (did you mean 'bus'?)" in caught.value.what


def test_weights_without_known_classes_are_an_error(
    photos: Path, zoo: Path, tmp_path: Path
) -> None:
    plain = tmp_path / "plain.safetensors"
    tensors.write(plain, weights_of(zoo))
    with pytest.raises(DoesNotFitError, match=r"class names of the weights .* are not known"):
        job(photos, weights=str(plain), head="by-name")
    for names in (["cat", "dog"], ["bus", "car", "fox", "dog", "cat"]):
        config = {"id2label": {str(i): name for i, name in enumerate(names)}}
        (tmp_path / "config.json").write_text(json.dumps(config))
        said = f"has 3 rows, and {len(names)} class names are known"
        with pytest.raises(DoesNotFitError, match=said):
            job(photos, weights=str(plain), head="by-name")
    labels = {"0": "n1 dog", "1": "bus", "2": "cat, house cat"}
    (tmp_path / "config.json").write_text(json.dumps({"id2label": labels}))
    found = job(photos, weights=str(plain), head="by-name").match
    assert found is not None
    assert found.rows == (2, None)


def test_a_convolution_can_be_the_head(photos: Path, tmp_path: Path) -> None:
    built = models.build("squeezenet1_1", 2)
    path = tmp_path / "squeeze.safetensors"
    tensors.write(path, built.state_dict())
    labels = {str(i): f"thing {i}" for i in range(1000)} | {"7": "dog", "9": "cats"}
    (tmp_path / "config.json").write_text(json.dumps({"id2label": labels}))
    knobs = {"model": "squeezenet1_1", "image_size": 64, "weights": str(path), "head": "by-name"}
    head = job(photos, **knobs).model.state_dict()
    for kind in ("weight", "bias"):
        theirs = built.state_dict()[f"classifier.1.{kind}"]
        assert torch.equal(head[f"classifier.1.{kind}"], theirs[[9, 7]])


def test_imagenets_rows_score_as_the_whole_model_does_on_them(shared: Path, tmp_path: Path) -> None:
    rows = ["path,label,split"]
    listed = {
        split: sorted((shared / "hymenoptera" / split).rglob("*.jpg")) for split in ("train", "val")
    }
    for split, paths in listed.items():
        rows += [f"{p},{p.parent.name},{split}" for p in paths[:: 30 if split == "train" else 8]]
    (tmp_path / "photos.csv").write_text("\n".join(rows))
    weights = shared / "weights" / "mobilenet_v2-b0353104.pth"
    knobs = {"model": "mobilenet_v2", "image_size": 224, "weights": str(weights)}
    made = job(tmp_path / "photos.csv", head="by-name", **knobs)
    assert made.match is not None
    assert made.match.rows == (310, 309)
    whole = vision.load("torchvision.models").mobilenet_v2()
    whole.load_state_dict(weights_of(weights))
    whole.eval()
    made.model.eval()
    look = made.preprocessing
    with contextlib.closing(data.Batches(made.photos.val, look, batch_size=32)) as batches:
        images, _ = next(iter(batches.epoch()))
    with torch.no_grad():
        torch.testing.assert_close(made.model(images), whole(images)[:, [310, 309]])


# --- decay toward the start ---------------------------------------------------------------------

PULL = {"decay_to": "start", "weight_decay": 3.0, "epochs": 3, "lr": 0.02}


def distance(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor], name: str) -> float:
    return float((a[name] - b[name]).norm())


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_the_trunk_and_known_rows_are_pulled_to_their_start_and_fresh_rows_to_zero(
    pets: Path, zoo: Path, tmp_path: Path, optimizer: str
) -> None:
    knobs = {"weights": str(zoo), "head": "by-name", "optimizer": optimizer}
    began = job(pets, **knobs).model.state_dict()
    ends = {}
    for name, more in (("free", {"weight_decay": 0.0}), ("pulled", {})):
        finetune(pets, tmp_path / name, **(knobs | PULL | more | _without_decay(more)))
        ends[name] = weights_of(last_checkpoint(tmp_path / name) / "model.safetensors")
    free, pulled = ends["free"], ends["pulled"]
    for weight in ("conv1.weight", "conv2.weight", "fc1.weight", "fc2.weight"):
        assert distance(pulled, began, weight) < 0.7 * distance(free, began, weight)
    known, fresh = slice(0, 2), 2
    moved = {
        n: (e["fc3.weight"][known] - began["fc3.weight"][known]).norm() for n, e in ends.items()
    }
    assert moved["pulled"] < 0.7 * moved["free"]
    assert pulled["fc3.weight"][fresh].norm() < 0.7 * free["fc3.weight"][fresh].norm()


def _without_decay(more: dict[str, Any]) -> dict[str, Any]:
    return {"decay_to": "zero"} if more else {}


def test_a_new_head_is_pulled_to_zero_and_its_trunk_to_the_start(
    pets: Path, zoo: Path, tmp_path: Path
) -> None:
    finetune(pets, tmp_path / "run", weights=str(zoo), **PULL)
    checkpoint = last_checkpoint(tmp_path / "run")
    starts = weights_of(checkpoint / "start.safetensors")
    file = weights_of(zoo)
    assert set(starts) == {"conv1.weight", "conv2.weight", "fc1.weight", "fc2.weight"}
    assert all(torch.equal(tensor, file[name]) for name, tensor in starts.items())
    groups = json.loads((checkpoint / "state.json").read_text())["parts"]["optimizer"]["groups"]
    told = {g["names"][0]: g["options"] for g in groups}
    assert told["model.fc3.weight"]["weight_decay"] == 3.0
    assert "decay_to_start" not in told["model.fc3.weight"]
    assert told["model.fc1.weight"]["weight_decay"] == 0.0
    assert told["model.fc1.weight"]["decay_to_start"] == 3.0


def test_the_starts_cost_nothing_after_the_first_checkpoint(
    pets: Path, zoo: Path, tmp_path: Path
) -> None:
    finetune(pets, tmp_path / "run", weights=str(zoo), head="by-name", keep=4, **PULL)
    found = sorted((tmp_path / "run" / "checkpoints").glob("*/start.safetensors"))
    assert len(found) == 4
    assert len({path.stat().st_ino for path in found}) == 1


def test_only_what_learns_has_a_start(pets: Path, zoo: Path, tmp_path: Path) -> None:
    knobs = {"weights": str(zoo), "head": "by-name", "strategy": "frozen"}
    finetune(pets, tmp_path / "run", **knobs, **PULL)
    starts = weights_of(last_checkpoint(tmp_path / "run") / "start.safetensors")
    assert set(starts) == {"fc3.weight"}
    assert not starts["fc3.weight"][2].any()
    assert torch.equal(starts["fc3.weight"][0], weights_of(zoo)["fc3.weight"][2])


# --- stopped and continued ----------------------------------------------------------------------


class StopAfterStart(Console):
    """Asks its run to stop once the start has been scored."""

    request: Any = None

    def say(self, text: str) -> None:
        super().say(text)
        if text.startswith("val   epoch 0"):
            self.request.asked = True


@pytest.fixture
def stopping(monkeypatch: pytest.MonkeyPatch) -> StopAfterStart:
    console = StopAfterStart(quiet=True)
    listening = run_finetune.listening

    class Listening:
        def __enter__(self) -> Any:
            self.inner = listening()
            console.request = self.inner.__enter__()
            return console.request

        def __exit__(self, *error: object) -> None:
            self.inner.__exit__(*error)

    monkeypatch.setattr(run_finetune, "listening", Listening)
    return console


def test_a_run_stopped_before_its_first_step_does_not_score_its_start_again(
    photos: Path, zoo: Path, tmp_path: Path, stopping: StopAfterStart
) -> None:
    knobs = SMALL | {"weights": str(zoo), "head": "by-name", "epochs": 1}
    with pytest.raises(InterruptedRunError, match="stopped and saved at step 0"):
        luthier.finetune(photos, out=tmp_path / "cut", console=stopping, **knobs)
    result = luthier.resume(tmp_path / "cut", console=Console(quiet=True))
    whole = finetune(photos, tmp_path / "whole", **knobs)
    assert (result.before, result.best, result.last) == (whole.before, whole.best, whole.last)
    epochs = [r["epoch"] for r in read_metrics(tmp_path / "cut" / "metrics.jsonl")]
    assert epochs == [r["epoch"] for r in read_metrics(tmp_path / "whole" / "metrics.jsonl")]
    assert result.model.read_bytes() == whole.model.read_bytes()
    assert result.summary["start"] == whole.summary["start"]


def test_a_recipe_changed_to_pull_where_no_start_is_known_is_refused(
    photos: Path, zoo: Path, tmp_path: Path, stopping: StopAfterStart
) -> None:
    knobs = SMALL | {"weights": str(zoo), "head": "by-name", "epochs": 1, "weight_decay": 0.1}
    with pytest.raises(InterruptedRunError):
        luthier.finetune(photos, out=tmp_path / "cut", console=stopping, **knobs)
    told = tmp_path / "cut" / "recipe.toml"
    told.write_text(told.read_text().replace('decay_to = "zero"', 'decay_to = "start"'))
    with pytest.raises(DoesNotFitError, match=r"does not hold where conv1\.weight started"):
        luthier.resume(tmp_path / "cut", console=Console(quiet=True))
