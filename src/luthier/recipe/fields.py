"""The fields of a recipe: what they are called, what they mean, what they may be."""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from typing import Any, TypeVar

from luthier.errors import RecipeError, nearest

T = TypeVar("T")

STRATEGIES = (
    "scratch",
    "full",
    "frozen",
    "zero-lr",
    "discriminative",
    "layerwise",
    "lp-ft",
    "gradual",
    "probe",
)
_NO_PROBE = ("strategy", ("probe",))  # which trains nothing step by step


@dataclass(frozen=True)
class Knob:
    """What is known of a field beyond its type.

    Attributes:
        help: one line for ``--help``.
        default: the value that ``resolve`` fills in where the field applies.
        choices: the allowed values, where they can be listed.
        only: ``(other field, its values)`` outside of which this one has no effect.
        unless: ``(other field, its values)`` with which this one has no effect.
        low: the least allowed value; ``open_low`` leaves that value itself out.
        high: the greatest allowed value; ``open_high`` leaves that value itself out.
    """

    help: str
    default: Any = None
    choices: tuple[str, ...] = ()
    only: tuple[str, tuple[str, ...]] | None = None
    unless: tuple[str, tuple[str, ...]] | None = None
    low: float | None = None
    high: float | None = None
    open_low: bool = False
    open_high: bool = False


def _knob(help_text: str, **facts: Any) -> Any:
    return field(default=None, metadata={"knob": Knob(help_text, **facts)})


@dataclass(frozen=True)
class Data:
    """What is learned from, and what an image looks like to the model."""

    data: str | None = _knob("folder of class folders, folder with train/ and val/, or CSV/TSV")
    val_fraction: float | None = _knob(
        "part of each class kept for validation where DATA has no split of its own [0.2]",
        low=0.0,
        high=1.0,
        open_low=True,
        open_high=True,
    )
    fold: str | None = _knob(
        "K/N: validate on the Kth of N parts of all images, and learn from the others; a split of"
        " DATA's own is not looked at [off]"
    )
    strict_images: bool | None = _knob("an unreadable image is an error", default=False)
    image_size: int | None = _knob("edge of the square the model sees, pixels", default=224, low=1)
    resize: int | None = _knob("shorter edge in validation, pixels [256/224 of the above]", low=1)
    augment: str | None = _knob(
        "random resized crop and flip, the crop alone, or neither",
        default="crop-flip",
        choices=("crop-flip", "crop", "none"),
    )
    color_jitter: float | None = _knob(
        "strength of random brightness, contrast and saturation, such as 0.4 [off]",
        low=0.0,
        open_low=True,
    )
    rand_augment: int | None = _knob(
        "magnitude of RandAugment's two operations, of 30, such as 9 [off]", low=1, high=30
    )
    erase: float | None = _knob(
        "probability of erasing a random rectangle, such as 0.25 [off]",
        low=0.0,
        high=1.0,
        open_low=True,
    )
    interpolation: str | None = _knob(
        "how pixels are resampled [the weights' own]", choices=("bilinear", "bicubic")
    )
    mean: tuple[float, float, float] | None = _knob("RGB mean [the weights' own]")
    std: tuple[float, float, float] | None = _knob(
        "RGB standard deviation [the weights' own]", low=0.0, open_low=True
    )


@dataclass(frozen=True)
class Model:
    """What learns, and what it starts from."""

    model: str | None = _knob(
        "torchvision name, timm/NAME, or package.module:callable", default="resnet18"
    )
    weights: str | None = _knob(
        "a file, imagenet, a torchvision weights name such as IMAGENET1K_V1, or none [imagenet]"
    )
    head: str | None = _knob(
        "a new head, or rows of the weights' own head for classes of the same name",
        default="replace",
        choices=("replace", "by-name"),
    )
    head_module: str | None = _knob(
        "dotted name of the classifier, where it is not found by itself"
    )


@dataclass(frozen=True)
class Strategy:
    """Which parameters learn, when, and how fast beside the head."""

    strategy: str | None = _knob("which parts learn, and how fast [full]", choices=STRATEGIES)
    trunk_lr_scale: float | None = _knob(
        "trunk's learning rate as a part of the head's",
        default=0.1,
        only=("strategy", ("discriminative",)),
        low=0.0,
        open_low=True,
    )
    layer_decay: float | None = _knob(
        "learning rate of a block as a part of that of the block above",
        default=0.75,
        only=("strategy", ("layerwise",)),
        low=0.0,
        high=1.0,
        open_low=True,
    )
    head_epochs: int | None = _knob(
        "epochs in which the head learns alone [a fifth]", only=("strategy", ("lp-ft",)), low=1
    )
    unfreeze_epochs: int | None = _knob(
        "epochs until the last block is unfrozen [half]", only=("strategy", ("gradual",)), low=1
    )
    views: int | None = _knob(
        "looks at each training image: 1 as in validation, more with augmentation",
        default=1,
        only=("strategy", ("probe",)),
        low=1,
    )


