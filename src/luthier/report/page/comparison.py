"""The page of several runs."""

from __future__ import annotations

from collections.abc import Sequence

from luthier.report.page import curves, document
from luthier.report.page.document import Section
from luthier.report.page.html import Html, join, name, path, table, tag
from luthier.report.page.values import ComparisonPage, Difference, RunFacts
from luthier.report.page.wording import NONE, count, duration, interval, percent, said, size


def render_comparison(page: ComparisonPage) -> str:
    """Return the HTML of a page that compares runs: one file that needs no other."""
    data = sorted({run.data for run in page.runs})
    title = f"{len(page.runs)} runs on {', '.join(data)}"
    shown = sum(difference.shown for difference in page.differences)
    best = page.runs[0]
    told = (
        f"{shown} of {len(page.differences)} differences in accuracy "
        f"{'is' if shown == 1 else 'are'} more than noise."
    )
    head = join(
        tag("p", "luthier · comparison", class_="kicker"),
        tag("h1", f"{len(page.runs)} runs", tag("span", " on ", *map(name, data))),
        tag(
            "p", "Best: ", name(best.name), f" with {percent(best.best.accuracy.value, 2)}. {told}"
        ),
    )
    courses = [curves.course_of(run) for run in page.runs]
    sections = [
        Section("runs", "Runs", _runs(page.runs)),
        Section("curves", "Validation curves", curves.compared(courses)),
        Section("differences", "Differences", _differences(page.differences)),
        Section("recipes", "Recipes", _recipes(page.runs)),
    ]
    return document.document(title, head, sections)


def _runs(runs: Sequence[RunFacts]) -> Html:
    header = [
        "run",
        "model",
        "strategy",
        "best",
        "95 % interval",
        "last",
        "time",
        "images/s",
        "parameters that learn",
        "checkpoint",
    ]
    rows = [
        [
            name(run.name),
            name(run.model),
            run.strategy,
            join(
                tag("b", percent(run.best.accuracy.value, 2)),
                tag("small", f"epoch {run.best.epoch}"),
            ),
            interval(run.best.accuracy),
            join(percent(run.last.accuracy.value, 2), tag("small", f"epoch {run.last.epoch}")),
            duration(run.seconds),
            f"{run.speed:.0f}" if run.speed is not None else NONE,
            count(run.learning) if run.learning is not None else NONE,
            size(run.checkpoint) if run.checkpoint is not None else NONE,
        ]
        for run in runs
    ]
    return table(header, rows, caption="Runs, the best first", left=3)


def _recipes(runs: Sequence[RunFacts]) -> Html:
    flat = [{k: v for of in run.recipe.values() for k, v in of.items()} for run in runs]
    keys = dict.fromkeys(key for recipe in flat for key in recipe)
    rows = [
        [key, *(path(said(recipe.get(key))) for recipe in flat)]
        for key in keys
        if len({said(recipe.get(key)) for recipe in flat}) > 1
    ]
    if not rows:
        return tag("p", "All runs have the same recipe.")
    return join(
        tag("p", "Where they differ; in all else they are the same.", class_="small"),
        table(
            ["", *(name(run.name) for run in runs)],
            rows,
            caption="Recipes where they differ",
            left=len(runs) + 1,
        ),
    )


def _differences(differences: Sequence[Difference]) -> Html:
    rows = [
        [
            name(one.better),
            name(one.other),
            tag("span", "more than noise", class_="yes") if one.shown else "within noise",
            f"{100 * one.gain:.2f} points",
            f"{one.alone[0]} against {one.alone[1]}" if one.alone is not None else NONE,
            _p(one.p),
        ]
        for one in sorted(differences, key=lambda one: (not one.shown, -one.gain))
    ]
    header = ["better", "other", "the difference is", "by", "images right alone", "p"]
    return join(
        tag(
            "p",
            "Best epochs are compared. Where both runs kept what they said of the same images:"
            " McNemar's exact test on the images that only one of the two has right, at 5 %, with"
            " Holm's correction for the number of comparisons. Elsewhere (no p): whether the 95 %"
            " intervals overlap, which asks for more.",
            class_="small",
        ),
        table(header, rows, caption="Differences between runs", left=3),
    )


def _p(p: float | None) -> str:
    if p is None:
        return NONE
    return f"{p:.3f}" if p >= 0.001 else "under 0.001"
