"""Fill in what a recipe leaves open, and refuse what makes no sense. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from luthier.errors import RecipeError, nearest
from luthier.recipe.fields import ENTRIES, Entry, Recipe, replace, values

_AUGMENTS = ("augment", "color_jitter", "rand_augment", "erase")


def overlay(base: Recipe, **changes: Any) -> Recipe:
    """Put changes on top of a recipe.

    What the recipe says beside a choice that is changed, and what has no effect with the new
    one, goes: SGD's momentum when the change is to AdamW.

    Raises:
        RecipeError: see ``replace``.
    """
    after = values(base) | changes
    stale: dict[str, Any] = {
        entry.name: None
        for entry in ENTRIES.values()
        if any(other in changes for other, _ in _conditions(entry)) and not _applies(entry, after)
    }
    if changes.get("schedule") == "one-cycle":
        stale["momentum"] = None
    if {"strategy", "views"} & changes.keys() and _looks_once(after):
        stale |= dict.fromkeys(_AUGMENTS)
    if "strategy" in changes:
        stale |= dict.fromkeys(_stale_start(after))
    return replace(base, **(stale | changes))


def _stale_start(after: Mapping[str, Any]) -> tuple[str, ...]:
    """Return what a strategy does not start from."""
    if after["strategy"] == "scratch":
        return ("weights", "head", "decay_to")
    if after["strategy"] == "probe" and after["head"] == "by-name":
        return ("head",)
    if after["strategy"] in ("frozen", "zero-lr") and after["head"] != "by-name":
        return ("decay_to",)
    return ()


def resolve(recipe: Recipe) -> Recipe:
    """Fill in what is undecided and does not depend on the data or the machine.

    The result is complete, and resolving it again changes nothing.

    Raises:
        RecipeError: a value outside its range, or a combination without an effect or sense.
    """
    given = values(recipe)
    filled = dict(given)
    if filled["weights"] is None:
        filled["weights"] = "none" if filled["strategy"] == "scratch" else "imagenet"
    if filled["strategy"] is None:
        filled["strategy"] = "scratch" if filled["weights"] == "none" else "full"
    for entry in ENTRIES.values():
        if filled[entry.name] is None and _applies(entry, filled):
            filled[entry.name] = entry.knob.default
    _fill_dependent(given, filled)
    complete = replace(recipe, **filled)
    _check_values(complete)
    _check_effects(given, filled)
    _check_data(filled)
    _check_sense(filled)
    _check_shard(filled)
    _check_forwards(filled)
    _check_start(filled)
    return complete


def _conditions(entry: Entry) -> list[tuple[str, tuple[str, ...]]]:
    """Return the other fields that decide whether a field has an effect, each with values."""
    return [pair for pair in (entry.knob.only, entry.knob.unless) if pair is not None]


def _applies(entry: Entry, filled: Mapping[str, Any]) -> bool:
    only, unless = entry.knob.only, entry.knob.unless
    if only is not None and _value(only[0], filled) not in only[1]:
        return False
    return unless is None or _value(unless[0], filled) not in unless[1]


def _value(name: str, filled: Mapping[str, Any]) -> Any:
    return filled[name] if filled[name] is not None else ENTRIES[name].knob.default


def _looks_once(filled: Mapping[str, Any]) -> bool:
    """Tell whether each image is seen only as in validation, so that nothing is augmented."""
    return bool(filled["strategy"] == "probe" and _value("views", filled) == 1)


def _fill_dependent(given: Mapping[str, Any], filled: dict[str, Any]) -> None:
    if filled["resize"] is None:
        filled["resize"] = round(filled["image_size"] * 256 / 224)
    if filled["weight_decay"] is None and filled["strategy"] != "probe":
        filled["weight_decay"] = 0.01 if filled["optimizer"] == "adamw" else 0.0
    if filled["schedule"] == "one-cycle" and given["momentum"] is None:
        filled["momentum"] = None
    if _looks_once(filled) and given["augment"] is None:
        filled["augment"] = None
    if filled["strategy"] == "lp-ft" and filled["head_epochs"] is None:
        filled["head_epochs"] = max(1, filled["epochs"] // 5)
    if filled["strategy"] == "gradual" and filled["unfreeze_epochs"] is None:
        filled["unfreeze_epochs"] = max(1, filled["epochs"] // 2)


def _check_values(recipe: Recipe) -> None:
    for name, value in values(recipe).items():
        entry = ENTRIES[name]
        if value is None:
            continue
        if entry.knob.choices and value not in entry.knob.choices:
            known = ", ".join(entry.knob.choices)
            hint = nearest(str(value), entry.knob.choices)
            raise RecipeError(f"{entry.flag} {value!r} is unknown{hint}; known are: {known}")
        for number in value if isinstance(value, tuple) else (value,):
            if isinstance(number, int | float) and not isinstance(number, bool):
                _check_range(entry, number)
    if recipe.training.save_every is not None:
        parse_interval(recipe.training.save_every)
    if recipe.data.fold is not None:
        parse_fold(recipe.data.fold)
    if recipe.machine.log is not None:
        parse_log(recipe.machine.log)


def _check_range(entry: Entry, value: float) -> None:
    knob = entry.knob
    if knob.low is not None and (value < knob.low or (knob.open_low and value == knob.low)):
        word = "above" if knob.open_low else "at least"
        raise RecipeError(f"{entry.flag} {value} is too small: it must be {word} {knob.low:g}")
    if knob.high is not None and (value > knob.high or (knob.open_high and value == knob.high)):
        word = "below" if knob.open_high else "at most"
        raise RecipeError(f"{entry.flag} {value} is too large: it must be {word} {knob.high:g}")


def _check_effects(given: Mapping[str, Any], filled: Mapping[str, Any]) -> None:
    for name, value in given.items():
        entry = ENTRIES[name]
        if value is None or _applies(entry, filled):
            continue
        unless, only = entry.knob.unless, entry.knob.only
        if unless is not None and _value(unless[0], filled) in unless[1]:
            other = unless[0]
            raise RecipeError(
                f"{entry.title(value)} has no effect with {ENTRIES[other].flag} {filled[other]}"
            )
        assert only is not None  # noqa: S101 - nothing else keeps a field from applying
        other, allowed = only
        there = " or ".join(f"{ENTRIES[other].flag} {a}" for a in allowed)
        raise RecipeError(
            f"{entry.title(value)} has no effect with {ENTRIES[other].flag} {filled[other]}: it"
            f" works with {there}"
        )


def _check_data(filled: Mapping[str, Any]) -> None:
    if filled["fold"] is not None and filled["val_fraction"] is not None:
        raise RecipeError(
            f"--val-fraction {filled['val_fraction']:g} has no effect with --fold {filled['fold']},"
            " which says how many parts there are"
        )
    if filled["resize"] < filled["image_size"]:
        raise RecipeError(
            f"--resize {filled['resize']} is smaller than --image-size {filled['image_size']}: the"
            " square would reach beyond the image"
        )


def _check_sense(filled: Mapping[str, Any]) -> None:
    strategy, weights = filled["strategy"], filled["weights"]
    if weights == "none" and strategy != "scratch":
        why = {
            "frozen": "a random trunk that is frozen learns nothing",
            "zero-lr": "a random trunk at learning rate 0 learns nothing",
            "probe": "the features of a random trunk say little",
        }.get(strategy, "there is nothing to fine-tune in random weights")
        raise RecipeError(
            f"--strategy {strategy} with --weights none makes no sense: {why}",
            cure="give --weights FILE or imagenet, or take --strategy scratch",
        )
    if strategy == "scratch" and weights != "none":
        raise RecipeError(
            f"--weights {weights} has no effect with --strategy scratch, which starts at random",
            cure="leave --weights out, or take --strategy full",
        )
    if filled["schedule"] == "one-cycle" and filled["momentum"] is not None:
        raise RecipeError("--momentum has no effect with --schedule one-cycle, which cycles it")
    for name in ("head_epochs", "warmup_epochs"):
        if filled[name] is not None and filled[name] >= filled["epochs"]:
            flag, epochs = ENTRIES[name].flag, filled["epochs"]
            raise RecipeError(f"{flag} {filled[name]:g} leaves nothing of --epochs {epochs}")
    unfreeze, epochs = filled["unfreeze_epochs"], filled["epochs"]
    if unfreeze is not None and unfreeze > epochs:
        raise RecipeError(f"--unfreeze-epochs {unfreeze} is longer than --epochs {epochs}")
    several = re.findall(r"[^,\s]+", filled["device"])
    if len(several) > 1:
        raise RecipeError(
            f"--device {filled['device']}: one process trains on one device. On several, as by"
            " nn.DataParallel, it is slower than a process for each",
            cure=f"torchrun --nproc-per-node {len(several)} -m luthier finetune"
            f" {filled['data'] or 'DATA'} …, without --device",
        )
    if not re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?", filled["device"]):
        raise RecipeError(
            f"--device {filled['device']!r} is unknown; known are: auto, cpu, cuda, cuda:N, mps"
        )


def _check_shard(filled: Mapping[str, Any]) -> None:
    if not filled["shard"]:
        return
    if filled["virtual_shards"] is not None:
        raise RecipeError(
            "--shard makes no sense with --virtual-shards: each process would have to hold the"
            " gradients of the whole model",
            cure="leave one of the two out",
        )
    if filled["compile"]:
        raise RecipeError(
            "--shard does not work with --compile: modules are put together and let go of between"
            " what would be compiled",
            cure="leave one of the two out",
        )


def _check_forwards(filled: Mapping[str, Any]) -> None:
    strategy = filled["strategy"]
    for name in ("checkpoint_activations", "sync_batchnorm"):
        if filled[name] and filled["compile"]:
            raise RecipeError(
                f"{ENTRIES[name].flag} does not work with --compile, which would compile the model"
                " without it",
                cure="leave one of the two out",
            )
    if filled["checkpoint_activations"] and strategy == "frozen":
        raise RecipeError(
            "--checkpoint-activations has no effect with --strategy frozen: nothing of a frozen"
            " trunk is kept for a backward pass",
            cure="leave it out",
        )
    if filled["sync_batchnorm"] and strategy in ("frozen", "zero-lr"):
        raise RecipeError(
            f"--sync-batchnorm has no effect with --strategy {strategy}, whose trunk is normalised"
            " by the statistics that it came with",
            cure="leave it out",
        )
    if filled["sync_batchnorm"] and filled["virtual_shards"] is not None:
        raise RecipeError(
            "--sync-batchnorm makes no sense with --virtual-shards, whose pieces are computed each"
            " by itself",
            cure="leave one of the two out",
        )


def _check_probe(filled: Mapping[str, Any]) -> None:
    if filled["head"] == "by-name":
        raise RecipeError(
            "--head by-name has no effect with --strategy probe, which fits the whole head anew",
            cure="leave --head out, or take --strategy frozen",
        )
    given = [ENTRIES[n].title(filled[n]) for n in _AUGMENTS if filled[n] is not None]
    if _looks_once(filled) and given:
        raise RecipeError(
            f"{given[0]} has no effect with --strategy probe and --views 1, which sees each image"
            " as validation does",
            cure="give --views, such as --views 4, or leave it out",
        )
    extras = [filled[name] for name in _AUGMENTS if name != "augment"]
    if filled["views"] > 1 and filled["augment"] == "none" and not any(extras):
        raise RecipeError(
            f"--views {filled['views']} has no effect with --augment none: all views are the same",
            cure="leave one of the two out",
        )


def _check_start(filled: Mapping[str, Any]) -> None:
    strategy, by_name = filled["strategy"], filled["head"] == "by-name"
    if strategy == "probe":
        _check_probe(filled)
        return
    if by_name and filled["weights"] == "none":
        raise RecipeError(
            "--head by-name has no effect with --weights none: there is no head to take rows from",
            cure="give --weights FILE or imagenet, or leave --head out",
        )
    if filled["decay_to"] == "zero":
        return
    if not filled["weight_decay"]:
        raise RecipeError(
            "--decay-to start has no effect without --weight-decay above 0",
            cure="give --weight-decay, such as --weight-decay 0.01",
        )
    if strategy == "scratch":
        raise RecipeError(
            "--decay-to start makes no sense with --strategy scratch, whose start is random",
            cure="leave it out, or give --weights FILE or imagenet",
        )
    if strategy in ("frozen", "zero-lr") and not by_name:
        raise RecipeError(
            f"--decay-to start has no effect with --strategy {strategy} and --head replace: only"
            " the new head learns, and its start is random",
            cure="take --head by-name, or leave --decay-to out",
        )


def parse_fold(text: str) -> tuple[int, int]:
    """Read ``"2/5"`` as part 2, counted from 1, of 5.

    Raises:
        RecipeError: anything else.
    """
    found = re.fullmatch(r"\s*(\d{1,4})\s*/\s*(\d{1,4})\s*", text)
    if found is None or not 1 <= int(found[1]) <= int(found[2]) or int(found[2]) < 2:
        raise RecipeError(
            f"--fold {text!r} is not understood: give K/N, the Kth of N parts, such as 1/5"
        )
    return int(found[1]), int(found[2])


def parse_log(text: str) -> tuple[str, ...]:
    """Read ``"tensorboard, package.module:callable"`` as names of writers.

    Raises:
        RecipeError: anything else, and a name that is there twice.
    """
    names = tuple(name.strip() for name in text.split(","))
    for name in names:
        module, colon, attribute = name.partition(":")
        if name != "tensorboard" and not (module and colon and attribute):
            raise RecipeError(
                f"--log {name!r} is unknown{nearest(name, ['tensorboard'])}",
                cure="give tensorboard, package.module:callable, or several with commas",
            )
        if names.count(name) > 1:
            raise RecipeError(f"--log has {name} twice", cure="name each writer once")
    return names


@dataclass(frozen=True)
class Interval:
    """``count`` of a unit: "epochs", "steps", "minutes", or "percent" of the run's time."""

    count: float
    unit: str


def parse_interval(text: str) -> Interval:
    """Read ``"5 epochs"``, ``"100 steps"``, ``"10 minutes"`` or ``"1%"``.

    Raises:
        RecipeError: anything else, and a count that is not positive.
    """
    budget = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*%\s*", text)
    if budget is not None and 0 < float(budget[1]) <= 100:
        return Interval(float(budget[1]), "percent")
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(epoch|step|minute)s?\s*", text)
    if found is None or float(found[1]) <= 0:
        raise RecipeError(
            f"--save-every {text!r} is not understood: give 'N epochs', 'N steps', 'N minutes', or"
            " 'N%' of the run's time"
        )
    count, unit = float(found[1]), found[2] + "s"
    if unit != "minutes" and count != int(count):
        raise RecipeError(f"--save-every {text!r}: a number of {unit} is a whole number")
    return Interval(count, unit)
