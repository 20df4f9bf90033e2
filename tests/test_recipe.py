"""The recipe: one list of fields for TOML, flags and Python, and what it refuses."""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from luthier.cli import finetune
from luthier.cli.parser import Parser
from luthier.errors import RecipeError
from luthier.recipe import (
    ENTRIES,
    STRATEGIES,
    Entry,
    Interval,
    Recipe,
    from_toml,
    overlay,
    parse_fold,
    parse_interval,
    parse_log,
    read,
    replace,
    resolve,
    to_toml,
    values,
)

# One valid value of every field, none of them the default.
SAMPLES: dict[str, Any] = {
    "data": "photos",
    "val_fraction": 0.25,
    "fold": "2/5",
    "strict_images": True,
    "image_size": 96,
    "resize": 128,
    "augment": "crop",
    "color_jitter": 0.4,
    "rand_augment": 9,
    "erase": 0.25,
    "interpolation": "bicubic",
    "mean": (0.5, -0.25, 0.125),
    "std": (0.5, 0.25, 2.0),
    "model": "mobilenet_v2",
    "weights": "weights.pth",
    "head": "by-name",
    "head_module": "classifier.1",
    "strategy": "layerwise",
    "trunk_lr_scale": 0.3,
    "layer_decay": 0.5,
    "head_epochs": 2,
    "unfreeze_epochs": 3,
    "views": 4,
    "optimizer": "adamw",
    "lr": 0.02,
    "momentum": 0.8,
    "weight_decay": 0.001,
    "decay_to": "start",
    "clip_norm": 1.5,
    "accumulate": 4,
    "schedule": "cosine",
    "step_size": 3,
    "gamma": 0.5,
    "warmup_epochs": 1.5,
    "label_smoothing": 0.1,
    "class_weights": "balanced",
    "mixup": 0.2,
    "cutmix": 1.0,
    "ema": 0.99,
    "epochs": 9,
    "batch_size": 8,
    "seed": 7,
    "patience": 5,
    "save_every": "10 minutes",
    "keep": 3,
    "disk_patience": 2.5,
    "device": "cuda:1",
    "precision": "bf16",
    "compile": True,
    "virtual_shards": 4,
    "shard": True,
    "checkpoint_activations": True,
    "sync_batchnorm": True,
    "workers": 3,
    "pin_memory": True,
    "cache_memory": 1.5,
    "cache_disk": 20.0,
    "log": "tensorboard, a.b:Writer",
}

ONLY: dict[str, tuple[str, tuple[str, ...]]] = {
    "trunk_lr_scale": ("strategy", ("discriminative",)),
    "layer_decay": ("strategy", ("layerwise",)),
    "head_epochs": ("strategy", ("lp-ft",)),
    "unfreeze_epochs": ("strategy", ("gradual",)),
    "views": ("strategy", ("probe",)),
    "momentum": ("optimizer", ("sgd",)),
    "step_size": ("schedule", ("step",)),
    "gamma": ("schedule", ("step",)),
    "warmup_epochs": ("schedule", ("step", "cosine", "constant")),
}

# What has no effect with --strategy probe, which takes no steps.
STEPWISE = (
    *("optimizer", "lr", "momentum", "weight_decay", "decay_to", "clip_norm", "accumulate"),
    *("schedule", "step_size", "gamma", "warmup_epochs", "label_smoothing", "mixup", "cutmix"),
    *("ema", "epochs", "patience", "save_every", "keep", "compile", "virtual_shards", "shard"),
    *("checkpoint_activations", "sync_batchnorm"),
)
WITH_STEPS = ("checkpoint-activations", "sync-batchnorm")
AUGMENTS = ("augment", "color_jitter", "rand_augment", "erase")

