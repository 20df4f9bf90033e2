"""``luthier tune``: what is tried, what is taken, and that no trial's end is the end."""

from __future__ import annotations

import copy
import json
import math
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import luthier
from conftest import LENET
from luthier import recipe, report, tuning
from luthier.cli.main import main
from luthier.devices import Hold
from luthier.errors import CommandFailedError, RecipeError
from luthier.models.lenet import LeNet
from luthier.report import Console
from luthier.run.trials import Trials
from luthier.run.tuning import tuned
from luthier.training import compile_in_place
from luthier.tuning import Facts, Setting, divisors, gain_of, largest_that_fits, options_of

BASE = Setting(8, 1, "fp32", compile=False, pin_memory=False, workers=1)
SMALL: dict[str, Any] = {
    "model": LENET,
    "weights": "none",
    "image_size": 32,
    "epochs": 1,
    "batch_size": 8,
    "device": "cpu",
    "precision": "fp32",
    "compile": False,
    "workers": 1,
}


# --- the largest batch ----------------------------------------------------------------------


@st.composite
def limits(draw: st.DrawFn) -> tuple[list[int], list[int | None], int, int]:
    """Sizes, a peak that never falls with them (None: it ran out), a budget, where to start."""
    sizes = sorted(draw(st.sets(st.integers(1, 5000), min_size=1, max_size=200)))
    steps = draw(st.lists(st.integers(0, 100), min_size=len(sizes), max_size=len(sizes)))
    peaks: list[int | None] = [sum(steps[: i + 1]) for i in range(len(sizes))]
    runs_out = draw(st.integers(0, len(sizes)))
    peaks[runs_out:] = [None] * (len(sizes) - runs_out)
    return sizes, peaks, draw(st.integers(0, sum(steps) + 1)), draw(st.integers(1, 6000))


@given(limits())
def test_the_largest_that_fits_is_found_for_any_limit_in_few_trials(
    case: tuple[list[int], list[int | None], int, int],
) -> None:
    sizes, peaks, budget, start = case
    tried: list[int] = []

    def peak(size: int) -> int | None:
        assert size not in tried
        found = peaks[sizes.index(size)]
        beyond = [s for s in tried if (p := peaks[sizes.index(s)]) is None or p > budget]
        assert all(size < s for s in beyond)
        tried.append(size)
        return found

    fits = [s for s, p in zip(sizes, peaks, strict=True) if p is not None and p <= budget]
    assert largest_that_fits(peak, sizes, budget, start) == (fits[-1] if fits else None)
    assert len(tried) <= 2 * math.log2(len(sizes)) + 14  # 13 doublings lead from 1 to 5000


@given(st.integers(0, 10**6), st.integers(1, 10**4), st.integers(1, 10**5))
def test_memory_on_a_line_takes_at_most_five_trials(fixed: int, each: int, most: int) -> None:
    tried: list[int] = []

    def peak(size: int) -> int:
        tried.append(size)
        return fixed + each * size

    sizes = range(1, 10**6)
    assert largest_that_fits(peak, sizes, peak(most), 1) == most
    assert len(tried) - 1 <= 5


@given(st.integers(1, 4096))
def test_a_smaller_batch_keeps_the_images_of_a_step(images: int) -> None:
    whole = Setting(images, 1, "fp32", compile=False, pin_memory=False, workers=1)
    for part in divisors(images):
        assert whole.with_batch(part).effective_batch == images


# --- gains ----------------------------------------------------------------------------------

rates = st.floats(1, 1000)


@given(rates, st.floats(0, 1), st.floats(0.5, 2), st.integers(1, 8))
def test_a_machine_that_drifts_shifts_no_gain(
    rate: float, drift: float, ratio: float, rounds: int
) -> None:
    base = [rate * (1 + drift * n) for n in range(rounds + 1)]
    other = [ratio * rate * (1 + drift * (n + 0.5)) for n in range(rounds)]
    assert gain_of(base, other).ratio == pytest.approx(ratio)


