"""Studies: which runs there are, what they come to, and that an interruption costs nothing."""

from __future__ import annotations

import json
import math
import os
import signal
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

import luthier
from conftest import LENET, weights_of_three
from luthier.errors import DamagedError, LuthierError, RecipeError, RunFolderError
from luthier.intervals import mean95, student95
from luthier.recipe import Recipe, overlay, replace, resolve
from luthier.report import Console
from luthier.run.compare import go_on
from luthier.studies import Study, differences, read_study, standings, variations_of
from luthier.values import Outcome, Proportion, Score
from processes import luthier as command
from test_exactness import bits
from test_exactness import differences as bit_differences

SMALL: dict[str, Any] = {"model": LENET, "image_size": 32, "batch_size": 5, "workers": 0}
SMALL |= {"epochs": 2, "precision": "fp32"}
QUIET = Console(quiet=True)


def study(*strategies: str, seeds: int = 1, folds: int = 1, **knobs: Any) -> Study:
    base = overlay(Recipe(), data="photos", **knobs)
    return Study(base, variations_of(base, strategies, {}), seeds, folds)


# --- which runs there are -----------------------------------------------------------------------

NAMES = st.lists(st.sampled_from(["full", "frozen", "probe", "lp-ft"]), unique=True, min_size=1)


@settings(deadline=None)
@given(NAMES, st.integers(1, 4), st.integers(1, 4), st.integers(0, 3))
def test_each_run_is_there_once_and_those_that_are_compared_follow_each_other(
    names: list[str], seeds: int, folds: int, seed: int
) -> None:
    trials = study(*names, seeds=seeds, folds=folds, seed=seed).trials()
    parts = [None] if folds == 1 else [f"{k}/{folds}" for k in range(1, folds + 1)]
    wanted = [(s, f, n) for s in range(seed, seed + seeds) for f in parts for n in names]
    assert [(t.seed, t.fold, t.variation) for t in trials] == wanted
    assert len({trial.name for trial in trials}) == len(trials)
    for trial in trials:
        resolved = resolve(trial.recipe)
        assert (resolved.training.seed, resolved.data.fold) == (trial.seed, trial.fold)
        assert resolved.strategy.strategy == trial.variation
    again = Study.from_dict(json.loads(json.dumps(study(*names, seeds=seeds).as_dict())))
    assert again == study(*names, seeds=seeds)


def test_a_field_goes_where_it_has_an_effect() -> None:
    knobs = {"epochs": 7, "weights": "w.pth", "head": "by-name", "views": 3, "lr": 0.1}
    trials = study("scratch", "probe", "full", **knobs).trials()
    found = {t.variation: resolve(t.recipe) for t in trials}
    assert found["scratch"].model.weights == "none"
    assert (found["full"].model.weights, found["full"].model.head) == ("w.pth", "by-name")
    assert (found["probe"].strategy.views, found["full"].strategy.views) == (3, None)
    assert (found["probe"].training.epochs, found["full"].training.epochs) == (None, 7)


@pytest.mark.parametrize(
    ("names", "knobs", "says"),
    [
        (["full", "frozen"], {"views": 3}, "--views 3 has no effect with any of full, frozen"),
        (["fulll"], {}, "--strategies: 'fulll' is neither a strategy nor a file of a recipe"),
        (["full", "full"], {}, "--strategies names 'full' twice"),
        (["full"], {"seeds": 0}, "--seeds 0: expected 1 or more"),
        (["full"], {"folds": 2, "fold": "1/2"}, "--fold 1/2 is one part, and --folds 2 asks"),
        (["lp-ft"], {"epochs": 1}, "--head-epochs 1 leaves nothing of --epochs 1"),
    ],
)
def test_what_makes_no_sense_is_refused(names: list[str], knobs: Any, says: str) -> None:
    with pytest.raises(RecipeError, match=says):
        study(*names, **knobs).trials()


def test_a_recipe_is_a_variation_of_its_own_name() -> None:
    base = overlay(Recipe(), data="photos", lr=0.1)
    gentle = replace(Recipe(), lr=0.01, strategy="lp-ft")
    found = variations_of(base, ["some/gentle.toml", "full"], {"some/gentle.toml": gentle})
    assert found == {
        "gentle": {"lr": 0.01, "strategy": "lp-ft"},
        "full": {"strategy": "full"},
    }
    rates = [t.recipe.optimizer.lr for t in Study(base, found).trials()]
    assert rates == [0.01, 0.1]


# --- what they come to --------------------------------------------------------------------------


