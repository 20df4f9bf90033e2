"""The page of several runs of one question."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence

from luthier.report.page import curves, document
from luthier.report.page.curves import Course
from luthier.report.page.document import Section
from luthier.report.page.html import Html, join, name, table, tag
from luthier.report.page.values import Member, Records, StudyPage
from luthier.report.page.wording import NONE, duration, percent
from luthier.values import Outcome

_MEANING = (
    "Means over the seeds, folds of a seed taken together; ± is the standard deviation over the"
    " seeds, or of one seed over its folds. The interval says what so few images tell of others of"
    " their kind. The best epoch is chosen on the images that it is scored on; the last is the"
    " soberer figure."
)


def render_study(page: StudyPage) -> str:
    """Return the HTML of a page of several runs by name, seed and fold."""
    title = f"{len(page.members)} runs on {page.data}"
    head = join(
        tag("p", "luthier · comparison", class_="kicker"),
        tag("h1", f"{len(page.members)} runs", tag("span", " on ", name(page.data))),
        tag("p", "Best mean: ", name(page.standings[0][0]), f" with {page.standings[0][2]} %."),
    )
    names = dict.fromkeys(member.outcome.name for member in page.members)
    courses = [_course(n, [m.records for m in page.members if m.outcome.name == n]) for n in names]
    sections = [
        Section("standings", "Means", _standings(page)),
        Section("differences", "Differences", _differences(page.differences)),
        Section("curves", "Mean validation curves", curves.compared(courses)),
        Section("runs", "Runs", _runs(page.members)),
    ]
    return document.document(title, head, sections)


def _standings(page: StudyPage) -> Html:
    rows = [[name(first), *cells] for first, *cells in page.standings]
    header = ["", *page.header[1:]]
    return join(
        tag("p", _MEANING, class_="small"), table(header, rows, caption="Means, the best first")
    )


def _differences(said: Sequence[str]) -> Html | None:
    return tag("ul", *(tag("li", line) for line in said)) if said else None


def _runs(members: Sequence[Member]) -> Html:
    rows = [_row(member.outcome, member.href) for member in members]
    header = ["run", "seed", "fold", "best", "last", "time"]
    return table(header, rows, caption="Each run", left=1)


def _row(run: Outcome, href: str) -> list[str]:
    best = tag("b", percent(run.best.accuracy.value, 2))
    return [
        tag("a", name(run.name), href=href) if href else name(run.name),
        str(run.seed),
        run.fold or NONE,
        join(best, tag("small", f"epoch {run.best.epoch}")),
        percent(run.last.accuracy.value, 2),
        duration(run.seconds),
    ]


def _course(name: str, runs: Sequence[Records]) -> Course:
    """Return the mean course of some runs, for as many epochs as all have."""
    found = [[record for record in records if record["kind"] == "val"] for records in runs]
    rows = [_mean(of_epoch) for of_epoch in zip(*found, strict=False)]
    best = max(rows, key=lambda row: row["accuracy"], default=None)
    mark = (best["epoch"], best["accuracy"]) if best else None
    return Course(name, rows, mark)


def _mean(of_epoch: Sequence[Mapping[str, float]]) -> dict[str, float]:
    return {
        what: statistics.fmean(float(record[what]) for record in of_epoch)
        for what in ("epoch", "accuracy", "loss")
    }
