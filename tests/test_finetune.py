"""The main job on small real folders: what each strategy moves, what is kept, what comes out."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch

import luthier
from conftest import LENET, weights_of_three, write_photos
from luthier import data, models
from luthier.errors import CannotWriteError, RunFolderError
from luthier.files import disk, tensors
from luthier.files.opening import open_archive
from luthier.recipe import STRATEGIES
from luthier.report import Console, read_metrics
from luthier.training import Precision, evaluate
from luthier.values import Preprocessing

SMALL: dict[str, Any] = {"model": LENET, "image_size": 32, "batch_size": 4, "workers": 0}


def finetune(photos: Path, out: Path, **knobs: Any) -> luthier.Result:
    return luthier.finetune(photos, out=out, console=Console(quiet=True), **(SMALL | knobs))


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return weights_of_three(tmp_path_factory.mktemp("start"), batch_size=4)


TRUNK = ("conv1", "conv2", "fc1", "fc2")


@pytest.mark.parametrize("strategy", [s for s in STRATEGIES if s != "probe"])
def test_each_strategy_moves_its_parts_and_no_other(
    photos: Path, start: Path, tmp_path: Path, strategy: str
) -> None:
    weights = {} if strategy == "scratch" else {"weights": str(start)}
    result = finetune(
        photos, tmp_path / "run", strategy=strategy, epochs=3, weight_decay=0.1, **weights
    )
    moved = {name: count for name, count, _ in result.summary["audit"]}
    stands = strategy in ("frozen", "zero-lr")
    assert moved == dict.fromkeys(TRUNK, 0 if stands else 2) | {"fc3": 2}
    began, ended = (tensors.weights(open_archive(path)) for path in (start, result.model))
    for name in TRUNK:
        same = torch.equal(began[f"{name}.weight"], ended[f"{name}.weight"])
        assert same is stands or strategy in ("gradual", "lp-ft")  # their best may come early
    optimizer = open_archive(
        sorted((tmp_path / "run" / "checkpoints").iterdir())[-1] / "optimizer.safetensors"
    )
    assert any("conv1" in name for name in optimizer.content) is (strategy != "frozen")


def test_frozen_and_zero_lr_learn_the_same_head(photos: Path, start: Path, tmp_path: Path) -> None:
    ends = [
        finetune(photos, tmp_path / s, strategy=s, weights=str(start), epochs=2).model
        for s in ("frozen", "zero-lr")
    ]
    one, other = (tensors.weights(open_archive(path)) for path in ends)
    for name, tensor in one.items():
        assert torch.equal(tensor, other[name]), name


def test_the_model_file_needs_nothing_else(photos: Path, tmp_path: Path) -> None:
    result = finetune(photos, tmp_path / "run", weights="none", epochs=2, lr=0.01)
    archive = open_archive(result.model)
    told = archive.metadata
    assert told["classes"] == ["cat", "dog"]
    assert told["architecture"] == LENET
    model = models.build(told["architecture"], classes=told["arguments"]["num_classes"])
    luthier.load(model, result.model)
    how = told["preprocessing"]
    look = Preprocessing(**how | {"mean": tuple(how["mean"]), "std": tuple(how["std"])})
    samples = data.open_photos(data.list_images(photos)).val
    batches = data.Batches(samples, look, batch_size=4)
    tally = evaluate(model, batches.epoch(), Precision("cpu"))
    batches.close()
    assert tally.accuracy == result.best.accuracy
    assert tally.loss == pytest.approx(result.best.loss, rel=1e-6)


def test_the_best_model_is_kept_and_patience_ends_the_run(tmp_path: Path) -> None:
    noise = write_photos(tmp_path / "noise", {"a": 12, "b": 12}, spread=0)  # nothing to learn
    knobs = {"weights": "none", "schedule": "constant", "epochs": 30, "patience": 3}
    result = finetune(noise, tmp_path / "run", **knobs)
    scores = [r for r in read_metrics(tmp_path / "run" / "metrics.jsonl") if r["kind"] == "val"]
    best = max(scores, key=lambda r: (r["correct"], -r["loss"]))
    assert result.best.epoch == best["epoch"]
    assert len(scores) == result.last.epoch == best["epoch"] + 3 < 30
    kept = open_archive(result.model).metadata["training"]["validation"]
    assert kept["epoch"] == best["epoch"]
    assert kept["correct"] == best["correct"]


def test_a_table_of_images_trains_like_the_folder_it_lists(photos: Path, tmp_path: Path) -> None:
    rows = ["path,label,split"]
    for split in ("train", "val"):
        for label in ("cat", "dog"):
            found = sorted((photos / split / label).iterdir())
            rows += [f"{path},{label},{split}" for path in found]
    (tmp_path / "photos.csv").write_text("\n".join(rows))
    knobs = {"weights": "none", "epochs": 1}
    a = finetune(photos, tmp_path / "a", **knobs)
    b = finetune(tmp_path / "photos.csv", tmp_path / "b", **knobs)
    assert a.model.read_bytes() == b.model.read_bytes()


def test_everything_at_once_runs(photos: Path, start: Path, tmp_path: Path) -> None:
    result = finetune(
        photos,
        tmp_path / "run",
        weights=str(start),
        strategy="layerwise",
        layer_decay=0.5,
        optimizer="adamw",
        schedule="one-cycle",
        lr=1e-3,
        weight_decay=0.05,
        label_smoothing=0.1,
        class_weights="balanced",
        clip_norm=1.0,
        accumulate=2,
        ema=0.99,
        mixup=0.2,
        cutmix=1.0,
        augment="crop",
        epochs=2,
        save_every="3 steps",
    )
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    kinds = [json.loads(line)["kind"] for line in lines]
    assert kinds == (["step"] * 7 + ["train", "val"]) * 2
    assert result.summary["steps"] == 8  # seven batches in groups of two are four steps an epoch
    checkpoint = sorted((tmp_path / "run" / "checkpoints").iterdir())[-1]
    assert (checkpoint / "average.safetensors").exists()


def test_the_callers_random_state_is_left_alone(photos: Path, tmp_path: Path) -> None:
    torch.manual_seed(7)
    before = torch.get_rng_state()
    finetune(photos, tmp_path / "run", weights="none", epochs=1)
    assert torch.equal(before, torch.get_rng_state())


class FullAtTheStart(disk.Disk):
    """A disk that has no room for a recipe."""

    def rename(self, source: Path, target: Path) -> None:
        if target.name == "recipe.toml":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        super().rename(source, target)


def test_a_start_that_found_the_disk_full_is_made_again_in_its_folder(
    photos: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    with (
        disk.using(FullAtTheStart()),
        pytest.raises(CannotWriteError, match=r"cannot be written: No space left(.|\n)*again"),
    ):
        finetune(photos, run, weights="none", epochs=1)
    (run / ".tmp-recipe.toml-0").write_text("what a kill leaves")
    assert finetune(photos, run, weights="none", epochs=1).model.exists()
    assert not list(run.glob(".tmp-*"))
    with pytest.raises(RunFolderError, match="holds a run already"):
        finetune(photos, run, weights="none", epochs=1)