@given(st.data(), st.integers(1, 8))
def test_only_what_every_measurement_supports_is_beyond_noise(
    data: st.DataObject, rounds: int
) -> None:
    base = data.draw(st.lists(rates, min_size=rounds + 1, max_size=rounds + 1))
    other = data.draw(st.lists(rates, min_size=rounds, max_size=rounds))
    gain = gain_of(base, other)
    assert gain.low <= gain.ratio * (1 + 1e-9)
    assert gain.ratio <= gain.high * (1 + 1e-9)
    if gain.beyond_noise:
        assert rounds > 1
        assert gain.ratio > 1 + tuning.LEAST_GAIN


def test_scatter_hides_a_gain_that_steady_rounds_show() -> None:
    assert gain_of([100, 101, 100, 101], [120, 121, 120]).beyond_noise
    assert not gain_of([100, 140, 90, 130], [150, 100, 140]).beyond_noise
    assert not gain_of([100, 100, 100], [101, 101]).beyond_noise  # too little to care


def test_a_compilation_must_pay_back_within_the_run() -> None:
    assert tuning.pays_back(100, 200, images=10_000, extra=49)
    assert not tuning.pays_back(100, 200, images=10_000, extra=51)


# --- what is tried --------------------------------------------------------------------------


def facts(device: str = "cpu", compiler: str = "g++") -> Facts:
    return Facts(BASE, device, images=100, epochs=2, memory=2**30, compiler=compiler)


FIELDS = ("precision", "compile", "pin_memory", "workers")


@given(
    st.sets(st.sampled_from(FIELDS)),
    st.integers(1, 64),
    st.sampled_from(["cpu", "cuda:1", "mps"]),
    st.sampled_from(["", "triton"]),
)
def test_each_field_is_tried_or_said_to_be_left_out(
    asked: set[str], cores: int, device: str, compiler: str
) -> None:
    options = options_of(facts(device, compiler), asked, cores)
    left_out = {note.partition(":")[0] for note in options.left_out}
    assert not left_out & options.fields.keys()
    assert asked <= left_out
    assert set(FIELDS) - left_out - options.fields.keys() <= ({"workers"} if cores == 1 else set())
    assert all(n <= cores for n in options.fields.get("workers", ()))
    for field in options.fields:
        for other in options.settings(field, BASE):
            assert other.changed_from(BASE).keys() == {field}


def test_pinning_and_compiling_are_tried_where_they_can_work() -> None:
    assert "pin_memory" not in options_of(facts("cpu"), (), 4).fields
    assert "pin_memory" in options_of(facts("cuda:0"), (), 4).fields
    assert "compile" not in options_of(facts(compiler=""), (), 4).fields
    assert options_of(facts(), (), 4).fields["workers"] == (2, 4)


def test_the_verdict_names_what_a_step_waits_for() -> None:
    said = report.verdict({"waiting for data": 6.1, "computing": 3.5, "copying": 0.4})
    assert said == "input-bound: 61 % of a step waits for data"
    assert report.verdict({"copying": 3, "computing": 7}).startswith("copy-bound: 30 %")
    assert report.verdict({"waiting for data": 1, "computing": 9}).startswith("compute-bound: 90 %")


# --- trials that fail -----------------------------------------------------------------------


def given_recipe(photos: Path, **knobs: Any) -> recipe.Recipe:
    return recipe.overlay(recipe.Recipe(), data=str(photos), **SMALL | knobs)


@pytest.fixture
def trials_of(photos: Path, tmp_path: Path) -> Iterator[Any]:
    opened: list[Trials] = []

    def build(model: str, patience: float = 600) -> Trials:
        wanted = given_recipe(photos, model=f"trial_models:{model}")
        opened.append(Trials(wanted, tmp_path, 2**33, 0.1, patience, 0.01))
        return opened[-1]

    yield build
    for trials in opened:
        trials.close()


@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
def test_a_killed_trial_counts_as_out_of_memory(trials_of: Any) -> None:
    trials = trials_of("Killed")
    assert trials.peak(BASE) is None
    assert trials.records[BASE].failed.outcome == "out of memory"


def test_a_trial_that_does_not_answer_is_ended(trials_of: Any) -> None:
    trials = trials_of("Hangs", patience=12)
    with pytest.raises(Exception, match="no answer"):
        trials.peak(BASE)


