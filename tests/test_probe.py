"""Linear probing: folds, the fit, and a run that is stopped, damaged, changed or refused."""

from __future__ import annotations

import contextlib
import json
import os
import signal
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

import luthier
from conftest import LENET, weights_of_three, write_photos
from luthier import data, models
from luthier.errors import InterruptedRunError, ModelError, PeerError
from luthier.files import tensors
from luthier.files.opening import open_archive
from luthier.models import Head
from luthier.report import Console, read_metrics
from luthier.run import features, probing
from luthier.run.prove import prove
from luthier.run.trunk import check_head
from luthier.run.verify import verify
from luthier.training import Precision, Shown, evaluate, fit_probe, folds_of
from luthier.training import probe as fitting
from luthier.values import Preprocessing
from ranks import ended, started, together
from test_distributed import listening_console
from test_exactness import bits, differences, stop_at

__all__ = ["stop_at"]  # a fixture

# --- folds --------------------------------------------------------------------------------------

PHOTOS = st.lists(st.tuples(st.integers(0, 3), st.text("abcdef", min_size=1, max_size=2)))


@settings(deadline=None)
@given(PHOTOS, st.integers(0, 5), st.integers(2, 6), st.randoms(use_true_random=False))
def test_folds_keep_copies_together_and_are_of_equal_mix(
    photos: list[tuple[int, str]], seed: int, folds: int, chance: Any
) -> None:
    labels, content = [p[0] for p in photos], [p[1] for p in photos]
    found = folds_of(labels, content, seed, folds)
    of_photo = dict(zip(photos, found, strict=True))
    assert [of_photo[photo] for photo in photos] == found
    for label in set(labels):
        own = [fold for photo, fold in of_photo.items() if photo[0] == label]
        assert (own == [fitting.ALWAYS]) is (len(own) == 1)
        counts = Counter(own)
        assert len(own) == 1 or max(counts.values()) - min(counts[f] for f in range(folds)) <= 1
    order = list(range(len(photos)))
    chance.shuffle(order)
    moved = folds_of([labels[i] for i in order], [content[i] for i in order], seed, folds)
    assert moved == [found[i] for i in order]


def test_of_many_photos_a_keyed_part_of_every_class_is_compared_on() -> None:
    labels, content = [0] * 900 + [1] * 100, [str(i) for i in range(1000)]
    found = folds_of(labels, content, 0, most=100)
    taken = [label for label, fold in zip(labels, found, strict=True) if fold >= 0]
    assert Counter(taken) == {0: 90, 1: 10}
    assert set(found) == {fitting.NEVER, 0, 1, 2, 3, 4}
    assert found != folds_of(labels, content, 1, most=100)


# --- the fit ------------------------------------------------------------------------------------


