"""The exactness contract: training is a function of (recipe, step)."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import luthier
from conftest import LENET, write_photos
from luthier import checkpoint, recipe
from luthier.errors import DoesNotFitError, InterruptedRunError, ModelError
from luthier.report import Console
from luthier.run import finetune as job

SMALL = {"model": LENET, "image_size": 32, "batch_size": 4, "epochs": 2, "workers": 0, "seed": 3}


def run(data: Path, out: Path, **knobs: Any) -> luthier.Result:
    given = SMALL | knobs
    if "strategy" not in given and "weights" not in given:
        given["weights"] = "none"
    return luthier.finetune(data, out=out, console=Console(quiet=True), **given)


def bits(run_folder: Path) -> dict[str, bytes]:
    """The last checkpoint, without times; the best model and its scores; the metrics."""
    last = sorted((run_folder / "checkpoints").iterdir())[-1]
    found = {"state": (last / "state.json").read_bytes()}
    for part in sorted(last.glob("*.safetensors")):
        for name, tensor in load_file(part).items():
            found[f"{part.stem}:{name}"] = tensor.reshape(-1).view(torch.uint8).numpy().tobytes()
    for name in ("model", "predictions"):
        found[f"best {name}"] = (run_folder / f"{name}.safetensors").read_bytes()
    records = [json.loads(line) for line in (run_folder / "metrics.jsonl").read_text().splitlines()]
    timeless = [{k: v for k, v in r.items() if k != "seconds"} for r in records]
    found["metrics"] = json.dumps(timeless).encode()
    return found


def differences(a: dict[str, bytes], b: dict[str, bytes]) -> list[str]:
    return [name for name in sorted(a.keys() | b.keys()) if a.get(name) != b.get(name)]


class StopAt(Console):
    """Asks its run to stop after so many batches, as a signal would."""

    def __init__(self, batches: int) -> None:
        super().__init__(quiet=True)
        self.left = batches
        self.request: Any = None

    def step(self, *facts: Any) -> None:
        super().step(*facts)
        self.left -= 1
        if self.left == 0:
            self.request.asked = True


@pytest.fixture
def stop_at(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Give a console that stops its run after a number of batches."""

    def make(batches: int) -> StopAt:
        console = StopAt(batches)
        listening = job.listening

        class Listening:
            def __enter__(self) -> Any:
                self.inner = listening()
                console.request = self.inner.__enter__()
                return console.request

            def __exit__(self, *error: object) -> None:
                self.inner.__exit__(*error)

        monkeypatch.setattr(job, "listening", Listening)
        return console

    return make