def test_the_end_of_its_input_ends_a_trial_whatever_it_is_doing(trials_of: Any) -> None:
    process = trials_of("Hangs")._start(BASE.as_dict())
    process._process.stdin.close()
    assert process._process.wait(60) == 0
    process.close()


def test_the_mistake_of_a_trial_that_crashes_is_told(photos: Path) -> None:
    with pytest.raises(CommandFailedError, match="crashed: IndexError: the cat is out of the bag"):
        tuned(given_recipe(photos, model="trial_models:Crashes"), Console(quiet=True), Hold())


def test_a_batch_that_memory_does_not_take_is_made_of_smaller_ones(photos: Path) -> None:
    wanted = given_recipe(photos, model="trial_models:TakesFour")
    found = tuned(wanted, Console(quiet=True), Hold(), round_seconds=0.01)
    assert (found.best.batch_size, found.best.accumulate) == (4, 2)
    assert found.tried[0].outcome == "out of memory"
    assert any("BatchNorm sees 4 at a time" in note for note in found.notes)
    assert found.recipe.training.batch_size == 4
    assert found.recipe.optimizer.accumulate == 2


# --- the whole ------------------------------------------------------------------------------


def test_what_is_found_is_a_recipe_that_finetune_takes(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "tuned.toml"
    before = sorted(photos.rglob("*"))
    knobs = {**SMALL, "workers": None, "precision": None, "seed": 3}
    found = luthier.tune(
        photos,
        out=out,
        console=Console(quiet=True),
        round_seconds=0.01,
        largest_batch=True,
        **knobs,
    )
    assert sorted(photos.rglob("*")) == before
    assert not found.tried[0].changed
    assert [set(tried.changed) for tried in found.tried[1:3]] == [{"precision"}, {"workers"}]
    assert all(tried.rate and tried.peak for tried in found.tried)
    for tried in found.tried:
        assert tried.kinds.keys() >= {"waiting for data", "computing"}
        assert all(seconds >= 0 for seconds in tried.kinds.values())
    assert found.best in [tried.setting for tried in found.tried]
    assert (found.gain is None) == (found.best == found.base)
    assert found.gain is None or found.gain.beyond_noise
    assert any("larger batch than 8, of which memory would take 28" in n for n in found.notes)
    assert json.loads(json.dumps(found.as_dict()))["verdict"] == found.verdict
    for line in (*found.notes, found.verdict):
        assert line in str(found)
    written = recipe.read(out)
    assert written == found.recipe
    assert written.training.seed == 3
    luthier.finetune(photos, out=tmp_path / "run", recipe_file=out, console=Console(quiet=True))


def test_an_existing_file_is_not_written_over_unless_it_is_the_recipe(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    there = tmp_path / "mine.toml"
    there.write_text("")
    assert main(["tune", str(photos), "--out", str(there)]) == 2
    assert "is there already" in capsys.readouterr().err
    assert main(["tune", str(photos), "--out", str(tmp_path / "no" / "x.toml")]) == 2


def test_what_makes_no_sense_is_refused_before_any_trial(photos: Path) -> None:
    with pytest.raises(RecipeError, match="has no effect"):
        luthier.tune(photos, trunk_lr_scale=0.5)
    with pytest.raises(RecipeError, match="nothing to tune with --strategy probe"):
        luthier.tune(photos, strategy="probe")
    with pytest.raises(RecipeError, match="not on this machine"):  # found by the first trial
        luthier.tune(photos, **SMALL | {"device": "cuda:77"})


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler here")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's compiler uses torch.jit
def test_a_compiled_model_is_the_same_module_and_learns_the_same() -> None:
    torch.manual_seed(0)
    plain = LeNet(3)
    compiled = copy.deepcopy(plain)
    assert compile_in_place(compiled) is compiled
    assert compiled.state_dict().keys() == plain.state_dict().keys()
    images = torch.rand(4, 3, 32, 32)
    for model in (plain, compiled):
        model(images).square().sum().backward()
    for (name, one), other in zip(plain.named_parameters(), compiled.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad, msg=name)