def problem(seed: int, count: int, width: int, classes: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(count, width, generator=generator) * 3 + 1
    labels = torch.arange(count) % classes
    features[:, 0] += labels
    return features, labels


def shown(features: torch.Tensor, labels: torch.Tensor, weight: float = 1.0) -> Shown:
    folds = folds_of(labels.tolist(), [str(i) for i in range(len(labels))], 0)
    weights = torch.full((len(labels),), weight, dtype=torch.float64)
    return Shown(features, labels, torch.tensor(folds), weights)


@settings(deadline=None, max_examples=30)
@given(
    st.integers(0, 99),
    st.integers(4, 40),
    st.integers(2, 8),
    st.integers(2, 4),
    st.booleans(),
    st.sampled_from([0.01, 1.0, 100.0]),
)
def test_the_loss_has_no_slope_where_the_fit_ends(
    seed: int, count: int, width: int, classes: int, bias: bool, penalty: float
) -> None:
    features, labels = problem(seed, max(count, classes), width, classes)
    found = fit_probe([shown(features, labels)], classes, bias=bias, penalties=[penalty])
    assert found.converged
    assert (found.bias is not None) is bias
    deviation = features.double().std(0, correction=0)
    # The same loss in the head's own terms, by torch's own gradient.
    weight = found.weight.double().requires_grad_()
    offset = torch.zeros(classes).double() if found.bias is None else found.bias.double()
    offset.requires_grad_()
    scores = features.double() @ weight.T + offset
    loss = F.cross_entropy(scores, labels, reduction="sum")
    loss = loss + penalty / 2 * (weight * deviation).square().sum()
    by_weight, by_offset = torch.autograd.grad(loss, [weight, offset])
    assert float((by_weight / deviation).abs().max()) < 1e-3
    assert not bias or float(by_offset.abs().max()) < 1e-3


def test_views_share_the_weight_of_their_photo_and_files_change_nothing() -> None:
    features, labels = problem(0, 30, 5, 3)
    once = fit_probe([shown(features, labels)], 3)
    whole = shown(features, labels, 0.5)
    twice = fit_probe([whole, whole], 3)
    cut = [
        Shown(*(column[part] for column in (features, labels, whole.folds, whole.weights * 2)))
        for part in (slice(0, 7), slice(7, 30))
    ]
    for other in (twice, fit_probe(cut, 3)):
        assert other.penalty == once.penalty
        torch.testing.assert_close(other.weight, once.weight, rtol=1e-5, atol=1e-6)
        assert once.bias is not None
        torch.testing.assert_close(other.bias, once.bias, rtol=1e-5, atol=1e-6)


def test_a_feature_that_does_not_vary_has_no_weight() -> None:
    features, labels = problem(0, 30, 5, 2)
    features[:, 2], features[:, 3] = 7.0, 0.0
    found = fit_probe([shown(features, labels)], 2)
    assert not found.weight[:, 2:4].any()
    assert torch.isfinite(found.weight).all()


def test_noise_is_pulled_to_zero_harder_than_what_tells_the_classes_apart() -> None:
    features, labels = problem(3, 120, 20, 2)
    noise = fit_probe([shown(features[torch.randperm(120)], labels)], 2)
    features[:, 0] += 40 * labels
    clear = fit_probe([shown(features, labels)], 2)
    assert clear.penalty < noise.penalty
    least = min(loss for _, loss in clear.tried)
    assert dict(clear.tried)[clear.penalty] == least


def test_features_that_are_made_again_each_time_give_the_same_bits(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pieces = [shown(*problem(0, 40, 6, 2))]
    held = fit_probe(pieces, 2)
    monkeypatch.setattr(fitting, "_HELD", 0)
    again = fit_probe(pieces, 2)
    assert torch.equal(held.weight, again.weight)
    assert held.tried == again.tried


def test_nothing_can_be_held_out_of_one_photo_a_class() -> None:
    found = fit_probe([shown(*problem(0, 3, 4, 3))], 3)
    assert (found.tried, found.penalty) == ((), fitting.DEFAULT_PENALTY)
    assert found.converged


# --- a run --------------------------------------------------------------------------------------

SMALL: dict[str, Any] = {
    "model": LENET,
    "image_size": 32,
    "batch_size": 2,
    "workers": 0,
    "strategy": "probe",
    "seed": 3,
    "precision": "fp32",  # else it is measured, and may be another under load
}


def probe(photos: Path, out: Path, **knobs: Any) -> luthier.Result:
    return luthier.finetune(photos, out=out, console=Console(quiet=True), **(SMALL | knobs))


@pytest.fixture(scope="module")
def trunk(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(weights_of_three(tmp_path_factory.mktemp("trunk")))


@pytest.fixture
def small_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probing, "_CHUNK", 2)


class StopAt(Console):
    """Asks its run to stop after so many batches, as a signal would."""

    def __init__(self, request: Any, batches: int) -> None:
        super().__init__(quiet=True)
        self._give, self.left = request, batches

    def advance(self, count: int) -> None:
        super().advance(count)
        if self._give.request is not None:  # else images are being checked
            self.left -= 1
            if self.left == 0:
                self._give.request.asked = True


def test_the_model_is_a_plain_one_and_scores_what_the_run_says(
    photos: Path, trunk: str, tmp_path: Path
) -> None:
    result = probe(photos, tmp_path / "run", weights=trunk)
    moved = {name: count for name, count, _ in result.summary["audit"]}
    assert moved == {"conv1": 0, "conv2": 0, "fc1": 0, "fc2": 0, "fc3": 2}
    archive = open_archive(result.model)
    how = archive.metadata["preprocessing"]
    model = models.build(LENET, classes=2)
    luthier.load(model, result.model)
    look = Preprocessing(**how | {"mean": tuple(how["mean"]), "std": tuple(how["std"])})
    samples = data.open_photos(data.list_images(photos))
    for kind, side in (("train", samples.train), ("val", samples.val)):
        batches = data.Batches(side, look, batch_size=4)
        tally = evaluate(model, batches.epoch(), Precision("cpu"))
        batches.close()
        lines = read_metrics(tmp_path / "run" / "metrics.jsonl")
        (line,) = [r for r in lines if r["kind"] == kind]
        assert line["correct"] == tally.correct
        assert line["loss"] == pytest.approx(tally.loss, rel=1e-5)
    assert result.best == result.last
    assert result.best.accuracy.value > 0.8
    assert not (tmp_path / "run" / "features").exists()
    found = verify(tmp_path / "run")
    assert found.sound


@pytest.mark.parametrize("strategy", ["frozen", "probe"])
def test_what_is_frozen_of_a_published_model_is_computed_fast(
    strategy: str, shared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for group in (shared / "hymenoptera" / "val").iterdir():
        for side, some in {"train": slice(4), "val": slice(4, 8)}.items():
            (tmp_path / side / group.name).mkdir(parents=True)
            for photo in sorted(group.iterdir())[some]:
                (tmp_path / side / group.name / photo.name).symlink_to(photo)
    (weights,) = (shared / "weights").glob("mobilenet_v2-*.pth")
    epochs = {"epochs": 1} if strategy == "frozen" else {}
    luthier.finetune(
        tmp_path,
        out=tmp_path / "run",
        model="mobilenet_v2",
        weights=str(weights),
        strategy=strategy,
        precision="bf16",
        **epochs,
    )
    said = capsys.readouterr().err
    assert "audit" in said
    assert "computed as it stands" not in said


@pytest.mark.usefixtures("small_files")
@pytest.mark.parametrize(
    "knobs",
    [{}, {"views": 2, "workers": 2}, {"views": 2, "class_weights": "balanced"}],
    ids=str,
)
def test_a_run_that_is_stopped_again_and_again_ends_with_the_same_bits(
    photos: Path, trunk: str, tmp_path: Path, stop_at: Any, knobs: dict[str, Any]
) -> None:
    probe(photos, tmp_path / "whole", weights=trunk, **knobs | {"workers": 0})
    cut, stops = tmp_path / "cut", 0
    while not (cut / "summary.json").exists():
        console = StopAt(stop_at(0), 3)  # in the middle of every second file
        with contextlib.suppress(InterruptedRunError):
            if (cut / "recipe.toml").exists():
                luthier.resume(cut, console=console)
            else:
                given = SMALL | knobs
                luthier.finetune(photos, out=cut, console=console, weights=trunk, **given)
        stops += 1
        assert verify(cut).sound
    assert stops > 8
    assert differences(bits(tmp_path / "whole"), bits(cut)) == []


@pytest.mark.usefixtures("small_files")
def test_files_that_are_damaged_or_of_other_photos_are_made_again(
    tmp_path: Path, trunk: str, stop_at: Any
) -> None:
    photos = tmp_path / "photos"
    write_photos(photos / "train", {"a": 9, "b": 9})
    write_photos(photos / "val", {"a": 3, "b": 3}, seed=1)
    cut, knobs = tmp_path / "cut", SMALL | {"views": 2, "weights": trunk}
    with pytest.raises(InterruptedRunError, match=r"5 of 12 files of features are saved\n.*resume"):
        luthier.finetune(photos, out=cut, console=StopAt(stop_at(0), 9), **knobs)
    files = sorted((cut / "features").iterdir())
    image = photos / "train" / "a" / "003.png"  # in the first file
    image.write_bytes((photos / "train" / "b" / "003.png").read_bytes())
    content = bytearray(files[1].read_bytes())
    content[-1] ^= 1
    files[1].write_bytes(content)
    files[2].write_bytes(b"no features")
    assert [f.path for f in verify(cut).findings if f.problem] == files[1:3]
    before = (cut / "log.txt").read_text()
    luthier.resume(cut, console=Console(quiet=True))
    said = (cut / "log.txt").read_text().removeprefix(before)
    assert f"made again: {files[1]} has another content" in said
    assert f"made again: {files[2]}" in said
    assert "2 of 12 files of features are there already" in said
    probe(photos, tmp_path / "whole", **knobs)
    assert differences(bits(tmp_path / "whole"), bits(cut)) == []


def test_what_is_learned_from_the_views_is_a_function_of_seed_and_view(
    photos: Path, trunk: str, tmp_path: Path
) -> None:
    one = probe(photos, tmp_path / "one", weights=trunk, views=2)
    for name, knobs in {"same": {"workers": 3}, "other": {"seed": 4}}.items():
        other = probe(photos, tmp_path / name, weights=trunk, views=2, **knobs)
        same = one.model.read_bytes() == other.model.read_bytes()
        assert same is (name == "same")


def test_rare_classes_can_be_given_weight(photos: Path, trunk: str, tmp_path: Path) -> None:
    plain = probe(photos, tmp_path / "plain", weights=trunk)
    balanced = probe(photos, tmp_path / "balanced", weights=trunk, class_weights="balanced")
    a, b = (tensors.weights(open_archive(r.model)) for r in (plain, balanced))
    # There are 17 cats and 11 dogs.
    lean = [float(w["fc3.bias"][0] - w["fc3.bias"][1]) for w in (a, b)]
    assert lean[0] != lean[1]


class After(nn.Module):
    """Changes what its head gives."""

    def __init__(self, head: nn.Module, then: nn.Module) -> None:
        super().__init__()
        self.pool, self.head, self.then = nn.AdaptiveAvgPool2d(1), head, then

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        pooled = self.pool(images)
        if isinstance(self.head, nn.Linear):
            pooled = pooled.flatten(1)
        scores: torch.Tensor = self.then(self.head(pooled))
        return scores


@pytest.mark.parametrize(
    ("model", "why"),
    [
        (After(nn.Linear(3, 2), nn.LogSoftmax(1)), "it changes what its head 'head' gives"),
        (After(nn.Conv2d(3, 2, 1), nn.Flatten()), "its head 'head' is a Conv2d"),
    ],
)
def test_a_model_that_does_not_end_with_its_linear_head_is_refused(
    model: nn.Module, why: str
) -> None:
    with pytest.raises(ModelError, match=why):
        check_head(model, Head("head", 2), Precision("cpu"), 16)
    fine = After(nn.Linear(3, 2), nn.Identity())
    check_head(fine, Head("head", 2), Precision("cpu"), 16)


# --- several processes --------------------------------------------------------------------------


class Afterwards(Console):
    """Does something to its process after so many batches."""

    def __init__(self, batches: int, do: Callable[[Afterwards], None]) -> None:
        super().__init__(quiet=True)
        self.left, self._do = batches, do
        self.request: Any = None

    def advance(self, count: int) -> None:
        super().advance(count)
        if self.request is not None:  # else images are being checked
            self.left -= 1
            if self.left == 0:
                self._do(self)


def stops(console: Afterwards) -> None:
    console.request.asked = True


def dies(_console: Afterwards) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def in_turn(
    photos: Path, out: Path, size: int, do: Callable[[Afterwards], None], **knobs: Any
) -> list[int | None]:
    """Begin or continue a run in so many processes, of which the last does something."""

    def job(rank: int) -> None:
        console = Afterwards(2 if rank == size - 1 else 10**6, do)
        listening_console(console)
        with contextlib.suppress(InterruptedRunError, PeerError):
            if (out / "recipe.toml").exists():
                luthier.resume(out, console=console)
            else:
                luthier.finetune(photos, out=out, console=console, **(SMALL | knobs))

    return [status for status, _, _ in ended(started(size, job))]


@pytest.mark.usefixtures("small_files")
def test_any_number_of_processes_that_are_stopped_or_die_end_with_the_bits_of_one(
    photos: Path, trunk: str, tmp_path: Path
) -> None:
    knobs: dict[str, Any] = {"weights": trunk, "views": 2}
    probe(photos, tmp_path / "whole", **knobs)
    cut = tmp_path / "cut"
    assert in_turn(photos, cut, 3, dies, **knobs) == [0, 0, -signal.SIGKILL]
    assert verify(cut).sound
    sizes = []
    while not (cut / "summary.json").exists():
        sizes.append((2, 3, 1)[len(sizes) % 3])
        assert in_turn(photos, cut, sizes[-1], stops) == [0] * sizes[-1]
        assert verify(cut).sound
    assert len(sizes) > 3
    assert differences(bits(tmp_path / "whole"), bits(cut)) == []
    said = (cut / "log.txt").read_text(encoding="utf-8")
    assert "not the same bits" not in said
    assert list(cut.rglob(".tmp*")) == []


@pytest.mark.usefixtures("small_files")
def test_each_process_makes_a_part_of_the_files(photos: Path, trunk: str, tmp_path: Path) -> None:
    def job(_rank: int) -> None:
        written, write = [], features.write

        def noted(path: Path, *facts: Any) -> None:
            written.append(path.name)
            write(path, *facts)

        features.write = noted
        found = luthier.finetune(
            photos, out=tmp_path / "run", console=Console(quiet=True), weights=trunk, **SMALL
        )
        print(json.dumps([written, found.summary["best"], found.summary["audit"]]))

    told = [json.loads(out) for out in together(3, job)]
    assert [len(written) for written, _, _ in told] == [4, 3, 3]
    assert len({name for written, _, _ in told for name in written}) == 10
    assert told[0][1:] == told[1][1:] == told[2][1:]


@pytest.mark.long
def test_a_probe_is_proved(photos: Path, trunk: str, tmp_path: Path) -> None:
    words = ["--model", LENET, "--image-size", "32", "--workers", "0", "--weights", trunk]
    words += ["--strategy", "probe", "--views", "40", "--batch-size", "1"]
    found = prove(photos, kills=3, out=tmp_path / "proof", flags=words, say=lambda _line: None)
    assert found.identical, str(found)