# Field: values just outside of its range, values just inside.
RANGES: dict[str, tuple[tuple[Any, ...], tuple[Any, ...]]] = {
    "val_fraction": ((0, 1, -0.1, 1.1), (0.001, 0.999)),
    "image_size": ((0, -1), (1,)),
    "resize": ((0, -5), (224,)),
    "std": (((0, 1, 1), (1, 1, -1)), ((0.001, 1, 1),)),
    "trunk_lr_scale": ((0, -1), (0.001, 10)),
    "layer_decay": ((0, -1, 1.01), (0.001, 1)),
    "head_epochs": ((0, -1), (1, 24)),
    "unfreeze_epochs": ((0, -1), (1, 25)),
    "views": ((0, -1), (1, 100)),
    "lr": ((0, -0.1), (1e-9, 100)),
    "momentum": ((-0.1, 1, 1.1), (0, 0.999)),
    "weight_decay": ((-0.1,), (0, 1)),
    "clip_norm": ((0, -1), (0.001,)),
    "accumulate": ((0, -1), (1,)),
    "step_size": ((0, -1), (1,)),
    "gamma": ((0, -0.1), (0.001, 2)),
    "warmup_epochs": ((-0.1,), (0, 24.5)),
    "label_smoothing": ((-0.1, 1), (0, 0.999)),
    "mixup": ((0, -1), (0.001,)),
    "cutmix": ((0, -1), (0.001,)),
    "ema": ((0, 1, 1.5), (0.001, 0.9999)),
    "epochs": ((0, -1), (1,)),
    "batch_size": ((0, -1), (1,)),
    "seed": ((-1,), (0,)),
    "patience": ((0, -1), (1,)),
    "virtual_shards": ((0, -1), (1,)),
    "keep": ((0, -1), (1,)),
    "disk_patience": ((-0.1,), (0, 60)),
    "workers": ((-1,), (0,)),
    "color_jitter": ((0, -0.1), (0.001, 2)),
    "rand_augment": ((0, 31), (1, 30)),
    "erase": ((0, 1.1), (0.001, 1)),
    "cache_memory": ((-0.1,), (0, 100)),
    "cache_disk": ((-0.1,), (0, 100)),
}


def recipe(**fields: Any) -> Recipe:
    return replace(Recipe(), **fields)


def refusal(**fields: Any) -> str:
    with pytest.raises(RecipeError) as caught:
        resolve(recipe(**fields))
    return str(caught.value)


def surroundings(name: str) -> dict[str, Any]:
    """Other fields that a field needs to have an effect."""
    if name not in ONLY:
        return {}
    other, allowed = ONLY[name]
    return {other: allowed[0]}


def parser() -> Parser:
    made = Parser(prog="luthier finetune")
    finetune.add(made)
    return made


def flags(parser: argparse.ArgumentParser) -> set[str]:
    return {flag for action in parser._actions for flag in action.option_strings}


def numbers(entry: Entry) -> st.SearchStrategy[Any]:
    knob = entry.knob
    if entry.type is int:
        return st.integers(int(knob.low or 0), int(knob.high or 10_000))
    return st.floats(
        knob.low,
        knob.high,
        exclude_min=knob.open_low,
        exclude_max=knob.open_high,
        allow_nan=False,
        allow_infinity=False,
    )


def any_value(entry: Entry) -> st.SearchStrategy[Any]:
    own = {
        "save_every": st.sampled_from(["1 epoch", "3 steps", "0.5 minutes", "1%"]),
        "fold": st.sampled_from(["1/2", "3/3", "2/10"]),
        "device": st.sampled_from(["auto", "cpu", "mps", "cuda", "cuda:3"]),
        "weights": st.sampled_from(["imagenet", "IMAGENET1K_V1", "a/b c.pth"]),
        "log": st.sampled_from(["tensorboard", "a:b", "a.b:c.d,tensorboard"]),
    }
    if entry.name in own:
        return own[entry.name]
    if entry.knob.choices:
        return st.sampled_from(entry.knob.choices)
    if entry.type is bool:
        return st.booleans()
    if entry.type is str:
        return st.text(st.characters(exclude_categories=["Cs"]), min_size=1)
    return st.tuples(*[numbers(entry)] * 3) if entry.type is tuple else numbers(entry)


