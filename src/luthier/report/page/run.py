"""The page of one run."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

from luthier.report.page import curves, document, evaluated
from luthier.report.page.document import Section
from luthier.report.page.html import Html, facts, join, name, path, table, tag
from luthier.report.page.values import RunFacts, RunPage
from luthier.report.page.wording import NONE, count, duration, interval, percent, said, score, size
from luthier.report.times import verdict
from luthier.values import Score

_AUGMENTATION = ("augment", "color_jitter", "rand_augment", "erase")


def render_run(page: RunPage) -> str:
    """Return the HTML of a run's page: one file that needs no other."""
    run = page.facts
    sections = [
        Section("notes", "Notes", _notes(page)),
        Section("curves", "Curves", curves.curves(run)),
        *evaluated.sections(page.evaluation, page.mistakes),
        Section("inputs", "What the model saw", _augmented(page)),
        Section("time", "Where the time went", _time(page.time)),
        Section("weights", "Weights", _weights(page)),
        Section("recipe", "Recipe", _recipe(run.recipe)),
        Section("environment", "Environment", tag("div", _plain(page.environment), class_="half")),
    ]
    title = f"{run.model} on {run.data}, {run.strategy}"
    return document.document(title, _head(page), sections)


def _head(page: RunPage) -> Html:
    run = page.facts
    pairs = [
        ("weights", name(run.weights)),
        ("images", _images(page.images)),
        ("time", duration(run.seconds)),
        ("speed", f"{run.speed:.0f} images/s" if run.speed is not None else NONE),
        ("parameters", _parameters(run)),
        ("a checkpoint", size(run.checkpoint) if run.checkpoint is not None else NONE),
    ]
    return join(
        tag("p", "luthier · run ", name(run.name), class_="kicker"),
        tag("h1", name(run.model), tag("span", " on ", name(run.data), ", ", run.strategy)),
        tag("div", _hero(run), tag("div", facts(pairs), class_="facts"), class_="head"),
    )


def _hero(run: RunFacts) -> Html:
    accuracy = run.best.accuracy
    whole, rest = f"{100 * accuracy.value:.2f}".split(".")
    before = [_line("start", run.before)] if run.before is not None else []
    return tag(
        "div",
        tag("p", whole, tag("span", f".{rest} %"), class_="score"),
        tag(
            "p",
            tag("b", "best validation accuracy"),
            tag("span", f"{accuracy.correct} of {accuracy.total} images, ", class_="soft"),
            tag("span", f"epoch {run.best.epoch} of {run.epochs}", class_="soft"),
            class_="of",
        ),
        _whisker(*accuracy.interval(), accuracy.value),
        tag("p", f"95 % interval {interval(accuracy)}", class_="small"),
        tag("ul", *before, _line("last", run.last), class_="small plain"),
        tag(
            "p",
            "The best epoch was chosen on the images that it is scored on: the last is the soberer"
            " figure.",
            class_="small",
        ),
        class_="hero",
    )


def _line(word: str, what: Score) -> Html:
    return tag("li", tag("b", word), f" {score(what)}, {interval(what.accuracy)}")


def _whisker(low: float, high: float, value: float) -> Html:
    """Return an interval on the line from 0 to 100 %."""
    return tag(
        "svg",
        tag("line", x1="0", x2="100%", y1=9.0, y2=9.0, class_="rail"),
        tag("rect", x=_across(low), width=_across(high - low), y=5.0, height=8.0, class_="span"),
        tag("circle", cx=_across(value), cy=9.0, r=5.0),
        class_="whisker",
        role="img",
        aria_label=f"{percent(low)} to {percent(high)} on a line from 0 to 100 %",
    )


def _across(share: float) -> str:
    return f"{100 * share:.2f}%"


def _images(images: Mapping[str, Mapping[str, int]]) -> str:
    sums = {side: sum(of.values()) for side, of in images.items()}
    words = {"train": "training", "val": "validation"}
    return ", ".join(f"{count(sums[s])} {word}" for s, word in words.items() if s in sums)


def _parameters(run: RunFacts) -> str:
    if run.parameters is None or run.learning is None:
        return NONE
    if run.learning == run.parameters:
        return f"{count(run.parameters)}, all learn"
    return f"{count(run.learning)} of {count(run.parameters)} learn"


