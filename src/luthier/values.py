"""Plain frozen values that pass between the rooms of the house. No torch here."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from luthier.intervals import wilson


@dataclass(frozen=True)
class Choice:
    """Something that was chosen automatically, and why.

    ``str(choice)`` is what a first line of output shows: ``"fp32 (asked for)"``.
    """

    value: str
    reason: str

    def __str__(self) -> str:
        return f"{self.value} ({self.reason})"


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """Shape and dtype of a tensor, without its content."""

    shape: tuple[int, ...]
    dtype: str

    def __str__(self) -> str:
        return f"{self.dtype}[{', '.join(map(str, self.shape))}]"


@dataclass(frozen=True)
class Proportion:
    """``correct`` of ``total``; prints with its 95 % interval."""

    correct: int
    total: int

    @property
    def value(self) -> float:
        """The proportion as a number in [0, 1]; NaN of nothing."""
        return self.correct / self.total if self.total else math.nan

    def interval(self) -> tuple[float, float]:
        """Return the 95 % Wilson score interval as two numbers in [0, 1]."""
        return wilson(self.value, self.total)

    def as_dict(self) -> dict[str, Any]:
        """Return it as plain JSON values, interval included."""
        return {
            "correct": self.correct,
            "images": self.total,
            "accuracy": self.value,
            "interval95": list(self.interval()),
        }

    def __str__(self) -> str:
        low, high = self.interval()
        return (
            f"{100 * self.value:.2f} % ({self.correct} of {self.total} images,"
            f" 95 % interval {100 * low:.1f} to {100 * high:.1f} %)"
        )


@dataclass(frozen=True)
class Preprocessing:
    """What happens to an image before the model sees it.

    Attributes:
        resize: length of the shorter edge after resizing, in pixels.
        image_size: edge of the square that is cropped from the centre, in pixels.
        interpolation: "bilinear" or "bicubic", with antialiasing.
        mean: subtracted from each RGB channel, whose values lie in [0, 1].
        std: each channel is divided by it.
    """

    resize: int
    image_size: int
    interpolation: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def as_dict(self) -> dict[str, Any]:
        """Return the fields as plain JSON values."""
        return asdict(self) | {"mean": list(self.mean), "std": list(self.std)}


@dataclass(frozen=True)
class Block:
    """A part of a model, in order from the input (first) to the head (last).

    Attributes:
        name: dotted name of the module that the block is, such as ``"layer4"``.
        modules: dotted names of the modules that belong to it.
        tensors: names of its parameters and buffers, as in ``state_dict``.
        parameters: names of its parameters.
    """

    name: str
    modules: tuple[str, ...]
    tensors: tuple[str, ...]
    parameters: tuple[str, ...]


@dataclass(frozen=True)
class Position:
    """Where a run stands.

    Attributes:
        epoch: epochs that are finished, validation included.
        batch: batches of the current epoch that are finished.
        step: optimizer steps taken since the start of the run.
    """

    epoch: int = 0
    batch: int = 0
    step: int = 0

    def __str__(self) -> str:
        return f"step {self.step} (epoch {self.epoch + 1}, batch {self.batch})"


@dataclass(frozen=True)
class Step:
    """What one batch of training gave.

    Attributes:
        epoch: counted from 0.
        batch: batches of this epoch done, this one included.
        step: optimizer steps done since the start of the run, this one included.
        loss: mean criterion over the images of the batch.
        correct: images whose largest output was their label.
        images: images in the batch.
        lr: learning rate of the head's group at this batch.
        stepped: whether the optimizer moved; False while gradients accumulate.
    """

    epoch: int
    batch: int
    step: int
    loss: float
    correct: int
    images: int
    lr: float
    stepped: bool


@dataclass(frozen=True)
class Tally:
    """Sums over images; adding a step gives a new tally."""

    loss_sum: float = 0.0
    correct: int = 0
    images: int = 0

    def add(self, loss: float, correct: int, images: int) -> Tally:
        """Return the tally with a batch of mean ``loss`` over ``images`` added."""
        return Tally(self.loss_sum + loss * images, self.correct + correct, self.images + images)

    @property
    def loss(self) -> float:
        """Mean loss an image; NaN of nothing."""
        return self.loss_sum / self.images if self.images else math.nan

    @property
    def accuracy(self) -> Proportion:
        """Share of images classified right."""
        return Proportion(self.correct, self.images)


@dataclass(frozen=True)
class Score:
    """A validation result and the epoch it belongs to: counted from 1, and 0 before any step."""

    epoch: int
    loss: float
    accuracy: Proportion

    def better_than(self, other: Score | None) -> bool:
        """Tell whether more images are right, or as many at a lower loss."""
        if other is None:
            return True
        mine, theirs = self.accuracy.correct, other.accuracy.correct
        return mine > theirs or (mine == theirs and self.loss < other.loss)

    def as_dict(self) -> dict[str, Any]:
        """Return the score as plain JSON values, interval included."""
        return {"epoch": self.epoch, "loss": self.loss, **self.accuracy.as_dict()}

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> Score:
        """Return the score that ``as_dict`` described."""
        accuracy = Proportion(int(value["correct"]), int(value["images"]))
        return cls(int(value["epoch"]), float(value["loss"]), accuracy)


@dataclass(frozen=True)
class Prediction:
    """What a model says of an image.

    Attributes:
        image: its path as it was given; None of an image in memory.
        classes: all names, the likeliest first.
        probabilities: of each, in that order.
    """

    image: str | None
    classes: tuple[str, ...]
    probabilities: tuple[float, ...]

    @property
    def ranked(self) -> tuple[tuple[str, float], ...]:
        """Pairs of a class and its probability, the likeliest first."""
        return tuple(zip(self.classes, self.probabilities, strict=True))


@dataclass(frozen=True)
class Unreadable:
    """An image that could not be read.

    Attributes:
        image: its path as it was given.
        reason: why.
    """

    image: str
    reason: str


@dataclass(frozen=True)
class Outcome:
    """What one run came to.

    Attributes:
        name: of what it is an example of.
        seed: of everything random.
        fold: ``"K/N"``, or None.
        best: the validation of the model that it hands over.
        last: that of the last epoch.
        seconds: of training and validation.
        images_per_second: in training; None where it took no steps.
        learning: parameters that learned.
        checkpoint: bytes of one.
    """

    name: str
    seed: int
    fold: str | None
    best: Score
    last: Score
    seconds: float
    images_per_second: float | None = None
    learning: int | None = None
    checkpoint: int | None = None


@dataclass(frozen=True)
class Mistake:
    """An image whose largest score was another class's than its own.

    Attributes:
        image: its path, as the data names it.
        label: its class.
        said: the class with the largest score.
        probability: of that class, in [0, 1].
    """

    image: str
    label: str
    said: str
    probability: float


@dataclass(frozen=True)
class ClassScores:
    """How one class fared.

    Attributes:
        name: of the class.
        images: of the class.
        precision: part of what was taken for it that is of it; NaN where nothing was.
        recall: part of what is of it that was taken for it; NaN where nothing is.
        f1: harmonic mean of the two: 2 TP / (2 TP + FP + FN); NaN where all three are 0.
    """

    name: str
    images: int
    precision: float
    recall: float
    f1: float


@dataclass(frozen=True)
class Evaluation:
    """How good a model is on labelled images.

    Attributes:
        classes: names in index order.
        accuracy: images whose largest score is their class's, of all.
        loss: mean cross-entropy an image.
        balanced_accuracy: mean recall of the classes that have images.
        top_k: images whose class is among the k largest scores, by k; those below all classes.
        per_class: in index order.
        confusion: ``[label][said]``, numbers of images.
        calibration_error: expected calibration error, 15 bins of equal width (Guo et al. 2017).
        roc_auc: area under the ROC curve, of two classes that both have images; else None.
        mistakes: all of them, the most certain first.
    """

    classes: tuple[str, ...]
    accuracy: Proportion
    loss: float
    balanced_accuracy: float
    top_k: Mapping[int, Proportion]
    per_class: tuple[ClassScores, ...]
    confusion: tuple[tuple[int, ...], ...]
    calibration_error: float
    roc_auc: float | None
    mistakes: tuple[Mistake, ...]

    @property
    def confused(self) -> tuple[tuple[str, str, int], ...]:
        """(class, class it was taken for, images), the most frequent first."""
        pairs = [
            (label, said, self.confusion[i][j])
            for i, label in enumerate(self.classes)
            for j, said in enumerate(self.classes)
            if i != j and self.confusion[i][j]
        ]
        return tuple(sorted(pairs, key=lambda pair: -pair[2]))

    def as_dict(self) -> dict[str, Any]:
        """Return plain JSON values; what is not defined is None."""
        per_class = [{k: _defined(v) for k, v in asdict(one).items()} for one in self.per_class]
        return {
            "classes": list(self.classes),
            **self.accuracy.as_dict(),
            "loss": self.loss,
            "balanced_accuracy": _defined(self.balanced_accuracy),
            "top_k": {str(k): found.as_dict() for k, found in self.top_k.items()},
            "per_class": per_class,
            "confusion": [list(row) for row in self.confusion],
            "calibration_error": self.calibration_error,
            "roc_auc": self.roc_auc,
            "mistakes": [asdict(mistake) for mistake in self.mistakes],
        }


def _defined(value: Any) -> Any:
    return None if isinstance(value, float) and math.isnan(value) else value


@dataclass(frozen=True)
class Calibration:
    """A temperature that scores are divided by, and what it did where it was fitted.

    Attributes:
        temperature: above 1 makes a model less certain, below 1 more.
        loss: mean cross-entropy without it and with it.
        calibration_error: expected calibration error without it and with it.
    """

    temperature: float
    loss: tuple[float, float]
    calibration_error: tuple[float, float]


@dataclass(frozen=True)
class McNemar:
    """Two models on the same images.

    Attributes:
        both: images that both have right.
        first: images that only the first has right.
        second: images that only the second has right.
        neither: images that none has right.
        p_value: of McNemar's exact test: how likely so uneven a share of ``first + second``, or a
            more uneven one, would be if both models were equally good.
    """

    both: int
    first: int
    second: int
    neither: int
    p_value: float