def make_start_fit(draw: st.DrawFn, got: dict[str, Any]) -> None:
    random_start = got["weights"] == "none" or got["strategy"] == "scratch"
    if random_start:
        got["head"] = draw(st.sampled_from([None, "replace"]))
    if random_start or (got["strategy"] in ("frozen", "zero-lr") and got["head"] != "by-name"):
        got["decay_to"] = draw(st.sampled_from([None, "zero"]))
    if got["decay_to"] == "start":
        got["weight_decay"] = draw(st.floats(1e-6, 1))


def make_shard_fit(draw: st.DrawFn, got: dict[str, Any]) -> None:
    if got["shard"]:
        got |= {"compile": draw(st.sampled_from([None, False])), "virtual_shards": None}


def make_forwards_fit(draw: st.DrawFn, got: dict[str, Any]) -> None:
    off = st.sampled_from([None, False])
    if got["compile"] or got["strategy"] == "frozen":
        got["checkpoint_activations"] = draw(off)
    still = got["strategy"] in ("frozen", "zero-lr")
    if got["compile"] or still or got["virtual_shards"] is not None:
        got["sync_batchnorm"] = draw(off)


def make_probe_fit(draw: st.DrawFn, got: dict[str, Any]) -> None:
    got |= dict.fromkeys(STEPWISE)
    got["head"] = draw(st.sampled_from([None, "replace"]))
    if got["views"] in (None, 1):
        got |= dict.fromkeys(AUGMENTS)
    elif got["augment"] == "none":
        got["augment"] = "crop"


@st.composite
def recipes(draw: st.DrawFn) -> Recipe:
    """Any recipe that makes sense, with any part of it undecided."""
    got = {e.name: draw(st.none() | any_value(e)) for e in ENTRIES.values()}
    got["val_fraction"] = got["val_fraction"] if got["fold"] is None else None
    if got["strategy"] == "scratch":
        got["weights"] = draw(st.sampled_from([None, "none"]))
    elif got["strategy"] is None:
        got["weights"] = draw(st.sampled_from([got["weights"], "none"]))
    for name, (other, allowed) in ONLY.items():
        if (got[other] or ENTRIES[other].knob.default or "full") not in allowed:
            got[name] = None
    if got["schedule"] == "one-cycle":
        got["momentum"] = None
    make_shard_fit(draw, got)
    make_forwards_fit(draw, got)
    make_start_fit(draw, got)
    if got["strategy"] == "probe":
        make_probe_fit(draw, got)
    if got["resize"] is not None:
        got["resize"] += got["image_size"] or 224
    longest = max(got["head_epochs"] or 1, got["unfreeze_epochs"] or 1)
    if got["warmup_epochs"] is not None:
        got["warmup_epochs"] = draw(st.floats(0, 20))
        longest = max(longest, 20)
    if got["strategy"] != "probe":
        got["epochs"] = longest + 1 + draw(st.integers(0, 50))
    return recipe(**got)


def test_the_tables_of_this_file_are_complete() -> None:
    assert SAMPLES.keys() == ENTRIES.keys()
    assert {n: e.knob.only for n, e in ENTRIES.items() if e.knob.only} == ONLY
    unless = {n for n, e in ENTRIES.items() if e.knob.unless}
    assert unless == set(STEPWISE)
    assert {ENTRIES[n].knob.unless for n in STEPWISE} == {("strategy", ("probe",))}
    ranged = {n for n, e in ENTRIES.items() if (e.knob.low, e.knob.high) != (None, None)}
    assert ranged == RANGES.keys()


@settings(deadline=None, max_examples=50)
@given(recipes())
def test_a_resolved_recipe_comes_back_from_toml_equal(made: Recipe) -> None:
    resolved = resolve(made)
    assert from_toml(to_toml(resolved)) == resolved