@dataclass(frozen=True)
class Optimizer:
    """How a gradient becomes a step."""

    optimizer: str | None = _knob(
        "SGD or AdamW", default="sgd", choices=("sgd", "adamw"), unless=_NO_PROBE
    )
    lr: float | None = _knob(
        "learning rate of the head", default=0.001, low=0.0, open_low=True, unless=_NO_PROBE
    )
    momentum: float | None = _knob(
        "momentum of SGD",
        default=0.9,
        only=("optimizer", ("sgd",)),
        low=0.0,
        high=1.0,
        open_high=True,
        unless=_NO_PROBE,
    )
    weight_decay: float | None = _knob(
        "weight decay; norms and biases are left out [sgd 0, adamw 0.01]", low=0.0, unless=_NO_PROBE
    )
    decay_to: str | None = _knob(
        "what weight decay pulls to: zero, or where the weights started (L2-SP)",
        default="zero",
        choices=("zero", "start"),
        unless=_NO_PROBE,
    )
    clip_norm: float | None = _knob(
        "largest norm of the gradient [no limit]", low=0.0, open_low=True, unless=_NO_PROBE
    )
    accumulate: int | None = _knob(
        "batches whose gradients make one step", default=1, low=1, unless=_NO_PROBE
    )


@dataclass(frozen=True)
class Schedule:
    """How the learning rate goes on with the run."""

    schedule: str | None = _knob(
        "how the learning rate falls",
        default="step",
        choices=("step", "cosine", "one-cycle", "constant"),
        unless=_NO_PROBE,
    )
    step_size: int | None = _knob(
        "epochs between two falls", default=7, only=("schedule", ("step",)), low=1, unless=_NO_PROBE
    )
    gamma: float | None = _knob(
        "factor of each fall",
        default=0.1,
        only=("schedule", ("step",)),
        low=0.0,
        open_low=True,
        unless=_NO_PROBE,
    )
    warmup_epochs: float | None = _knob(
        "epochs in which the learning rate rises from zero",
        default=0.0,
        only=("schedule", ("step", "cosine", "constant")),
        low=0.0,
        unless=_NO_PROBE,
    )


@dataclass(frozen=True)
class Regularisation:
    """What keeps the model from learning the training images by heart."""

    label_smoothing: float | None = _knob(
        "share of the target spread over all classes",
        default=0.0,
        low=0.0,
        high=1.0,
        open_high=True,
        unless=_NO_PROBE,
    )
    class_weights: str | None = _knob(
        "weigh the loss against unequal class sizes", default="none", choices=("none", "balanced")
    )
    mixup: float | None = _knob("alpha of mixup [off]", low=0.0, open_low=True, unless=_NO_PROBE)
    cutmix: float | None = _knob("alpha of CutMix [off]", low=0.0, open_low=True, unless=_NO_PROBE)
    ema: float | None = _knob(
        "decay of the average of the weights that is validated and kept [off]",
        low=0.0,
        high=1.0,
        open_low=True,
        open_high=True,
        unless=_NO_PROBE,
    )


@dataclass(frozen=True)
class Training:
    """How long, how much at a time, and what is kept."""

    epochs: int | None = _knob(
        "passes over the training images", default=25, low=1, unless=_NO_PROBE
    )
    batch_size: int | None = _knob("images in a batch", default=16, low=1)
    seed: int | None = _knob("seed of everything random", default=0, low=0)
    patience: int | None = _knob(
        "epochs without improvement before stopping [no stop]", low=1, unless=_NO_PROBE
    )
    save_every: str | None = _knob(
        "'N epochs', 'N steps', 'N minutes', or 'N%' of the run's time",
        default="1 epoch",
        unless=_NO_PROBE,
    )
    keep: int | None = _knob(
        "newest checkpoints that are kept, beside the best", default=2, low=1, unless=_NO_PROBE
    )
    disk_patience: float | None = _knob(
        "minutes to go on trying where the disk is full", default=10.0, low=0.0
    )


