"""What the runs of a study come to: means, what they scatter by, and which differences count."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from luthier.intervals import mean95, wilson
from luthier.values import Outcome, Proportion

Answers = Mapping[tuple[str, str], bool]  # by name and content of the image

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
        spread: standard deviation over the seeds, or of one seed over its folds; None of one run.
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
        over_runs: 95 % interval: what the runs scatter by.
        pairs: how many there are.
        over_images: 95 % interval: what other images of their kind may give; None where it is not
            known what each run said of each image.
        images: how many there are.
    """

    better: str
    other: str
    mean: float
    over_runs: tuple[float, float]
    pairs: int
    over_images: tuple[float, float] | None = None
    images: int = 0

    def __str__(self) -> str:
        said = f"{self.better} is {100 * self.mean:.2f} points better than {self.other}"
        if not self.mean:
            said = f"{self.better} and {self.other} have the same mean"
        ends = []
        if self.pairs > 1:
            ends.append(f"{_span(self.over_runs)} over {self.pairs} pairs of runs")
        if self.over_images is not None:
            ends.append(f"{_span(self.over_images)} over {self.images} images")
        told = f" (95 % interval {', '.join(ends)})" if ends else ""
        return f"{said}{told}: {self._verdict}"

    @property
    def _verdict(self) -> str:
        if self.beyond_noise:
            return "beyond noise"
        if self.pairs > 1 and self.over_runs[0] > 0:
            return "beyond the runs' noise, within that of so few images"
        if self.pairs < 2 and self.over_images is None:
            return "one run of each cannot tell whether that is noise"
        return "within noise"

    @property
    def beyond_noise(self) -> bool:
        """Whether it is shown, by all that is known, to be no chance."""
        known = [self.over_runs] if self.pairs > 1 else []
        known += [self.over_images] if self.over_images is not None else []
        return bool(known) and all(low > 0 for low, _ in known)

    def as_dict(self) -> dict[str, Any]:
        """Return the difference as plain JSON values."""
        return {
            "better": self.better,
            "other": self.other,
            "mean": self.mean,
            "over_runs95": list(self.over_runs) if self.pairs > 1 else None,
            "pairs": self.pairs,
            "over_images95": None if self.over_images is None else list(self.over_images),
            "images": self.images,
            "beyond_noise": self.beyond_noise,
        }


def standings(outcomes: Sequence[Outcome]) -> list[Standing]:
    """Return what the runs of each name came to, the best mean first."""
    names = dict.fromkeys(outcome.name for outcome in outcomes)
    found = [_standing([o for o in outcomes if o.name == name]) for name in names]
    return sorted(found, key=lambda standing: -standing.best)


def _standing(outcomes: Sequence[Outcome]) -> Standing:
    bests = [outcome.best.accuracy for outcome in outcomes]
    lasts = [outcome.last.accuracy for outcome in outcomes]
    best, last = _by_seed(outcomes, bests), _by_seed(outcomes, lasts)
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
        spread=_spread(best, bests),
        interval=wilson(mean, max(totals)),
        last=statistics.fmean(last.values()),
        last_spread=_spread(last, lasts),
        seconds=statistics.fmean(outcome.seconds for outcome in outcomes),
        images_per_second=statistics.fmean(rates) if rates else None,
        learning=outcomes[0].learning,
        checkpoint=outcomes[0].checkpoint,
    )


def _span(ends: tuple[float, float]) -> str:
    return f"{100 * ends[0]:.2f} to {100 * ends[1]:.2f}"


def _mean(accuracy: float, spread: float | None) -> str:
    return f"{100 * accuracy:.2f}" + ("" if spread is None else f" ± {100 * spread:.2f}")


def _by_seed(outcomes: Sequence[Outcome], accuracies: Sequence[Proportion]) -> dict[int, float]:
    sums: dict[int, tuple[int, int]] = {}
    for outcome, found in zip(outcomes, accuracies, strict=True):
        right, total = sums.get(outcome.seed, (0, 0))
        sums[outcome.seed] = right + found.correct, total + found.total
    return {seed: Proportion(*both).value for seed, both in sums.items()}


def _spread(seeds: Mapping[int, float], accuracies: Sequence[Proportion]) -> float | None:
    values = list(seeds.values()) if len(seeds) > 1 else [found.value for found in accuracies]
    return statistics.stdev(values) if len(values) > 1 else None


def differences(outcomes: Sequence[Outcome], right: Sequence[Answers] = ()) -> list[Difference]:
    """Compare the name with the best mean with each other, pair by pair of seed and fold.

    Student's t over the pairs, and over the images, each with the mean of its runs. Runs of
    different folds learn from much the same images, so that their differences vary less than those
    of new data would: the variance is corrected as Nadeau and Bengio (2003, Machine Learning
    52:239) propose.

    Args:
        outcomes: of the runs.
        right: for each of them whether the best model has each image right; empty of none.
    """
    names = [standing.name for standing in standings(outcomes)]
    if len(names) < 2:
        return []
    best, *others = names
    found = {(o.name, o.seed, o.fold): o.best.accuracy.value for o in outcomes}
    answers = dict(zip(((o.name, o.seed, o.fold) for o in outcomes), right, strict=False))
    made = []
    for other in others:
        pairs = [
            ((best, seed, fold), (other, seed, fold))
            for name, seed, fold in found
            if name == best and (other, seed, fold) in found
        ]
        if not pairs:
            continue
        mean, *over_runs = mean95([found[a] - found[b] for a, b in pairs], _shared(outcomes))
        images = _by_image([(answers.get(a, {}), answers.get(b, {})) for a, b in pairs])
        over_images = mean95(images)[1:] if len(images) > 1 else None
        low, high = over_runs
        made.append(
            Difference(best, other, mean, (low, high), len(pairs), over_images, len(images))
        )
    return made


def _by_image(pairs: Sequence[tuple[Answers, Answers]]) -> list[float]:
    """Return for each image in how many more of its runs the first has it right, as a part."""
    of_image: dict[tuple[str, str], list[int]] = {}
    for first, second in pairs:
        for image in first.keys() & second.keys():
            of_image.setdefault(image, []).append(first[image] - second[image])
    return [statistics.fmean(differences) for differences in of_image.values()]


def _shared(outcomes: Sequence[Outcome]) -> float:
    """Return images of validation over images of training, where they go round by folds."""
    folds = [outcome.fold for outcome in outcomes if outcome.fold is not None]
    if len(set(folds)) < 2:
        return 0.0
    return 1 / (int(folds[0].partition("/")[2]) - 1)