@settings(deadline=None, max_examples=30)
@given(recipes())
def test_an_undecided_recipe_comes_back_from_toml_equal(made: Recipe) -> None:
    assert from_toml(to_toml(made)) == made


@settings(deadline=None, max_examples=50)
@given(recipes())
def test_resolving_twice_changes_nothing_and_what_was_given_stays(made: Recipe) -> None:
    resolved = resolve(made)
    assert resolve(resolved) == resolved
    decided = {name: value for name, value in values(made).items() if value is not None}
    assert {name: values(resolved)[name] for name in decided} == decided


def test_an_empty_recipe_resolves_to_the_documented_defaults() -> None:
    filled = {k: v for k, v in values(resolve(Recipe())).items() if v is not None}
    assert filled == {
        "strict_images": False,
        "image_size": 224,
        "resize": 256,
        "augment": "crop-flip",
        "model": "resnet18",
        "weights": "imagenet",
        "head": "replace",
        "strategy": "full",
        "optimizer": "sgd",
        "lr": 0.001,
        "momentum": 0.9,
        "weight_decay": 0.0,
        "decay_to": "zero",
        "accumulate": 1,
        "schedule": "step",
        "step_size": 7,
        "gamma": 0.1,
        "warmup_epochs": 0.0,
        "label_smoothing": 0.0,
        "class_weights": "none",
        "epochs": 25,
        "batch_size": 16,
        "seed": 0,
        "save_every": "1 epoch",
        "keep": 2,
        "disk_patience": 10.0,
        "device": "auto",
        "precision": "auto",
        "compile": False,
        "shard": False,
        "checkpoint_activations": False,
        "sync_batchnorm": False,
    }


@pytest.mark.parametrize(
    ("given_fields", "filled"),
    [
        ({"optimizer": "adamw"}, {"weight_decay": 0.01, "momentum": None}),
        ({"schedule": "one-cycle"}, {"momentum": None, "step_size": None, "warmup_epochs": None}),
        ({"strategy": "lp-ft", "epochs": 20}, {"head_epochs": 4, "unfreeze_epochs": None}),
        ({"strategy": "lp-ft", "epochs": 3}, {"head_epochs": 1}),
        ({"strategy": "gradual", "epochs": 20}, {"unfreeze_epochs": 10}),
        ({"strategy": "gradual", "epochs": 1}, {"unfreeze_epochs": 1}),
        ({"strategy": "discriminative"}, {"trunk_lr_scale": 0.1, "layer_decay": None}),
        ({"strategy": "layerwise"}, {"layer_decay": 0.75}),
        ({"strategy": "probe"}, {"views": 1, "augment": None, "epochs": None, "lr": None}),
        ({"strategy": "probe", "views": 2}, {"augment": "crop-flip", "weight_decay": None}),
        ({"image_size": 32}, {"resize": 37}),
        ({"weights": "none"}, {"strategy": "scratch"}),
        ({"strategy": "scratch"}, {"weights": "none"}),
        ({"weights": "file.pth"}, {"strategy": "full"}),
    ],
)
def test_what_depends_on_others_is_filled_in(
    given_fields: dict[str, Any], filled: dict[str, Any]
) -> None:
    resolved = values(resolve(recipe(**given_fields)))
    assert {name: resolved[name] for name in filled} == filled


def test_every_field_is_a_flag_and_every_flag_a_field() -> None:
    of_the_command = {"-h", "--help", "--out", "--recipe", "--tune", "--json"}
    of_the_command |= {"--wait", "--share", "--processes", "--seeds", "--folds", "--at-once"}
    of_the_command |= {
        f"--no-{name}" for name in ("strict-images", "compile", "shard", "pin-memory", *WITH_STEPS)
    }
    of_fields = {entry.flag for name, entry in ENTRIES.items() if name != "data"}
    assert flags(parser()) - of_the_command == of_fields


