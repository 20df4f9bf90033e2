"""Line charts as SVG. What the pointer finds there is in attributes, for ``page.js``."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from luthier.report.page.html import Html, name, number, tag

Point = tuple[float, float]

_WIDTH, _HEIGHT = 400.0, 250.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 48.0, 10.0, 10.0, 40.0
_MOST = 400  # points of a line; more cannot be told apart


@dataclass(frozen=True)
class Series:
    """A line.

    Attributes:
        label: what it is.
        points: (x, y), by x; those that are not finite are left out.
        colour: number of its colour.
        faint: a background to the others: thin, and not told of at the pointer.
        band: (x, low, high), shaded.
        mark: a point to mark.
    """

    label: str
    points: Sequence[Point]
    colour: int = 0
    faint: bool = False
    band: Sequence[tuple[float, float, float]] = ()
    mark: Point | None = None


@dataclass(frozen=True)
class Axis:
    """The scale of an axis.

    Attributes:
        label: what it counts.
        low: its first value.
        high: its last.
        ticks: values that are written at it.
        say: how.
    """

    label: str
    low: float
    high: float
    ticks: tuple[float, ...]
    say: Callable[[float], str]

    def part(self, value: float) -> float:
        """Return how far along the axis a value is, in [0, 1]."""
        return (value - self.low) / (self.high - self.low)


def nice_step(span: float, most: int) -> float:
    """Return the least 1, 2 or 5 times a power of ten of which ``most`` are the span or more."""
    least = span / most
    power = 10.0 ** math.floor(math.log10(least))
    return next(power * factor for factor in (1, 2, 5, 10) if power * factor >= least * (1 - 1e-9))


def axis(
    label: str,
    values: Iterable[float],
    say: Callable[[float], str],
    *,
    low: float | None = None,
    high: float | None = None,
    whole: bool = False,
) -> Axis:
    """Return an axis that shows values, from a round number to a round number.

    Args:
        label: what it counts.
        values: finite.
        say: how a number is written.
        low: begin here.
        high: end here.
        whole: ticks at whole numbers alone, and no room at the ends.
    """
    shown = list(values)
    least = min(shown) if low is None else low
    most = max(shown) if high is None else high
    if most <= least:
        least, most = least - (low is None) * abs(least or 1.0) / 2, most + abs(most or 1.0) / 2
    step = nice_step(most - least, 5)
    if whole:
        step = max(1.0, step)
        first, last = math.ceil(least / step), math.floor(most / step)
        begin, end = least, most
    else:
        first, last = math.floor(least / step + 1e-9), math.ceil(most / step - 1e-9)
        begin, end = first * step, last * step
    ticks = tuple(tick * step for tick in range(first, last + 1))
    return Axis(label, begin if low is None else low, end if high is None else high, ticks, say)


def line_chart(
    title: str,
    series: Sequence[Series],
    x: Axis,
    y: Axis,
    say: Callable[[float], str],
    *,
    toggles: bool = False,
) -> Html:
    """Return a chart with its legend.

    Args:
        title: stands above.
        series: the last are drawn on top.
        x: the axis below.
        y: the axis to the left.
        say: how a value is told at the pointer.
        toggles: the legend's entries show and hide their lines.
    """
    lines = [_line(number, one, x, y, say) for number, one in enumerate(series)]
    drawing = tag(
        "svg",
        _grid(x, y),
        *lines,
        tag("line", class_="cursor", y1=_TOP, y2=_HEIGHT - _BOTTOM, visibility="hidden"),
        viewBox=f"0 0 {number(_WIDTH)} {number(_HEIGHT)}",
        tabindex="0",
        role="img",
        aria_label=f"{title}: {_told(series, say)}. Left and right arrow keys tell each value.",
        data_x=x.label,
    )
    legend = tag("ul", *itertools.starmap(_entry(toggles), enumerate(series)), class_="legend")
    tip = tag("div", class_="tip", hidden=True)
    live = tag("p", role="status", class_="unseen")
    return tag(
        "figure",
        tag("figcaption", tag("h3", title), legend if len(series) > 1 else ""),
        tag("div", drawing, tip, class_="plot"),
        live,
        class_="chart",
    )


def _told(series: Sequence[Series], say: Callable[[float], str]) -> str:
    known = [(one.label, finite(one.points)) for one in series if not one.faint]
    return "; ".join(
        f"{label} from {say(points[0][1])} to {say(points[-1][1])}"
        for label, points in known
        if points
    )


def _grid(x: Axis, y: Axis) -> Html:
    inside = []
    for tick in y.ticks:
        at = _down(y, tick)
        inside += [
            tag("line", x1=_LEFT, x2=_WIDTH - _RIGHT, y1=at, y2=at),
            tag("text", y.say(tick), x=_LEFT - 8, y=at, dy="0.32em", text_anchor="end"),
        ]
    for tick in x.ticks:
        inside.append(
            tag(
                "text",
                x.say(tick),
                x=_along(x, tick),
                y=_HEIGHT - _BOTTOM + 17,
                text_anchor="middle",
            )
        )
    middle = (_LEFT + _WIDTH - _RIGHT) / 2
    label = tag("text", x.label, x=middle, y=_HEIGHT - 5, text_anchor="middle", class_="label")
    return tag("g", *inside, label, class_="grid", aria_hidden="true")


def _line(order: int, one: Series, x: Axis, y: Axis, say: Callable[[float], str]) -> Html:
    points = thinned(finite(one.points), _MOST)
    spots = [(_along(x, a), _down(y, b)) for a, b in points]
    inside: list[Html] = []
    if len(one.band) > 1:
        over = [(_along(x, a), _down(y, high)) for a, _, high in one.band]
        under = [(_along(x, a), _down(y, low)) for a, low, _ in reversed(one.band)]
        inside.append(tag("path", d=_path(over + under) + "Z", class_="band"))
    inside.append(tag("path", d=_path(spots), class_="line"))
    if not one.faint and len(spots) <= 60:
        inside += [tag("circle", cx=a, cy=b, r=2.5) for a, b in spots]
    if one.mark is not None:
        a, b = _along(x, one.mark[0]), _down(y, one.mark[1])
        inside.append(tag("circle", cx=a, cy=b, r=6.0, class_="mark"))
    told = {}
    if not one.faint:
        told = {
            "data_name": one.label,
            "data_at": " ".join(f"{number(a)},{number(b)}" for a, b in spots),
            "data_says": "|".join(f"{x.say(a)}|{say(b)}" for a, b in points),
        }
    kind = "faint " if one.faint else ""
    return tag(
        "g", *inside, class_=f"{kind}series s{one.colour % 8}", data_series=str(order), **told
    )


def _entry(toggles: bool) -> Callable[[int, Series], Html]:
    def entry(order: int, one: Series) -> Html:
        sample = tag(
            "svg",
            tag("line", x1=0.0, x2=18.0, y1=5.0, y2=5.0, class_="line"),
            viewBox="0 0 18 10",
            class_=f"swatch series s{one.colour % 8}{' faint' if one.faint else ''}",
            aria_hidden="true",
        )
        if not toggles:
            return tag("li", sample, name(one.label))
        return tag(
            "li",
            tag(
                "button",
                sample,
                name(one.label),
                type="button",
                aria_pressed="true",
                data_toggle=str(order),
            ),
        )

    return entry


def _along(x: Axis, value: float) -> float:
    return _LEFT + x.part(value) * (_WIDTH - _LEFT - _RIGHT)


def _down(y: Axis, value: float) -> float:
    part = min(1.0, max(0.0, y.part(value)))
    return _HEIGHT - _BOTTOM - part * (_HEIGHT - _TOP - _BOTTOM)


def _path(spots: Sequence[Point]) -> str:
    return "M" + "L".join(f"{number(a)} {number(b)}" for a, b in spots) if spots else ""


def finite(points: Iterable[Point]) -> list[Point]:
    """Return the points that can be drawn."""
    return [(a, b) for a, b in points if math.isfinite(a) and math.isfinite(b)]


def thinned(points: Sequence[Point], most: int) -> list[Point]:
    """Return at most so many points: the means of as many equal groups of neighbours."""
    if len(points) <= most:
        return list(points)
    made = []
    for group in range(most):
        of = points[group * len(points) // most : (group + 1) * len(points) // most]
        made.append((math.fsum(a for a, _ in of) / len(of), math.fsum(b for _, b in of) / len(of)))
    return made