@given(st.integers(1, 2000))
def test_students_quantiles_are_those_of_scipy(freedom: int) -> None:
    assert student95(freedom) == pytest.approx(stats.t.ppf(0.975, freedom), rel=5e-4)


@given(st.lists(st.floats(-1, 1), min_size=2, max_size=30))
def test_the_interval_of_a_mean_is_scipys(values: list[float]) -> None:
    mean, low, high = mean95(values)
    error = stats.sem(values)
    expected = stats.t.interval(0.95, len(values) - 1, statistics.fmean(values), error or 1e-300)
    assert (low, high) == pytest.approx(expected, abs=1e-3 * max(error, 1e-9))
    assert low <= mean <= high


def outcome(name: str, seed: int, right: int, *, of: int = 100, fold: str | None = None) -> Outcome:
    score = Score(1, 0.5, Proportion(right, of))
    return Outcome(name, seed, fold, score, Score(2, 0.6, Proportion(right - 1, of)), 2.0)


def test_folds_of_a_seed_are_taken_together() -> None:
    rows = [outcome("a", s, r, of=o, fold=f) for s, f, r, o in (
        (0, "1/2", 9, 10), (0, "2/2", 3, 5), (1, "1/2", 10, 10), (1, "2/2", 4, 5),
    )]  # fmt: skip
    (found,) = standings(rows)
    assert (found.runs, found.seeds, found.images) == (4, 2, 15)
    assert found.best == pytest.approx((12 / 15 + 14 / 15) / 2)
    assert found.spread == pytest.approx(statistics.stdev([12 / 15, 14 / 15]))
    assert found.last == pytest.approx((10 / 15 + 12 / 15) / 2)
    low, high = found.interval
    assert 0.5 < low < found.best < high < 1
    (of_one,) = standings(rows[:2])
    assert of_one.spread == pytest.approx(statistics.stdev([9 / 10, 3 / 5]))
    assert standings(rows[:1])[0].spread is None


@given(st.lists(st.tuples(st.integers(50, 99), st.integers(50, 99)), min_size=2, max_size=12))
def test_differences_are_those_of_pairs(pairs: list[tuple[int, int]]) -> None:
    rows = [outcome(n, s, p[i]) for s, p in enumerate(pairs) for i, n in enumerate("ab")]
    (found,) = differences(rows)
    sign = 1 if found.better == "a" else -1
    values = [sign * (a - b) / 100 for a, b in pairs]
    assert found.mean == pytest.approx(statistics.fmean(values))
    assert found.mean >= -1e-12
    assert found.over_runs == pytest.approx(mean95(values)[1:])
    assert found.beyond_noise == (found.over_runs[0] > 0)


def test_folds_count_for_less_than_runs_on_new_images() -> None:
    def rows(folds: bool) -> list[Outcome]:
        made = []
        for number, better in enumerate((90, 92, 91, 93, 90)):
            fold = f"{number + 1}/5" if folds else None
            seed = 0 if folds else number
            made += [outcome("a", seed, better, fold=fold), outcome("b", seed, 89, fold=fold)]
        return made

    (free,), (bound,) = differences(rows(False)), differences(rows(True))
    # Nadeau and Bengio: 1/J + n_validation/n_training, here 1/5 + 1/4.
    wide, narrow = (d.over_runs[1] - d.over_runs[0] for d in (bound, free))
    assert wide / narrow == pytest.approx(math.sqrt((1 / 5 + 1 / 4) / (1 / 5)))


def test_one_pair_cannot_tell() -> None:
    (found,) = differences([outcome("a", 0, 90), outcome("b", 0, 80)])
    assert not found.beyond_noise
    assert str(found).endswith("one run of each cannot tell whether that is noise")
    assert found.as_dict()["over_runs95"] is None


def test_images_can_be_too_few_for_what_all_seeds_agree_on() -> None:
    def answers(wrong: int) -> dict[tuple[str, str], bool]:
        return {(str(n), ""): n >= wrong for n in range(100)}

    rows = [outcome(n, s, r) for s in range(5) for n, r in (("a", 98), ("b", 96))]
    rows[0] = outcome("a", 0, 99)
    few = [answers(100 - round(o.best.accuracy.correct)) for o in rows]
    (found,) = differences(rows, few)
    assert found.over_runs[0] > 0
    images = [0.2] + [1.0, 1.0] + [0.0] * 97  # image 1 in one of five, 2 and 3 in all
    assert found.over_images is not None
    assert found.over_images == pytest.approx(mean95(images)[1:], abs=1e-12)
    assert found.images == 100
    assert found.over_images[0] < 0
    assert str(found).endswith("beyond the runs' noise, within that of so few images")
    clear = [answers(0 if o.name == "a" else 40) for o in rows]
    (shown,) = differences(rows, clear)
    assert shown.over_images is not None
    assert shown.over_images[0] > 0
    assert shown.beyond_noise