def test_flags_give_the_values_of_the_fields() -> None:
    words = [SAMPLES["data"]]
    for name, value in SAMPLES.items():
        if isinstance(value, tuple):
            words += [ENTRIES[name].flag, *map(str, value)]
        elif isinstance(value, bool):
            words.append(ENTRIES[name].flag)
        elif name != "data":
            words += [ENTRIES[name].flag, str(value)]
    found = vars(parser().parse_args(words))
    assert recipe(**{name: found[name] for name in ENTRIES}) == recipe(**SAMPLES)
    assert vars(parser().parse_args(["photos", "--no-strict-images"]))["strict_images"] is False


def test_flags_that_are_not_given_are_undecided() -> None:
    found = vars(parser().parse_args(["photos"]))
    assert {name: found[name] for name in ENTRIES if found[name] is not None} == {"data": "photos"}


@pytest.mark.parametrize(
    ("name", "other", "value"),
    [
        (name, other, value)
        for name, (other, allowed) in ONLY.items()
        for value in (STRATEGIES if other == "strategy" else ENTRIES[other].knob.choices)
        if value not in allowed
    ],
)
def test_a_field_without_an_effect_is_refused_naming_both(
    name: str, other: str, value: str
) -> None:
    said = refusal(**{name: SAMPLES[name], other: value})
    assert f"{ENTRIES[name].flag} {SAMPLES[name]} has no effect" in said
    assert f"{ENTRIES[other].flag} {value}" in said
    assert all(f"{ENTRIES[other].flag} {allowed}" in said for allowed in ONLY[name][1])


@pytest.mark.parametrize("name", [n for n, (other, _) in ONLY.items() if other == "strategy"])
def test_a_field_of_another_strategy_is_refused_where_none_is_given(name: str) -> None:
    assert "--strategy full" in refusal(**{name: SAMPLES[name]})


@pytest.mark.parametrize("name", STEPWISE)
def test_what_belongs_to_steps_is_refused_with_a_probe(name: str) -> None:
    title = ENTRIES[name].title(SAMPLES[name])
    assert f"{title} has no effect with --strategy probe" in refusal(
        strategy="probe", **{name: SAMPLES[name]}
    )


@pytest.mark.parametrize("name", AUGMENTS)
def test_augmentation_is_refused_where_a_probe_looks_once(name: str) -> None:
    value = {"augment": "crop", "color_jitter": 0.4, "rand_augment": 9, "erase": 0.25}[name]
    for once in ({}, {"views": 1}):
        said = refusal(strategy="probe", **once, **{name: value})
        assert f"{ENTRIES[name].flag} {value} has no effect with --strategy probe and" in said
        assert "--views" in said
    made = resolve(recipe(strategy="probe", views=2, **{name: value}))
    assert values(made)[name] == value


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"checkpoint_activations": True, "compile": True}, "does not work with --compile"),
        ({"checkpoint_activations": True, "strategy": "frozen"}, "has no effect with --strategy f"),
        ({"sync_batchnorm": True, "compile": True}, "does not work with --compile"),
        ({"sync_batchnorm": True, "strategy": "frozen"}, "has no effect with --strategy frozen"),
        ({"sync_batchnorm": True, "strategy": "zero-lr"}, "has no effect with --strategy zero-lr"),
        ({"sync_batchnorm": True, "virtual_shards": 2}, "no sense with --virtual-shards"),
    ],
)
def test_another_way_to_compute_steps_is_refused_where_there_is_none(
    fields: dict[str, Any], words: str
) -> None:
    assert words in refusal(**fields)


def test_views_that_are_all_the_same_are_refused() -> None:
    said = refusal(strategy="probe", views=3, augment="none")
    assert "--views 3 has no effect with --augment none" in said
    resolve(recipe(strategy="probe", views=3, augment="none", erase=0.5))


def test_a_probe_refuses_a_head_by_name() -> None:
    assert "--head by-name has no effect with --strategy probe" in refusal(
        strategy="probe", head="by-name"
    )


