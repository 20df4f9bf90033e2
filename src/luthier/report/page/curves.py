"""The curves of runs, from the lines of their metrics."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from luthier.report.page.chart import Axis, Series, axis, finite, line_chart, thinned
from luthier.report.page.html import Html, tag
from luthier.report.page.values import Records, RunFacts
from luthier.report.page.wording import loss, percent, short
from luthier.values import Proportion

_TRAIN, _VAL = 0, 1  # colours
_BATCHES = 200  # points of the curve of the batches' loss


def curves(run: RunFacts) -> Html | None:
    """Return the charts of loss, accuracy and learning rate; None of what has no course."""
    records = run.records
    steps, train, val = (_of(records, kind) for kind in ("step", "train", "val"))
    if len(steps) < 2:
        return None
    epochs = _epochs(0.0, max(1.0, _x(steps, "epoch")[-1]))
    return tag(
        "div",
        _losses(steps, train, val, epochs),
        _accuracies(run, train, val, epochs),
        _rates(steps, epochs),
        class_="charts",
    )


def _losses(steps: Records, train: Records, val: Records, epochs: Axis) -> Html:
    per = _batches(steps, train)
    course = [(r["iteration"] / per, r["loss"]) for r in steps]
    series = [
        Series("training, each batch", thinned(finite(course), _BATCHES), _TRAIN, faint=True),
        Series("training", _points(train, "loss"), _TRAIN),
        Series("validation", _points(val, "loss"), _VAL),
    ]
    return line_chart("Loss (cross-entropy)", series, epochs, _rising(series, short), loss)


def _accuracies(run: RunFacts, train: Records, val: Records, epochs: Axis) -> Html:
    best = (float(run.best.epoch), run.best.accuracy.value)
    intervals = [(r["epoch"], *Proportion(r["correct"], r["images"]).interval()) for r in val]
    series = [
        Series("training", _points(train, "accuracy"), _TRAIN),
        Series("validation", _points(val, "accuracy"), _VAL, band=intervals, mark=best),
    ]
    lowest = [y for one in series for _, y in finite(one.points)] + [low for _, low, _ in intervals]
    scale = axis("accuracy", lowest, lambda v: percent(v, 0), high=1.0)
    title = "Accuracy, with its 95\N{NO-BREAK SPACE}% interval"
    return line_chart(title, series, epochs, scale, lambda v: percent(v, 2))


def _rates(steps: Records, epochs: Axis) -> Html:
    per = steps[-1]["iteration"] / max(1, steps[-1]["epoch"])
    course = finite([(r["iteration"] / per, r["lr"]) for r in steps])
    series = [Series("learning rate of the head", _corners(course), 2)]
    return line_chart("Learning rate", series, epochs, _rising(series, short), short)


def _corners(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return the points at which a value changes, and the two ends."""
    kept = [
        point
        for before, point, after in zip(points, points[1:], points[2:], strict=False)
        if not before[1] == point[1] == after[1]
    ]
    return thinned([points[0], *kept, points[-1]], _BATCHES)


@dataclass(frozen=True)
class Course:
    """How the validation of a run went, or of several on average.

    Attributes:
        name: its name.
        val: ``epoch``, ``accuracy`` and ``loss`` of each.
        mark: epoch and accuracy that are marked, if any.
    """

    name: str
    val: Records
    mark: tuple[float, float] | None


def course_of(run: RunFacts) -> Course:
    """Return a run's course, with its best epoch marked."""
    mark = float(run.best.epoch), run.best.accuracy.value
    return Course(run.name, _of(run.records, "val"), mark)


def compared(courses: Sequence[Course]) -> Html | None:
    """Return the charts of several courses on common axes; None if none has two epochs."""
    at = [epoch for course in courses for epoch in _x(course.val, "epoch")]
    if max(len(course.val) for course in courses) < 2:
        return None
    epochs = _epochs(min(at), max(at))
    accuracies = [
        Series(course.name, _points(course.val, "accuracy"), n, mark=course.mark)
        for n, course in enumerate(courses)
    ]
    losses = [Series(c.name, _points(c.val, "loss"), n) for n, c in enumerate(courses)]
    share = axis("accuracy", _values(accuracies), lambda v: percent(v, 0), high=1.0)
    return tag(
        "div",
        line_chart(
            "Validation accuracy", accuracies, epochs, share, lambda v: percent(v, 2), toggles=True
        ),
        line_chart("Validation loss", losses, epochs, _rising(losses, short), loss, toggles=True),
        class_="charts wide",
    )


def _of(records: Records, kind: str) -> Records:
    return [record for record in records if record["kind"] == kind]


def _x(records: Records, what: str) -> list[float]:
    return [float(record[what]) for record in records]


def _points(records: Records, what: str) -> list[tuple[float, float]]:
    return list(zip(_x(records, "epoch"), _x(records, what), strict=True))


def _batches(steps: Records, train: Records) -> float:
    """Return how many batches an epoch has."""
    whole = train or steps[-1:]
    return float(whole[-1]["iteration"] / max(1, whole[-1]["epoch"]))


def _epochs(first: float, last: float) -> Axis:
    return axis("epoch", (first, last), short, whole=True)


def _values(series: Sequence[Series]) -> list[float]:
    return [y for one in series for _, y in finite(one.points)] or [1.0]


def _rising(series: Sequence[Series], say: Callable[[float], str]) -> Axis:
    return axis("", _values(series), say, low=0.0)
