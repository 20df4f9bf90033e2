"""Pages of runs: what they say, what they cannot be made to do, and where it comes from."""

from __future__ import annotations

import base64
import io
import json
import math
import re
import shutil
from html.parser import HTMLParser
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy.stats import binomtest

import luthier
from conftest import LENET, weights_of_three, write_photos
from luthier.cli.main import main
from luthier.errors import DamagedError, RunFolderError
from luthier.files.opening import open_archive
from luthier.intervals import mcnemar_p
from luthier.report import Console
from luthier.report.page import ComparisonPage, differences, render_comparison, render_run
from luthier.report.page.chart import axis, thinned
from luthier.report.page.noise import holm
from luthier.run import predictions
from luthier.run.page import write_report
from luthier.values import Proportion, Score
from pages import facts, run_page

QUIET = Console(quiet=True)
SMALL: dict[str, Any] = {"model": LENET, "image_size": 32, "workers": 0, "weights": "none"}
SMALL |= {"strategy": "scratch", "batch_size": 4, "epochs": 2, "lr": 0.01}


class Seen(HTMLParser):
    """What a browser would make of a page: elements, attributes, and text outside of our code."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.words: list[str] = []
        self._inside = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        self._inside = tag

    def handle_data(self, data: str) -> None:
        if self._inside not in ("style", "script"):
            self.words.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.words))


HOSTILE = st.one_of(
    st.text(min_size=1, max_size=20),
    st.sampled_from(
        [
            "<script>alert(1)</script>",
            "</script><img src=x onerror=alert(1)>",
            '" onload="alert(1)',
            "' autofocus onfocus='alert(1)",
            "&lt;b&gt;&amp;",
            "\u202egnp.exe",
            "a\x00b\ud800",
            "|1|2|\n3",
            "<!--",
            "]]>",
        ]
    ),
)


@settings(deadline=None, max_examples=40)
@given(HOSTILE, HOSTILE, HOSTILE, HOSTILE)
def test_no_name_becomes_markup(first: str, second: str, path: str, note: str) -> None:
    plain = Seen(render_run(run_page(notes=("a note",))))
    run = facts(first, model=second, data=path, weights=note, strategy="full")
    recipe = {"data": {"data": path}}
    page = run_page(
        (first, second),
        path,
        facts=facts(first, model=second, data=path, weights=note, recipe=recipe),
        notes=(note,),
        loaded=note,
        rows=((first, second, note),),
        environment={first: path},
    )
    text = render_run(page)
    text.encode()  # half a character could not be written
    seen = Seen(text)
    others = {"wbr"}  # of which a path has as many as it has parts
    assert [t for t in seen.tags if t not in others] == [t for t in plain.tags if t not in others]
    assert {n for n, _ in seen.attributes} == {n for n, _ in plain.attributes}
    assert "\u202e" not in text
    several = Seen(render_comparison(ComparisonPage((run, facts("b")), ())))
    assert several.tags.count("script") == 1


def test_what_cannot_be_seen_is_written_as_an_escape() -> None:
    seen = Seen(render_run(run_page(("\u202egnp", "b\x07"), "a\u2066<b>.png")))
    for shown in (r"\u202egnp", r"b\u0007", r"a\u2066<b>.png"):
        assert shown in seen.text


def test_a_run_is_told_with_its_uncertainty() -> None:
    text = Seen(render_run(run_page())).text.replace("\N{NO-BREAK SPACE}", " ")
    for words in (
        "75 .00 %",
        "30 of 40 images, epoch 3 of 3",
        "95 % interval 59.8 to 85.8 %",
        "expected calibration error 4.0 %",
        "75.0 %",  # precision
        "dog 87 %",  # what the mistake was said to be
        "trunk.0 … trunk.1 did not move 2 0 of 5",
        "computing 9.0 s 90.0 %",
        "warning: copies on both sides",
        "house cat",
    ):
        assert words in text, words


def test_what_is_not_known_is_left_out_or_a_dash() -> None:
    page = run_page(
        facts=facts(speed=None, learning=None, parameters=None, checkpoint=None, epochs=1),
        evaluation=None,
        mistakes=(),
        augmented=(),
        time={},
        rows=(),
        audit=(),
        notes=(),
        absent=("the scores are not there.",),
    )
    seen = Seen(render_run(page))
    assert "the scores are not there." in seen.text
    for heading in ("Confusion", "Most certain mistakes", "What the model saw", "Where the time"):
        assert heading not in seen.text
    assert "nan" not in seen.text.lower().split()


def test_of_many_classes_the_weak_ones_are_shown() -> None:
    many = tuple(f"class {number}" for number in range(200))
    text = render_run(run_page(many))
    assert len(text) < 200_000
    assert "those most often taken for another" in Seen(text).text


def test_a_page_asks_for_nothing_and_runs_its_own_code_alone() -> None:
    text = render_run(run_page())
    seen = Seen(text)
    policy = next(v for n, v in seen.attributes if n == "content" and "default-src" in (v or ""))
    assert policy is not None
    assert policy.startswith("default-src 'none'; img-src data:; style-src 'sha256-")
    assert "unsafe" not in policy
    links = [v or "" for n, v in seen.attributes if n in ("href", "src")]
    assert all(link.startswith(("#", "data:")) for link in links)
    assert not [n for n, _ in seen.attributes if n.startswith("on") or n == "style"]


def luminance(colour: str) -> float:
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def test_text_and_lines_stand_out_on_light_and_dark() -> None:
    style = resources.files("luthier.report.page").joinpath("page.css").read_text()
    pairs = re.findall(r"--(\w+): light-dark\((#\w{6}), (#\w{6})\)", style)
    for theme in (0, 1):
        colours = {name: pair[theme] for name, *pair in pairs}
        for ground in ("paper", "panel"):
            for text in ("ink", "soft"):
                assert contrast(colours[text], colours[ground]) >= 4.5
        assert contrast(colours["soft"], colours["rule"]) >= 4.5 or theme == 0
        for line in (f"s{number}" for number in range(8)):
            assert contrast(colours[line], colours["paper"]) >= 3, (theme, line)


# --- what decides -------------------------------------------------------------------------------

FINITE = st.floats(-1e9, 1e9).map(lambda x: round(x, 6))


@settings(deadline=None)
@given(st.lists(FINITE, min_size=1, max_size=20))
def test_an_axis_holds_its_values_between_few_round_ticks(values: list[float]) -> None:
    found = axis("", values, str)
    span = found.high - found.low
    assert found.low <= min(values) + 1e-9 * span
    assert found.high >= max(values) - 1e-9 * span
    assert 2 <= len(found.ticks) <= 8
    steps = np.diff(found.ticks)
    assert np.allclose(steps, steps[0])
    assert round(steps[0] / 10 ** math.floor(math.log10(steps[0]) + 1e-9), 6) in (1, 2, 5)


@settings(deadline=None)
@given(st.lists(st.tuples(FINITE, FINITE), max_size=60), st.integers(1, 30))
def test_thinning_keeps_the_mean(points: list[tuple[float, float]], most: int) -> None:
    found = thinned(points, most)
    assert len(found) == min(most, len(points))
    if len(points) % most == 0 and points:
        assert np.allclose(np.mean(found, axis=0), np.mean(points, axis=0))


@settings(deadline=None)
@given(st.integers(0, 300), st.integers(0, 300))
def test_mcnemar_is_the_exact_binomial_test(first: int, second: int) -> None:
    total = first + second
    known = binomtest(first, total).pvalue if total else 1.0
    assert mcnemar_p(first, second) == pytest.approx(known, rel=1e-6)


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.9, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


def test_a_difference_is_decided_by_the_images_where_they_are_known() -> None:
    best = {n: Score(1, 0.1, Proportion(c, 100)) for n, c in (("a", 90), ("b", 80), ("c", 50))}
    images = [(str(n), "") for n in range(100)]
    right = {n: {i: k < c for k, i in enumerate(images)} for n, c in (("a", 90), ("b", 80))}
    by = {(d.better, d.other): d for d in differences(best, right)}
    assert by["a", "b"].shown  # ten to none, though their intervals overlap
    assert by["a", "b"].alone == (10, 0)
    assert by["a", "c"].p is None
    assert by["a", "c"].shown  # by their intervals
    others = right | {"b": {(name, "another"): x for (name, _), x in right["b"].items()}}
    assert differences(best, others)[0].p is None
    assert not differences(best, others)[0].shown
    crossed = right | {"b": {i: k >= 20 for k, i in enumerate(images)}}
    assert not next(iter(differences(best, crossed))).shown  # 20 against 10


# --- where it comes from ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data")
    write_photos(root / "train", {"<cat>": 12, "dog": 8}, seed=1, spread=20)
    write_photos(root / "val", {"<cat>": 6, "dog": 5}, seed=2, spread=20)
    return root


@pytest.fixture(scope="module")
def finished(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "finished"
    luthier.finetune(data, out=out, console=QUIET, **SMALL)
    return out


def copied(run: Path, to: Path) -> Path:
    return shutil.copytree(run, to / run.name)


def summary_of(run: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run / "summary.json").read_text())
    return found


@pytest.mark.parametrize("how", [{}, {"ema": 0.5}, {"strategy": "probe"}, {"strategy": "frozen"}])
def test_predictions_are_the_best_models(
    data: Path, finished: Path, tmp_path: Path, how: dict[str, Any]
) -> None:
    knobs = SMALL | how
    if "strategy" in how:
        knobs["weights"] = str(finished / "model.safetensors")
    if how.get("strategy") == "probe":
        del knobs["lr"], knobs["epochs"]
    result = luthier.finetune(data, out=tmp_path / "run", console=QUIET, **knobs)
    found = predictions.read(result.run / "predictions.safetensors")
    assert (found.epoch, found.classes) == (result.best.epoch, ("<cat>", "dog"))
    assert found.data == json.loads((result.run / "data.json").read_text())["fingerprint"]
    assert found.labels.tolist() == [0] * 6 + [1] * 5
    assert int((found.scores.argmax(1) == found.labels).sum()) == result.best.accuracy.correct
    kept = open_archive(result.model).metadata["training"]["validation"]
    assert kept["epoch"] == found.epoch
    loss = torch.nn.functional.cross_entropy(found.scores, found.labels).item()
    assert loss == pytest.approx(kept["loss"], rel=1e-5)


def test_a_page_can_be_written_again_from_the_folder_alone(finished: Path) -> None:
    first = (finished / "report.html").read_bytes()
    (finished / "report.html").unlink()
    assert write_report(finished) == finished / "report.html"
    assert (finished / "report.html").read_bytes() == first
    text = Seen(first.decode()).text
    assert "<cat>" in text
    mistakes = 11 - summary_of(finished)["best"]["correct"]
    assert mistakes > 0
    assert f"All {mistakes} mistake" in text


def test_augmented_images_are_those_of_the_first_batch(finished: Path, tmp_path: Path) -> None:
    from luthier import recipe  # noqa: PLC0415 - torch comes with it
    from luthier.run.job import batches_of, prepare  # noqa: PLC0415

    run = copied(finished, tmp_path)
    job = prepare(recipe.resolve(recipe.read(run / "recipe.toml")), QUIET)
    train, val = batches_of(job)
    first = next(train.epoch())[0]
    for batches in (train, val):
        batches.close()
    page = (run / "report.html").read_text().split('id="inputs"')[1]
    shown = [
        np.asarray(Image.open(io.BytesIO(base64.b64decode(code))), dtype=float)
        for code in re.findall(r"base64,([^\"]+)", page)
    ]
    assert len(shown) == 8
    look = job.preprocessing
    grey = (first.permute(0, 2, 3, 1).numpy() * look.std + look.mean) * 255
    for mine, theirs in zip(shown, grey, strict=False):
        coarse = [
            x.reshape(4, 8, 4, 8, 3).mean((1, 3)) for x in (mine, theirs)
        ]  # JPEG is not exact
        assert np.abs(coarse[0] - coarse[1]).max() < 6


def test_photos_and_scores_that_are_gone_are_missed_and_the_page_is_written(
    finished: Path, data: Path, tmp_path: Path
) -> None:
    photos = Path(shutil.copytree(data, tmp_path / "photos"))
    run = copied(finished, tmp_path)
    recipe = (run / "recipe.toml").read_text()
    (run / "recipe.toml").write_text(recipe.replace(str(data), str(photos)))
    shutil.rmtree(photos)
    text = Seen(write_report(run).read_text()).text
    assert "photos of mistakes are gone" in text
    assert "No training images are shown" in text
    (run / "predictions.safetensors").unlink()
    text = Seen(write_report(run).read_text()).text
    assert "predictions.safetensors is not there" in text
    assert "Most certain mistakes" not in text


def test_scores_of_another_epoch_are_not_taken(finished: Path, tmp_path: Path) -> None:
    run = copied(finished, tmp_path)
    path = run / "predictions.safetensors"
    found = predictions.read(path)
    other = predictions.Predictions(found.scores, found.labels, 7, found.classes, found.data)
    predictions.write(path, other)
    assert "is of epoch 7" in Seen(write_report(run).read_text()).text
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(DamagedError, match=r"predictions\.safetensors"):
        write_report(run)


@pytest.mark.parametrize(
    ("scores", "labels"),
    [((3, 3), [0, 1, 1]), ((2, 2), [0, 1, 1]), ((3, 2), [0, 1, 2]), ((3, 2), [0, -1, 1])],
)
def test_scores_that_do_not_fit_are_damage(
    tmp_path: Path, scores: tuple[int, int], labels: list[int]
) -> None:
    path = tmp_path / "predictions.safetensors"
    made = predictions.Predictions(torch.zeros(scores), torch.tensor(labels), 1, ("a", "b"), "")
    predictions.write(path, made)
    with pytest.raises(DamagedError, match="do not fit each other"):
        predictions.read(path)


def test_a_page_that_cannot_be_written_costs_no_run(data: Path, tmp_path: Path) -> None:
    class Blocking(Console):
        def say(self, text: str) -> None:
            if text.startswith("audit"):
                (tmp_path / "run" / "report.html").mkdir()
            super().say(text)

    stream = io.StringIO()
    result = luthier.finetune(data, out=tmp_path / "run", console=Blocking(stream), **SMALL)
    assert summary_of(result.run)["best"]
    said = [line for line in stream.getvalue().splitlines() if "was not written" in line]
    assert len(said) == 1
    assert said[0].endswith(f"again: luthier report {result.run}")


def test_requests_that_make_no_sense(finished: Path, tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match="holds no run"):
        write_report(tmp_path / "nowhere")
    with pytest.raises(RunFolderError, match="given twice"):
        write_report(finished, finished / ".." / finished.name)
    with pytest.raises(RunFolderError, match="no run is given"):
        write_report()
    run = copied(finished, tmp_path)
    summary = summary_of(run)
    (run / "summary.json").unlink()
    with pytest.raises(RunFolderError, match="is not finished"):
        write_report(run)
    del summary["best"]
    (run / "summary.json").write_text(json.dumps(summary))
    with pytest.raises(DamagedError, match="not as it was written"):
        write_report(run)


def test_a_head_by_name_shows_its_rows_and_its_start(tmp_path: Path) -> None:
    two = write_photos(tmp_path / "two", {"x": 9, "z": 9, "new": 9}, seed=4)
    knobs = SMALL | {"weights": str(weights_of_three(tmp_path)), "strategy": "frozen"}
    knobs |= {"head": "by-name", "epochs": 1, "lr": 1e-9}
    result = luthier.finetune(two, out=tmp_path / "named", console=QUIET, **knobs)
    assert predictions.read(result.run / "predictions.safetensors").epoch == result.best.epoch == 0
    text = Seen((result.run / "report.html").read_text()).text
    assert re.search(r"class begins as found new new x x .* z z", text)
    assert "start" in text


def test_several_runs_are_compared(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = copied(finished, tmp_path)  # of the same name
    found = predictions.read(other / "predictions.safetensors")
    answers = torch.nn.functional.one_hot(found.labels, 2).float()
    better = predictions.Predictions(answers, found.labels, found.epoch, found.classes, found.data)
    predictions.write(other / "predictions.safetensors", better)
    summary = summary_of(other)
    summary["best"] |= {"correct": 11, "accuracy": 1.0}
    (other / "summary.json").write_text(json.dumps(summary))
    page = tmp_path / "page.html"
    assert main(["report", str(finished), str(other), "--out", str(page)]) == 0
    assert capsys.readouterr().out == f"{page}\n"
    text = Seen(page.read_text()).text
    names = ["/".join(run.parts[-2:]) for run in (other, finished)]
    assert text.index(names[0]) < text.index(names[1])  # the best first
    wrong = 11 - summary_of(finished)["best"]["correct"]
    assert f"{wrong} against 0" in text
    assert "All runs have the same recipe." in text


def test_real_photos_are_a_page_of_less_than_3_mb(shared: Path, tmp_path: Path) -> None:
    weights = shared / "weights" / "mobilenet_v2-b0353104.pth"
    photos = shared / "hymenoptera"
    knobs = {"model": "mobilenet_v2", "weights": str(weights), "strategy": "probe"}
    result = luthier.finetune(photos, out=tmp_path / "run", console=QUIET, **knobs)
    page = (result.run / "report.html").read_bytes()
    assert len(page) < 3_000_000
    text = Seen(page.decode()).text
    assert f"{result.best.accuracy.correct} of 153 images" in text
    assert "perhaps on these very images" in text  # ants and bees are among ImageNet's classes