def test_a_change_to_a_probe_and_back_takes_along_what_has_no_effect() -> None:
    plain = resolve(recipe(weights="a.pth", optimizer="adamw", epochs=3, augment="crop"))
    probe = resolve(overlay(plain, strategy="probe"))
    assert probe == resolve(recipe(weights="a.pth", strategy="probe"))
    many = resolve(overlay(probe, views=4))
    assert (many.strategy.views, many.data.augment) == (4, "crop-flip")
    assert resolve(overlay(many, views=1)) == probe
    back = resolve(overlay(many, strategy="frozen"))
    assert back == resolve(recipe(weights="a.pth", strategy="frozen"))


def test_momentum_is_refused_where_the_schedule_cycles_it() -> None:
    said = refusal(momentum=0.8, schedule="one-cycle")
    assert "--momentum" in said
    assert "--schedule one-cycle" in said


@pytest.mark.parametrize("strategy", [s for s in STRATEGIES if s != "scratch"])
def test_random_weights_are_refused_but_for_scratch(strategy: str) -> None:
    said = refusal(strategy=strategy, weights="none")
    assert f"--strategy {strategy} with --weights none makes no sense" in said
    assert "--strategy scratch" in said


def test_a_frozen_random_trunk_is_refused_saying_why() -> None:
    assert "learns nothing" in refusal(strategy="frozen", weights="none")


@pytest.mark.parametrize("weights", ["file.pth", "imagenet"])
def test_scratch_refuses_weights(weights: str) -> None:
    said = refusal(strategy="scratch", weights=weights)
    assert f"--weights {weights} has no effect with --strategy scratch" in said


def test_a_head_by_name_needs_a_head_to_take_rows_from() -> None:
    said = refusal(head="by-name", weights="none")
    assert "--head by-name has no effect with --weights none" in said
    assert "--head by-name has no effect" in refusal(head="by-name", strategy="scratch")


def test_decay_toward_the_start_is_refused_where_it_pulls_nothing_there() -> None:
    said = refusal(decay_to="start")
    assert "--decay-to start has no effect without --weight-decay above 0" in said
    assert "no effect without --weight-decay" in refusal(
        decay_to="start", optimizer="adamw", weight_decay=0.0
    )
    said = refusal(decay_to="start", weight_decay=0.1, strategy="scratch")
    assert "--decay-to start makes no sense with --strategy scratch" in said
    for strategy in ("frozen", "zero-lr"):
        said = refusal(decay_to="start", weight_decay=0.1, strategy=strategy)
        assert f"--decay-to start has no effect with --strategy {strategy} and --head" in said
        resolve(recipe(decay_to="start", weight_decay=0.1, strategy=strategy, head="by-name"))
    assert resolve(recipe(decay_to="start", optimizer="adamw")).optimizer.weight_decay == 0.01


@pytest.mark.parametrize(
    ("fields", "both"),
    [
        ({"resize": 64, "image_size": 65}, ("--resize 64", "--image-size 65")),
        ({"resize": 223}, ("--resize 223", "--image-size 224")),
        (
            {"strategy": "lp-ft", "head_epochs": 5, "epochs": 5},
            ("--head-epochs 5", "--epochs 5"),
        ),
        (
            {"strategy": "gradual", "unfreeze_epochs": 6, "epochs": 5},
            ("--unfreeze-epochs 6", "--epochs 5"),
        ),
        ({"warmup_epochs": 5, "epochs": 5}, ("--warmup-epochs 5", "--epochs 5")),
    ],
)
def test_lengths_that_do_not_fit_together_are_refused(
    fields: dict[str, Any], both: tuple[str, str]
) -> None:
    said = refusal(**fields)
    assert all(flag in said for flag in both)


@pytest.mark.parametrize("name", RANGES)
def test_a_number_outside_of_its_range_is_refused_by_name(name: str) -> None:
    outside, inside = RANGES[name]
    for value in outside:
        said = refusal(**surroundings(name), **{name: value})
        assert re.match(rf"{ENTRIES[name].flag} -?[\d.]+ is too (small|large): it must be", said)
    for value in inside:
        resolve(recipe(**surroundings(name), **{name: value}))


