"""What a page shows: plain values, gathered elsewhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from luthier.values import Evaluation, Outcome, Score

Records = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class RunFacts:
    """What a run was, in numbers that can stand beside another's; None: not known.

    Attributes:
        name: of the run.
        model: by name.
        strategy: likewise.
        weights: what they were at the start.
        data: name of the data set.
        best: validation of the best epoch.
        last: of the last one.
        before: of the start, where it was scored.
        epochs: finished ones.
        seconds: of training and validation.
        speed: images that it learned from a second.
        learning: parameters that learn.
        parameters: all of them.
        checkpoint: bytes of the newest checkpoint.
        recipe: values by name, by section; those that are set.
        records: lines of ``metrics.jsonl``.
    """

    name: str
    model: str
    strategy: str
    weights: str
    data: str
    best: Score
    last: Score
    before: Score | None
    epochs: int
    seconds: float
    speed: float | None
    learning: int | None
    parameters: int | None
    checkpoint: int | None
    recipe: Mapping[str, Mapping[str, Any]]
    records: Sequence[Mapping[str, Any]] = field(repr=False)


@dataclass(frozen=True)
class Example:
    """A photo on the page.

    Attributes:
        image: its path, as the data names it.
        label: its class.
        jpeg: what is shown; None where the photo is no longer there.
        said: the class that the model said.
        probability: of that, in [0, 1].
    """

    image: str
    label: str
    jpeg: bytes | None
    said: str = ""
    probability: float = 0.0


@dataclass(frozen=True)
class RunPage:
    """All that the page of one run shows.

    Attributes:
        facts: the run in numbers.
        images: numbers of images by class, for "train" and "val".
        evaluation: of the best epoch; None where its scores are not there.
        mistakes: the most certain first, as many as are shown.
        augmented: training images as the model saw them.
        time: seconds of the last session by kind of work.
        loaded: how the weights fitted.
        rows: for each class of a head by name, the class of the weights whose row it began with
            ("" of none), and how that was found.
        audit: tensors that moved and tensors in all, by block.
        environment: what its bits depend on.
        notes: what a reader should know of the data.
        absent: what cannot be shown, and why.
    """

    facts: RunFacts
    images: Mapping[str, Mapping[str, int]]
    evaluation: Evaluation | None
    mistakes: tuple[Example, ...]
    augmented: tuple[Example, ...]
    time: Mapping[str, float]
    loaded: str
    rows: tuple[tuple[str, str, str], ...]
    audit: tuple[tuple[str, int, int], ...]
    environment: Mapping[str, Any]
    notes: tuple[str, ...]
    absent: tuple[str, ...]


@dataclass(frozen=True)
class Difference:
    """Whether two runs are shown to differ in accuracy.

    Attributes:
        better: name of the one with more images right.
        other: name of the other.
        gain: by how much, of all images.
        alone: images that only the better one has right, and only the other; None where what each
            said of each image is not known.
        p: of McNemar's test after Holm's correction; None likewise.
        shown: the difference is more than noise.
    """

    better: str
    other: str
    gain: float
    alone: tuple[int, int] | None
    p: float | None
    shown: bool


@dataclass(frozen=True)
class ComparisonPage:
    """All that the page of several runs shows; the best first."""

    runs: tuple[RunFacts, ...]
    differences: tuple[Difference, ...]


@dataclass(frozen=True)
class Member:
    """A run among several of one question.

    Attributes:
        outcome: what it came to.
        records: lines of ``metrics.jsonl``.
        href: its own page, from this one; "" of none.
    """

    outcome: Outcome
    records: Records = field(repr=False)
    href: str = ""


@dataclass(frozen=True)
class StudyPage:
    """All that the page of runs by name, seed and fold shows.

    Attributes:
        data: name of the data set.
        header: of the table of means.
        standings: its rows, the best first: texts.
        differences: what is said of them, a sentence each.
        members: the runs.
    """

    data: str
    header: tuple[str, ...]
    standings: tuple[tuple[str, ...], ...]
    differences: tuple[str, ...]
    members: tuple[Member, ...]