def test_a_run_without_its_pair_is_left_out_of_the_difference() -> None:
    rows = [outcome("a", s, 90 + s) for s in range(3)] + [outcome("b", s, 80) for s in range(2)]
    (found,) = differences(rows)
    assert (found.pairs, found.mean) == (2, pytest.approx(0.105))


# --- made ---------------------------------------------------------------------------------------


def models(folder: Path) -> dict[str, bytes]:
    return {p.parent.name: p.read_bytes() for p in sorted(folder.glob("*/model.safetensors"))}


def test_each_run_is_that_of_finetune(photos: Path, tmp_path: Path) -> None:
    weights = str(weights_of_three(tmp_path / "start"))
    knobs = SMALL | {"weights": weights}
    found = luthier.compare(
        photos, strategies=["full", "frozen"], folds=2, out=tmp_path / "all", console=QUIET, **knobs
    )
    assert [s.name for s in found.standings] == sorted(
        ["full", "frozen"], key=[s.name for s in found.standings].index
    )
    assert {(s.name, s.runs, s.images) for s in found.standings} == {
        ("full", 2, 39),
        ("frozen", 2, 39),
    }
    alone = luthier.finetune(
        photos,
        out=tmp_path / "alone",
        fold="2/2",
        strategy="frozen",
        seed=0,
        console=QUIET,
        **knobs,
    )
    name = "frozen-seed0-fold2of2"
    assert bit_differences(bits(alone.run), bits(tmp_path / "all" / name)) == []
    (of_run,) = [o for o in found.outcomes if (o.name, o.fold) == ("frozen", "2/2")]
    assert (of_run.best, of_run.last) == (alone.best, alone.last)
    assert of_run.learning == 84 * 2 + 2
    assert found.page == tmp_path / "all" / "report.html"
    text = found.page.read_text()
    assert "frozen-seed0-fold2of2/report.html" in text
    assert str(found.differences[0]) in text


def test_what_is_finished_is_left_alone_and_more_is_added(photos: Path, tmp_path: Path) -> None:
    knobs = SMALL | {"strategies": ["scratch"], "out": tmp_path / "all", "console": QUIET}
    luthier.compare(photos, seeds=1, **knobs)
    before = (tmp_path / "all/scratch-seed0/summary.json").stat().st_mtime_ns
    found = luthier.compare(photos, seeds=2, **knobs)
    assert (tmp_path / "all/scratch-seed0/summary.json").stat().st_mtime_ns == before
    assert found.standings[0].runs == 2
    with pytest.raises(RunFolderError, match="another comparison: epochs is 2 there and 3 here"):
        luthier.compare(photos, seeds=2, **(knobs | {"epochs": 3}))
    shown = luthier.compare(tmp_path / "all")
    assert shown.standings == found.standings


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_an_interruption_costs_nothing(photos: Path, tmp_path: Path, number: int) -> None:
    words = [
        "compare",
        photos,
        "--strategies",
        "scratch",
        "--seeds",
        "2",
        "--save-every",
        "1 steps",
    ]
    for name, value in SMALL.items():
        words += ["--" + name.replace("_", "-"), str(value)]
    whole = command(*words, "--out", tmp_path / "whole")
    whole.communicate()
    assert whole.wait() == 0
    cut = tmp_path / "cut"
    process = command(*words, "--out", cut)
    for line in process.stderr:
        if line.startswith("train epoch 1/2"):
            os.kill(process.pid, number)
            break
    _, said = process.communicate()
    assert process.wait() == (130 if number == signal.SIGTERM else -number)
    if number == signal.SIGTERM:
        assert said.rstrip().endswith(f"continue with: luthier resume {cut}")
        assert "luthier: stopped and saved at step" in said
        shown = command("compare", cut)
        assert "no run is finished of scratch-seed0, scratch-seed1" in shown.communicate()[1]
    resumed = command("resume", cut, "--json")
    out, _ = resumed.communicate()
    assert resumed.wait() == 0
    assert models(cut) == models(tmp_path / "whole")
    assert [s["runs"] for s in json.loads(out)["standings"]] == [2]