@pytest.mark.parametrize("name", [n for n, e in ENTRIES.items() if e.knob.choices])
def test_an_unknown_choice_names_the_nearest_and_all(name: str) -> None:
    choices = ENTRIES[name].knob.choices
    said = refusal(**{name: choices[0] + "x"})
    assert f"{ENTRIES[name].flag} '{choices[0]}x' is unknown (did you mean {choices[0]!r}?)" in said
    assert ", ".join(choices) in said


@pytest.mark.parametrize("device", ["gpu", "cuda:", "cuda:x", "CPU", ""])
def test_an_unknown_device_is_refused_naming_the_known(device: str) -> None:
    assert f"--device {device!r} is unknown; known are: auto, cpu, cuda" in refusal(device=device)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("epochs", True),
        ("epochs", 2.0),
        ("epochs", "2"),
        ("lr", "0.1"),
        ("lr", True),
        ("lr", float("nan")),
        ("lr", float("inf")),
        ("strict_images", 1),
        ("strict_images", "yes"),
        ("model", 18),
        ("save_every", 5),
        ("mean", 0.5),
        ("mean", "abc"),
        ("mean", [0.5, 0.5]),
        ("mean", [0.5, 0.5, "0.5"]),
        ("mean", [0.5, 0.5, True]),
        ("std", [1.0, 1.0, float("inf")]),
    ],
)
def test_a_value_of_the_wrong_type_is_refused_by_name(name: str, value: Any) -> None:
    with pytest.raises(RecipeError, match=f"^{name} takes .*, found {re.escape(repr(value))}"):
        recipe(**{name: value})


@pytest.mark.parametrize("line", ["epochs = true", "epochs = 2.0", 'epochs = "2"', "epochs = []"])
def test_a_value_of_the_wrong_type_in_toml_is_refused(line: str) -> None:
    with pytest.raises(RecipeError, match="epochs takes"):
        from_toml(f"[training]\n{line}\n")


def test_a_whole_number_is_a_float() -> None:
    learned = values(recipe(lr=1, mean=(0, 1, 2)))
    assert (type(learned["lr"]), learned["mean"]) == (float, (0.0, 1.0, 2.0))
    assert {type(number) for number in learned["mean"]} == {float}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[trainig]\nepochs = 3", r"unknown section \[trainig\] \(did you mean 'training'\?\)"),
        ("[training]\nepoch = 3", r"unknown key 'epoch' \(did you mean 'epochs'\?\)"),
        ("[model]\nepochs = 3", r"'epochs' stands in \[model\], it goes in \[training\]"),
        ("[training]\nxyzzy = 3", r"unknown key 'xyzzy'$"),
        ("[training\nepochs = 3", "is not valid TOML"),
        ("[[training]]\nepochs = 3", r"\[training\]"),
    ],
)
def test_toml_that_is_not_understood_is_refused(text: str, says: str) -> None:
    with pytest.raises(RecipeError, match=says) as caught:
        from_toml(text, "my.toml")
    assert str(caught.value).startswith("my.toml")


@pytest.mark.parametrize(
    ("line", "section"),
    [
        ("epochs = 3", "training"),
        ('optimizer = "adamw"', "optimizer"),
        ('strategy = "full"', "strategy"),
    ],
)
def test_a_key_outside_of_any_section_is_told_where_it_goes(line: str, section: str) -> None:
    with pytest.raises(RecipeError) as caught:
        from_toml(line)
    assert f"it goes in [{section}]" in str(caught.value)
    assert "did you mean" not in str(caught.value)


def test_an_unknown_keyword_names_the_nearest() -> None:
    with pytest.raises(RecipeError, match=r"unknown recipe key 'batchsize' .*'batch_size'"):
        recipe(batchsize=4)