@dataclass(frozen=True)
class Machine:
    """What it runs on.

    Device, precision, compile, virtual_shards, shard and sync_batchnorm can change a result.
    """

    device: str | None = _knob("auto, cpu, cuda, cuda:N or mps", default="auto")
    precision: str | None = _knob(
        "arithmetic of the model", default="auto", choices=("auto", "fp32", "bf16")
    )
    compile: bool | None = _knob(
        "compile the model with torch.compile", default=False, unless=_NO_PROBE
    )
    virtual_shards: int | None = _knob(
        "pieces of a batch: the same bits for any number of processes that divides them, slower",
        low=1,
        unless=_NO_PROBE,
    )
    shard: bool | None = _knob(
        "cut a model that a device cannot hold among the processes (FSDP2)",
        default=False,
        unless=_NO_PROBE,
    )
    checkpoint_activations: bool | None = _knob(
        "compute a block again in the backward pass instead of keeping what it computed",
        default=False,
        unless=_NO_PROBE,
    )
    sync_batchnorm: bool | None = _knob(
        "batch normalisation by the statistics of a whole batch, over all processes",
        default=False,
        unless=_NO_PROBE,
    )
    workers: int | None = _knob("threads that read images [chosen]", low=0)
    pin_memory: bool | None = _knob("copy to a GPU from page-locked memory [chosen]")
    cache_memory: float | None = _knob(
        "GiB of memory for decoded photos [half of what is free]", low=0.0
    )
    cache_disk: float | None = _knob(
        "GiB of disk for decoded photos that memory cannot hold [a tenth of what is free]", low=0.0
    )
    log: str | None = _knob(
        "where metrics go besides metrics.jsonl: tensorboard, package.module:callable, with commas"
    )


@dataclass(frozen=True)
class Recipe:
    """Everything that decides a run, in the order of ``recipe.toml``."""

    data: Data = Data()
    model: Model = Model()
    strategy: Strategy = Strategy()
    optimizer: Optimizer = Optimizer()
    schedule: Schedule = Schedule()
    regularisation: Regularisation = Regularisation()
    training: Training = Training()
    machine: Machine = Machine()


@dataclass(frozen=True)
class Entry:
    """One field of the recipe: where it stands, its plain type and its knob."""

    section: str
    name: str
    type: type
    knob: Knob

    @property
    def flag(self) -> str:
        """The field as a flag of the command line."""
        return "--" + self.name.replace("_", "-")

    def title(self, value: Any) -> str:
        """The field with a value, as a user would have written it."""
        return f"{self.flag} {value}" if not isinstance(value, bool) else self.flag


def sections() -> Iterator[tuple[str, type]]:
    """Yield the name and class of each section, in order."""
    hints = typing.get_type_hints(Recipe)
    for section in fields(Recipe):
        yield section.name, hints[section.name]


def _entries() -> Iterator[Entry]:
    for section, kind in sections():
        hints = typing.get_type_hints(kind)
        for item in fields(kind):
            plain = next(t for t in typing.get_args(hints[item.name]) if t is not types.NoneType)
            yield Entry(
                section, item.name, typing.get_origin(plain) or plain, item.metadata["knob"]
            )


ENTRIES: dict[str, Entry] = {entry.name: entry for entry in _entries()}


def values(recipe: Recipe) -> dict[str, Any]:
    """Return every field by name; ``None`` where it is undecided."""
    return {e.name: getattr(getattr(recipe, e.section), e.name) for e in ENTRIES.values()}


def given(recipe: Recipe) -> dict[str, Any]:
    """Return the fields that have a value, by name."""
    return {name: value for name, value in values(recipe).items() if value is not None}


def decided(value: T | None) -> T:
    """Return a field of a resolved recipe, which is never undecided.

    Raises:
        ValueError: it is; the recipe was not resolved, or the field does not apply.
    """
    if value is None:
        raise ValueError("an undecided field of the recipe was read: resolve the recipe first")
    return value


def replace(recipe: Recipe, **changes: Any) -> Recipe:
    """Return the recipe with some fields changed.

    Raises:
        RecipeError: an unknown field, or a value of the wrong type.
    """
    sections: dict[str, dict[str, Any]] = {}
    for name, value in changes.items():
        entry = _entry(name)
        sections.setdefault(entry.section, {})[name] = (
            None if value is None else _cast(entry, value)
        )
    made = {s: dataclasses.replace(getattr(recipe, s), **kv) for s, kv in sections.items()}
    return dataclasses.replace(recipe, **made)


def _entry(name: str) -> Entry:
    if name not in ENTRIES:
        raise RecipeError(f"unknown recipe key {name!r}{nearest(name, ENTRIES)}")
    return ENTRIES[name]


def _cast(entry: Entry, value: Any) -> Any:
    if entry.type is float and type(value) in (int, float) and math.isfinite(value):
        return float(value)
    if entry.type is tuple and isinstance(value, list | tuple):
        if len(value) == 3 and all(type(v) in (int, float) and math.isfinite(v) for v in value):
            return tuple(float(v) for v in value)
    elif type(value) is entry.type and entry.type is not float:
        return value
    kinds = {int: "a whole number", float: "a finite number", bool: "true or false", str: "a text"}
    wanted = kinds.get(entry.type, "three finite numbers")
    raise RecipeError(f"{entry.name} takes {wanted}, found {value!r}")
