"""The page of one run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from luthier.report.page import curves, document, evaluated
from luthier.report.page.document import Section
from luthier.report.page.html import Html, facts, join, name, path, table, tag
from luthier.report.page.values import RunFacts, RunPage
from luthier.report.page.wording import NONE, count, duration, interval, percent, score, size
from luthier.report.times import verdict
from luthier.values import Score

_AUGMENTATION = ("augment", "color_jitter", "rand_augment", "erase")


def render_run(page: RunPage) -> str:
    """Return the HTML of a run's page: one file that needs no other."""
    sections = [
        Section("notes", "Notes", _notes(page)),
        Section("curves", "Curves", curves.curves(page.facts)),
        *evaluated.sections(page.evaluation, page.mistakes),
        Section("inputs", "What the model saw", _augmented(page)),
        Section("time", "Where the time went", _time(page.time)),
        Section("weights", "Weights", _weights(page)),
        Section("recipe", "Recipe", _recipe(page.recipe)),
        Section("environment", "Environment", _plain(page.environment)),
    ]
    run = page.facts
    title = f"{run.model} on {run.data}, {run.strategy}"
    return document.document(title, _head(page), sections)


def _head(page: RunPage) -> Html:
    run = page.facts
    pairs = [
        ("model", name(run.model)),
        ("strategy", run.strategy),
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
            f"best validation accuracy, epoch {run.best.epoch} of {run.epochs}:"
            f" {accuracy.correct} of {accuracy.total} images",
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
    low_high = interval(what.accuracy)
    return tag("li", tag("b", word), f" {score(what)}, 95 % interval {low_high}")


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
    recipe = {k: v for section in page.recipe.values() for k, v in section.items()}
    how = {knob.replace("_", " "): recipe.get(knob) for knob in _AUGMENTATION}
    drawn = ", ".join(f"{knob} {value}" for knob, value in how.items() if value)
    blended = [knob for knob in ("mixup", "cutmix") if recipe.get(knob)]
    said = f"The first images of the first epoch, as they were drawn: {drawn or 'as they are'}."
    if blended:
        said += f" They were blended with others after that ({' and '.join(blended)})."
    shown = [
        evaluated.photo(one, tag("b", name(one.label)), path(one.image)) for one in page.augmented
    ]
    return join(tag("p", said, class_="small"), tag("div", *shown, class_="photos"))


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
    rows = []
    for block, moved, total in page.audit:
        state = "moved" if moved == total else "moved in part" if moved else "did not move"
        rows.append([name(block), state, f"{moved} of {total}"])
    audit = table(["block", "", "tensors"], rows, caption="Freeze audit", left=2)
    return tag(
        "div",
        tag("div", tag("h3", "Loaded from ", name(page.facts.weights)), loaded),
        tag(
            "div",
            tag("h3", "Freeze audit"),
            tag("p", "Every tensor compared with its start, bit by bit.", class_="small"),
            audit if rows else "",
        ),
        class_="two",
    )


def _recipe(recipe: Mapping[str, Mapping[str, object]]) -> Html:
    cards = [tag("div", tag("h3", section), _plain(values)) for section, values in recipe.items()]
    return tag("div", *cards, class_="cards")


def _plain(values: Mapping[str, object]) -> Html:
    return facts([(key, path(_said(value))) for key, value in values.items()])


def _said(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ", ".join(map(_said, value))
    return str(value)