def test_a_recipe_file_that_cannot_be_read_is_refused_by_name(tmp_path: Path) -> None:
    latin = tmp_path / "latin.toml"
    latin.write_bytes('[data]\ndata = "Grüße"'.encode("latin-1"))
    for path in (tmp_path / "missing.toml", latin):
        with pytest.raises(RecipeError, match=re.escape(f"recipe {path} cannot be read")):
            read(path)


def test_a_recipe_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text(to_toml(recipe(**SAMPLES)), encoding="utf-8")
    assert read(path) == recipe(**SAMPLES)


@pytest.mark.parametrize(
    ("text", "interval"),
    [
        ("1 epoch", Interval(1, "epochs")),
        ("5 epochs", Interval(5, "epochs")),
        ("100 steps", Interval(100, "steps")),
        ("1 step", Interval(1, "steps")),
        ("10 minutes", Interval(10, "minutes")),
        ("0.5 minutes", Interval(0.5, "minutes")),
        ("  2epochs ", Interval(2, "epochs")),
        ("1%", Interval(1, "percent")),
        (" 0.5 % ", Interval(0.5, "percent")),
    ],
)
def test_intervals_are_read(text: str, interval: Interval) -> None:
    assert parse_interval(text) == interval


@pytest.mark.parametrize(
    "text",
    [
        *("", "epoch", "5", "0 epochs", "-1 steps", "1.5 epochs", "0.5 steps", "5 hours"),
        *("2 epochs x", "0%", "101%", "%"),
    ],
)
def test_other_intervals_are_refused(text: str) -> None:
    with pytest.raises(RecipeError, match=re.escape(f"--save-every {text!r}")):
        parse_interval(text)
    assert f"--save-every {text!r}" in refusal(save_every=text)


def test_folds_are_read() -> None:
    assert [parse_fold(text) for text in ("1/2", " 10/10 ", "3 / 5")] == [(1, 2), (10, 10), (3, 5)]


@pytest.mark.parametrize("text", ["", "1", "0/5", "6/5", "1/1", "-1/5", "1/5/2", "1.5/5", "a/b"])
def test_other_folds_are_refused(text: str) -> None:
    assert f"--fold {text!r} is not understood" in refusal(fold=text)


def test_names_of_writers_are_read() -> None:
    assert parse_log("tensorboard") == ("tensorboard",)
    assert parse_log(" a.b:c.d ,tensorboard") == ("a.b:c.d", "tensorboard")


@pytest.mark.parametrize("text", ["", "wandb", "a:", ":b", "Tensorboard", "a:b,", "a:b,nope"])
def test_other_names_of_writers_are_refused(text: str) -> None:
    wrong = text.rpartition(",")[2]
    assert refusal(log=text).startswith(f"--log {wrong!r} is unknown")


def test_a_writer_that_is_named_twice_is_refused() -> None:
    assert "--log has a:b twice" in refusal(log="a:b, tensorboard, a:b")


def test_a_fraction_beside_folds_is_refused() -> None:
    said = refusal(fold="1/5", val_fraction=0.2)
    assert said.startswith("--val-fraction 0.2 has no effect with --fold 1/5")


def test_a_change_on_top_takes_along_what_only_worked_without_it() -> None:
    base = resolve(replace(Recipe(), strategy="discriminative", weights="a.pth"))
    assert (base.optimizer.momentum, base.strategy.trunk_lr_scale) == (0.9, 0.1)
    changed = resolve(overlay(base, optimizer="adamw", strategy="layerwise"))
    assert (changed.optimizer.momentum, changed.strategy.trunk_lr_scale) == (None, None)
    assert changed.strategy.layer_decay == 0.75
    cycled = resolve(overlay(base, schedule="one-cycle"))
    assert (cycled.schedule.gamma, cycled.optimizer.momentum) == (None, None)
    with pytest.raises(RecipeError, match=r"--momentum 0\.5 has no effect with --optimizer adamw"):
        resolve(overlay(base, optimizer="adamw", momentum=0.5))
    assert overlay(base, epochs=3) == replace(base, epochs=3)
