"""What the runs of a study come to: means, what they scatter by, and which differences count."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from luthier.intervals import mean95, wilson
from luthier.values import Outcome, Proportion

COLUMNS = (
    *("", "runs", "best, %", "95 % interval", "last, %", "images", "seconds", "images/s"),
    *("learns", "checkpoint"),
)


@dataclass(frozen=True)
class Standing:
    """What the runs of one name came to, accuracies in [0, 1].

    Attributes:
        name: theirs.
        runs: how many.
        seeds: how many.
        images: that were validated on with one seed.
        best: mean over the seeds of the best epoch's accuracy, folds taken together.
        spread: standard deviation over the seeds; None of one.
        interval: 95 %, of what so few images say of others of their kind (Wilson).
        last: as ``best``, of the last epoch.
        last_spread: as ``spread``.
        seconds: mean of a run.
        images_per_second: mean of a run.
        learning: parameters that learned.
        checkpoint: bytes of one.
    """

    name: str
    runs: int
    seeds: int
    images: int
    best: float
    spread: float | None
    interval: tuple[float, float]
    last: float
    last_spread: float | None
    seconds: float
    images_per_second: float | None
    learning: int | None
    checkpoint: int | None

    def as_dict(self) -> dict[str, Any]:
        """Return the standing as plain JSON values."""
        return {**vars(self), "interval": list(self.interval)}

    def row(self) -> list[str]:
        """Return the cells of a table with the header ``COLUMNS``."""
        low, high = self.interval
        return [
            self.name,
            f"{self.runs}",
            _mean(self.best, self.spread),
            f"{100 * low:.1f} to {100 * high:.1f}",
            _mean(self.last, self.last_spread),
            f"{self.images}",
            f"{self.seconds:.1f}",
            "" if self.images_per_second is None else f"{self.images_per_second:.1f}",
            "" if self.learning is None else f"{self.learning:,}",
            "" if self.checkpoint is None else f"{self.checkpoint / 1e6:.1f} MB",
        ]


@dataclass(frozen=True)
class Difference:
    """By how much one name's runs are better than another's, in accuracy.

    Attributes:
        better: the one with the higher mean.
        other: the other.
        mean: of the differences between runs that differ in nothing else.
        low: lower end of its 95 % interval.
        high: upper end.
        pairs: how many there are.
    """

    better: str
    other: str
    mean: float
    low: float
    high: float
    pairs: int

    def __str__(self) -> str:
        said = f"{self.better} is {100 * self.mean:.2f} points better than {self.other}"
        if not self.mean:
            said = f"{self.better} and {self.other} have the same mean"
        if self.pairs < 2:
            return f"{said}: one run of each cannot tell whether that is noise"
        ends = f"95 % interval {100 * self.low:.2f} to {100 * self.high:.2f}, {self.pairs} pairs"
        return f"{said} ({ends}): {'beyond' if self.beyond_noise else 'within'} noise"

    @property
    def beyond_noise(self) -> bool | None:
        """Whether it is more than the runs scatter by; None where one pair cannot tell."""
        return None if self.pairs < 2 else self.low > 0

    def as_dict(self) -> dict[str, Any]:
        """Return the difference as plain JSON values."""
        interval = [self.low, self.high] if self.pairs > 1 else None
        return {
            "better": self.better,
            "other": self.other,
            "mean": self.mean,
            "interval95": interval,
            "pairs": self.pairs,
            "beyond_noise": self.beyond_noise,
        }


def standings(outcomes: Sequence[Outcome]) -> list[Standing]:
    """Return what the runs of each name came to, the best mean first."""
    names = dict.fromkeys(outcome.name for outcome in outcomes)
    found = [_standing([o for o in outcomes if o.name == name]) for name in names]
    return sorted(found, key=lambda standing: -standing.best)


def _standing(outcomes: Sequence[Outcome]) -> Standing:
    best = _by_seed(outcomes, [outcome.best.accuracy for outcome in outcomes])
    last = _by_seed(outcomes, [outcome.last.accuracy for outcome in outcomes])
    mean = statistics.fmean(best.values())
    seeds = [outcome.seed for outcome in outcomes]
    # Runs may be missing: of a seed with all its folds there are the most images.
    totals = [sum(o.best.accuracy.total for o in outcomes if o.seed == seed) for seed in seeds]
    rates = [o.images_per_second for o in outcomes if o.images_per_second is not None]
    return Standing(
        name=outcomes[0].name,
        runs=len(outcomes),
        seeds=len(best),
        images=max(totals),
        best=mean,
        spread=statistics.stdev(best.values()) if len(best) > 1 else None,
        interval=wilson(mean, max(totals)),
        last=statistics.fmean(last.values()),
        last_spread=statistics.stdev(last.values()) if len(last) > 1 else None,
        seconds=statistics.fmean(outcome.seconds for outcome in outcomes),
        images_per_second=statistics.fmean(rates) if rates else None,
        learning=outcomes[0].learning,
        checkpoint=outcomes[0].checkpoint,
    )


def _mean(accuracy: float, spread: float | None) -> str:
    return f"{100 * accuracy:.2f}" + ("" if spread is None else f" ± {100 * spread:.2f}")


def _by_seed(outcomes: Sequence[Outcome], accuracies: Sequence[Proportion]) -> dict[int, float]:
    sums: dict[int, tuple[int, int]] = {}
    for outcome, found in zip(outcomes, accuracies, strict=True):
        right, total = sums.get(outcome.seed, (0, 0))
        sums[outcome.seed] = right + found.correct, total + found.total
    return {seed: Proportion(*both).value for seed, both in sums.items()}


def differences(outcomes: Sequence[Outcome]) -> list[Difference]:
    """Compare the name with the best mean with each other, pair by pair of seed and fold.

    Student's t over the pairs. Runs of different folds learn from much the same images, so that
    their differences vary less than those of new data would: the variance is corrected as Nadeau
    and Bengio (2003, Machine Learning 52:239) propose.
    """
    names = [standing.name for standing in standings(outcomes)]
    if len(names) < 2:
        return []
    best, *others = names
    found = {(o.name, o.seed, o.fold): o.best.accuracy.value for o in outcomes}
    made = []
    for other in others:
        pairs = [
            value - found[other, seed, fold]
            for (name, seed, fold), value in found.items()
            if name == best and (other, seed, fold) in found
        ]
        if pairs:
            shared = _shared(outcomes)
            made.append(Difference(best, other, *mean95(pairs, shared), len(pairs)))
    return made


def _shared(outcomes: Sequence[Outcome]) -> float:
    """Return images of validation over images of training, where they go round by folds."""
    folds = [outcome.fold for outcome in outcomes if outcome.fold is not None]
    if len(set(folds)) < 2:
        return 0.0
    return 1 / (int(folds[0].partition("/")[2]) - 1)