def _notes(page: RunPage) -> Html | None:
    notes = [
        tag("li", note, class_="warning" if note.startswith("warning") else None)
        for note in (*page.notes, *page.absent)
    ]
    return tag("ul", *notes, class_="notes") if notes else None


def _augmented(page: RunPage) -> Html | None:
    if not page.augmented:
        return None
    recipe = {k: v for section in page.facts.recipe.values() for k, v in section.items()}
    how = {knob.replace("_", " "): recipe.get(knob) for knob in _AUGMENTATION}
    drawn = ", ".join(f"{knob} {value}" for knob, value in how.items() if value)
    blended = [knob for knob in ("mixup", "cutmix") if recipe.get(knob)]
    told = f"The first images of the first epoch, as they were drawn: {drawn or 'as they are'}."
    if blended:
        told += f" They were blended with others after that ({' and '.join(blended)})."
    shown = [
        evaluated.photo(one, tag("b", name(one.label)), path(one.image)) for one in page.augmented
    ]
    return join(tag("p", told, class_="small"), tag("div", *shown, class_="photos few"))


def _time(time: Mapping[str, float]) -> Html | None:
    total = sum(time.values())
    if not total:
        return None
    parts = sorted(time.items(), key=lambda part: -part[1])
    bars, begin = [], 0.0
    for order, (kind, seconds) in enumerate(parts):
        width = seconds / total
        bars.append(
            tag(
                "rect",
                tag("title", f"{kind} {percent(width)}"),
                x=_across(begin),
                width=_across(width),
                y="0",
                height="100%",
                class_=f"s{order % 8}",
            )
        )
        begin += width
    rows = [
        [join(_swatch(order), kind), duration(seconds), percent(seconds / total)]
        for order, (kind, seconds) in enumerate(parts)
    ]
    return join(
        tag("p", f"The last session took {duration(total)}. {verdict(time).capitalize()}."),
        tag("svg", *bars, class_="stack", aria_hidden="true"),
        table(["kind of work", "time", "share"], rows, caption="Time by kind of work"),
    )


def _swatch(order: int) -> Html:
    return tag(
        "svg",
        tag("rect", width="10", height="10", rx="2", class_=f"s{order % 8}"),
        viewBox="0 0 10 10",
        class_="dot",
        aria_hidden="true",
    )


def _weights(page: RunPage) -> Html:
    loaded = tag("pre", page.loaded) if page.loaded else tag("p", "Nothing was loaded.")
    rows = [[name(label), name(of) if of else "new", how] for label, of, how in page.rows]
    head = table(["class", "begins as", "found"], rows, caption="Rows of the head", left=3)
    return tag(
        "div",
        tag(
            "div", tag("h3", "Loaded from ", name(page.facts.weights)), loaded, head if rows else ""
        ),
        tag(
            "div",
            tag("h3", "Freeze audit"),
            tag("p", "Every tensor was compared with its start, bit by bit.", class_="small"),
            _audit(page.audit),
        ),
        class_="two",
    )


def _audit(audit: Sequence[tuple[str, int, int]]) -> Html:
    """Return what moved, neighbours of which the same is true in one row."""
    rows = []
    for state, group in itertools.groupby(audit, key=lambda block: _moved(*block[1:])):
        blocks = list(group)
        ends = [blocks[0][0], blocks[-1][0]]
        names = join(name(ends[0]), " … ", name(ends[1])) if len(blocks) > 1 else name(ends[0])
        counts = sum(moved for _, moved, _ in blocks), sum(total for *_, total in blocks)
        rows.append([names, state, str(len(blocks)), f"{counts[0]} of {counts[1]}"])
    header = ["blocks", "", "number", "tensors moved"]
    return table(header, rows, caption="Freeze audit", left=2)


def _moved(moved: int, total: int) -> str:
    if not moved:
        return "did not move"
    return "moved" if moved == total else "moved in part"


def _recipe(recipe: Mapping[str, Mapping[str, object]]) -> Html:
    cards = [tag("div", tag("h3", section), _plain(values)) for section, values in recipe.items()]
    return tag("div", *cards, class_="cards")


def _plain(values: Mapping[str, object]) -> Html:
    """Return a list of plain values."""
    return facts([(key, path(said(value))) for key, value in values.items()])