def test_two_at_once_are_refused(photos: Path, tmp_path: Path) -> None:
    from luthier.run.folder import RunFolder, held  # noqa: PLC0415

    with held(RunFolder(tmp_path / "all")), pytest.raises(RunFolderError, match="in use"):
        luthier.compare(
            photos, strategies=["scratch"], out=tmp_path / "all", console=QUIET, **SMALL
        )


def test_a_damaged_study_is_named(tmp_path: Path) -> None:
    (tmp_path / "study.json").write_text('{"format": 1}')
    with pytest.raises(DamagedError, match=r"study\.json is damaged"):
        read_study(tmp_path)
    with pytest.raises(LuthierError):
        go_on(tmp_path, console=QUIET)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["finetune", "x", "--seeds", "2", "--tune"], "--tune is for one run"),
        (["finetune", "x", "--folds", "2", "--processes", "2"], "--processes is for one run"),
        (["compare", "one", "two"], "one is no run"),
    ],
)
def test_wrong_requests_are_refused(
    words: Sequence[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    from luthier.cli.main import main  # noqa: PLC0415

    assert main(list(words)) in (1, 2)
    assert says in capsys.readouterr().err


# --- beside each other --------------------------------------------------------------------------


def words(photos: Path, **knobs: Any) -> list[str | Path]:
    found: list[str | Path] = ["compare", photos, "--strategies", "scratch", "--seeds", "3"]
    for name, value in (SMALL | knobs).items():
        found += ["--" + name.replace("_", "-"), str(value)]
    return found


def test_runs_beside_each_other_are_those_one_after_another(photos: Path, tmp_path: Path) -> None:
    knobs = SMALL | {"strategies": ["scratch"], "seeds": 3, "console": QUIET}
    one = luthier.compare(photos, out=tmp_path / "one", at_once=1, **knobs)
    two = luthier.compare(photos, out=tmp_path / "two", at_once=2, **knobs)
    assert [(o.seed, o.best.accuracy) for o in two.outcomes] == [
        (o.seed, o.best.accuracy) for o in one.outcomes
    ]
    assert models(tmp_path / "one").keys() == models(tmp_path / "two").keys()


def test_all_that_are_at_work_save_when_asked_to_stop(photos: Path, tmp_path: Path) -> None:
    cut = tmp_path / "cut"
    process = command(*words(photos, epochs=400), "--at-once", "2", "--out", cut)
    begun = [cut / f"scratch-seed{seed}" / "checkpoints" for seed in (0, 1)]
    while process.poll() is None and not all(any(b.glob("step-*")) for b in begun):
        os.sched_yield()
    os.kill(process.pid, signal.SIGTERM)
    _, said = process.communicate()
    assert process.wait() == 130, said
    assert said.rstrip().endswith(f"continue with: luthier resume {cut}")
    logs = [(cut / f"scratch-seed{seed}" / "log.txt").read_text() for seed in (0, 1)]
    assert not (cut / "scratch-seed2").exists()
    for seed, log in enumerate(logs):
        assert "best  epoch" not in log
        assert luthier.verify(cut / f"scratch-seed{seed}").sound


def test_a_run_that_fails_beside_others_is_named(photos: Path, tmp_path: Path) -> None:
    knobs = SMALL | {"strategies": ["full"], "seeds": 2, "console": QUIET}
    missing = str(tmp_path / "nowhere.pth")
    with pytest.raises(
        LuthierError, match=r"^full-seed[01] failed: weights file .*nowhere\.pth does"
    ):
        luthier.compare(photos, out=tmp_path / "all", at_once=2, weights=missing, **knobs)


def test_probes_of_a_comparison_make_each_feature_once(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from luthier.run import features  # noqa: PLC0415

    made: list[int] = []
    write = features.write

    def counting(path: Path, chunk: Any, found: Any, environment: Any) -> None:
        made.append(len(found))
        write(path, chunk, found, environment)

    monkeypatch.setattr(features, "write", counting)
    knobs: dict[str, Any] = {"model": LENET, "image_size": 32, "batch_size": 5, "workers": 0}
    knobs |= {"precision": "fp32", "weights": str(weights_of_three(tmp_path / "start"))}
    knobs |= {"console": QUIET}
    found = luthier.compare(
        photos, strategies=["probe"], folds=3, seeds=2, out=tmp_path / "all", **knobs
    )
    assert sum(made) == 39  # each photo once, for six runs
    assert not (tmp_path / "all" / "features").exists()
    assert found.standings[0].images == 39
    alone = luthier.finetune(
        photos, out=tmp_path / "alone", strategy="probe", fold="2/3", seed=1, **knobs
    )
    assert bit_differences(bits(alone.run), bits(tmp_path / "all/probe-seed1-fold2of3")) == []