@pytest.fixture(scope="module")
def trunk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of a LeNet that has learned three classes, one of them by another name."""
    folder = tmp_path_factory.mktemp("trunk")
    data = write_photos(folder / "data", {"x": 9, "y": 9, "Dogs": 9}, seed=5)
    return run(data, folder / "run", epochs=1).model


@pytest.mark.parametrize("workers", [1, 4])
def test_the_number_of_workers_changes_no_bit(photos: Path, tmp_path: Path, workers: int) -> None:
    run(photos, tmp_path / "a")
    run(photos, tmp_path / "b", workers=workers)
    assert differences(bits(tmp_path / "a"), bits(tmp_path / "b")) == []


def test_another_seed_changes_order_augmentation_and_head(photos: Path, tmp_path: Path) -> None:
    run(photos, tmp_path / "a")
    run(photos, tmp_path / "b", seed=4)
    assert len(differences(bits(tmp_path / "a"), bits(tmp_path / "b"))) > 10


VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "adamw, cosine, warm-up, clipping": {
        "optimizer": "adamw",
        "schedule": "cosine",
        "warmup_epochs": 0.5,
        "clip_norm": 0.5,
    },
    "one-cycle, average, accumulation": {"schedule": "one-cycle", "ema": 0.9, "accumulate": 3},
    "mixup and CutMix, smoothing, class weights": {
        "mixup": 0.2,
        "cutmix": 1.0,
        "label_smoothing": 0.1,
        "class_weights": "balanced",
    },
    "bf16": {"precision": "bf16"},
    "frozen": {"strategy": "frozen"},
    "gradual": {"strategy": "gradual", "unfreeze_epochs": 1},
    "lp-ft": {"strategy": "lp-ft", "head_epochs": 1},
    "by name, toward the start, gradual": {
        "strategy": "gradual",
        "unfreeze_epochs": 1,
        "head": "by-name",
        "optimizer": "adamw",
        "decay_to": "start",
        "weight_decay": 0.5,
    },
    "by name, toward the start, lp-ft, average": {
        "strategy": "lp-ft",
        "head_epochs": 1,
        "head": "by-name",
        "decay_to": "start",
        "weight_decay": 0.5,
        "ema": 0.9,
        "save_every": "3 steps",
    },
    "memory runs out": {"model": "trial_models:LearnsByFour", "ema": 0.9, "batch_size": 7},
}


RESUMES = {"accumulate": 5, "batch_size": 7}  # other numbers of steps than most have


def stop_at_every_step(photos: Path, cut: Path, stop_at: Any, knobs: dict[str, Any]) -> int:
    """Run, stopped one step after the start and one step after every resume; count the resumes."""
    with pytest.raises(InterruptedRunError):
        luthier.finetune(photos, out=cut, console=stop_at(1), **knobs)
    resumes = 0
    while not (cut / "summary.json").exists():
        resumes += 1
        with contextlib.suppress(InterruptedRunError):
            luthier.resume(cut, console=stop_at(1))
    return resumes


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_run_that_is_stopped_again_and_again_ends_with_the_same_bits(
    photos: Path, tmp_path: Path, trunk: Path, stop_at: Any, variant: str
) -> None:
    knobs = SMALL | {"weights": "none"} | VARIANTS[variant]
    if "strategy" in knobs:
        knobs["weights"] = str(trunk)
    run(photos, tmp_path / "whole", **knobs)
    resumes = stop_at_every_step(photos, tmp_path / "cut", stop_at, knobs)
    assert resumes == next((n for knob, n in RESUMES.items() if knob in VARIANTS[variant]), 13)
    assert differences(bits(tmp_path / "whole"), bits(tmp_path / "cut")) == []


# Every strategy with every number of workers; schedules, precisions and the rest by turns, so that
# each meets each.
CONTRACT: list[dict[str, Any]] = [
    {
        "strategy": strategy,
        "workers": workers,
        "schedule": ("step", "cosine", "one-cycle", "constant")[(i + j) % 4],
        "precision": ("fp32", "bf16")[(i + j // 2) % 2],
        "optimizer": "adamw" if i % 3 == j else "sgd",
        "ema": 0.9 if workers == 3 else None,
    }
    for i, strategy in enumerate(s for s in recipe.STRATEGIES if s != "probe")
    for j, workers in enumerate((0, 1, 3))
]


@pytest.mark.long
@pytest.mark.parametrize("case", CONTRACT, ids=lambda case: "-".join(map(str, case.values())))
def test_a_run_that_is_stopped_at_every_step_ends_with_the_same_bits(
    photos: Path, tmp_path: Path, trunk: Path, stop_at: Any, case: dict[str, Any]
) -> None:
    start = "none" if case["strategy"] == "scratch" else str(trunk)
    knobs = SMALL | {"weights": start, "epochs": 3} | case
    run(photos, tmp_path / "whole", **knobs | {"workers": 0})
    resumes = stop_at_every_step(photos, tmp_path / "cut", stop_at, knobs)
    assert resumes == 20  # of 3 epochs of 7 steps
    assert differences(bits(tmp_path / "whole"), bits(tmp_path / "cut")) == []


def test_a_finished_run_is_left_alone(photos: Path, tmp_path: Path) -> None:
    first = run(photos, tmp_path / "a", epochs=1)
    before = bits(tmp_path / "a")
    again = luthier.resume(tmp_path / "a", console=Console(quiet=True))
    assert again == first
    assert differences(before, bits(tmp_path / "a")) == []


def cut_short(data: Path, out: Path, stop_at: Any) -> None:
    with pytest.raises(InterruptedRunError):
        luthier.finetune(data, out=out, console=stop_at(2), weights="none", **SMALL)


def resumed(out: Path) -> str:
    """Resume and return what was said."""
    before = (out / "log.txt").read_text()
    luthier.resume(out, console=Console(quiet=True))
    return (out / "log.txt").read_text().removeprefix(before)


def test_a_run_whose_images_are_gone_or_moved_is_not_continued(
    tmp_path: Path, stop_at: Any
) -> None:
    data = write_photos(tmp_path / "data", {"a": 9, "b": 9})
    cut_short(data, tmp_path / "cut", stop_at)
    image = data / "a" / "003.png"
    for place in (tmp_path / "aside.png", data / "b" / "moved.png"):
        image.rename(place)
        with pytest.raises(DoesNotFitError, match=r"1 image gone: a/003.png"):
            resumed(tmp_path / "cut")
        place.rename(image)
    (data / "c").mkdir()
    (data / "c" / "new.png").write_bytes(image.read_bytes())
    with pytest.raises(DoesNotFitError, match="1 class added: c"):
        resumed(tmp_path / "cut")
    (data / "c" / "new.png").unlink()
    (data / "c").rmdir()
    assert "not the same bits" not in resumed(tmp_path / "cut")


def test_images_added_or_changed_are_named_and_the_run_goes_on(
    tmp_path: Path, stop_at: Any
) -> None:
    data = write_photos(tmp_path / "data", {"a": 9, "b": 9})
    cut_short(data, tmp_path / "cut", stop_at)
    (data / "a" / "new.png").write_bytes((data / "b" / "001.png").read_bytes())
    (data / "a" / "002.png").write_bytes((data / "b" / "002.png").read_bytes())
    said = resumed(tmp_path / "cut")
    assert "not the same bits: 1 image added: a/new.png" in said
    assert "not the same bits: 1 image of other content: a/002.png" in said
    assert (tmp_path / "cut" / "summary.json").exists()


def test_without_the_list_of_images_their_hash_decides(tmp_path: Path, stop_at: Any) -> None:
    data = write_photos(tmp_path / "data", {"a": 9, "b": 9})
    cut_short(data, tmp_path / "cut", stop_at)
    (tmp_path / "cut" / "data.json").write_text("{")
    extra = data / "a" / "new.png"
    extra.write_bytes((data / "b" / "001.png").read_bytes())
    with pytest.raises(DoesNotFitError, match="which differ is not known"):
        resumed(tmp_path / "cut")
    extra.unlink()
    assert "is damaged or no inventory" in resumed(tmp_path / "cut")


def test_changed_conditions_and_recipe_are_named(
    photos: Path, tmp_path: Path, stop_at: Any
) -> None:
    cut_short(photos, tmp_path / "cut", stop_at)
    recipe = tmp_path / "cut" / "recipe.toml"
    text = recipe.read_text()
    recipe.write_text(text.replace("LeNet", "Other"))
    with pytest.raises((DoesNotFitError, ModelError)):
        resumed(tmp_path / "cut")
    recipe.write_text(text.replace("epochs = 2", "epochs = 3").replace("keep = 2", "keep = 1"))
    threads = torch.get_num_threads()
    torch.set_num_threads(threads + 1)
    try:
        said = resumed(tmp_path / "cut")
    finally:
        torch.set_num_threads(threads)
    assert f"not the same bits: threads was {threads}, is {threads + 1}" in said
    assert "the recipe's epochs was 2, is 3" in said
    assert "keep" not in said


def test_a_damaged_checkpoint_is_passed_over(photos: Path, tmp_path: Path, stop_at: Any) -> None:
    run(photos, tmp_path / "whole")
    console = stop_at(9)
    with pytest.raises(InterruptedRunError):
        luthier.finetune(
            photos,
            out=tmp_path / "cut",
            console=console,
            save_every="2 steps",
            weights="none",
            **SMALL,
        )
    checkpoints = tmp_path / "cut" / "checkpoints"
    assert checkpoint.steps_in(checkpoints) == [8, 9]
    damaged = checkpoints / "step-00000009" / "optimizer.safetensors"
    content = bytearray(damaged.read_bytes())
    content[-1] ^= 1
    damaged.write_bytes(content)
    luthier.resume(tmp_path / "cut", console=Console(quiet=True))
    said = (tmp_path / "cut" / "log.txt").read_text()
    assert "optimizer.safetensors has another SHA-256" in said
    assert "continues at step 8" in said
    whole, cut = bits(tmp_path / "whole"), bits(tmp_path / "cut")
    assert differences(whole, cut) == []
