"""What an evaluation says: the confusion matrix, the classes, the mistakes."""

from __future__ import annotations

import base64
import math
from collections.abc import Sequence

from luthier.report.page.document import Section
from luthier.report.page.html import Html, join, name, path, table, tag
from luthier.report.page.values import Example
from luthier.report.page.wording import NONE, count, percent
from luthier.values import ClassScores, Evaluation

_MATRIX = 20  # classes at most of a matrix that can be read
_CLASSES = 60  # classes that are told of one by one
_PAIRS = 20  # pairs of classes that are most often taken for each other


def sections(found: Evaluation | None, mistakes: Sequence[Example]) -> list[Section]:
    """Return the sections on how good the best epoch is."""
    if found is None:
        return []
    few = len(found.classes) <= _MATRIX
    return [
        Section("confusion", "Confusion", _matrix(found) if few else _pairs(found)),
        Section("classes", "Classes", _classes(found)),
        Section("mistakes", "Most certain mistakes", _mistakes(found, mistakes)),
    ]


def _matrix(found: Evaluation) -> Html:
    head = [tag("th", name(said), scope="col") for said in found.classes]
    rows = []
    for label, counts in zip(found.classes, found.confusion, strict=True):
        total = sum(counts)
        cells = []
        for said, images in zip(found.classes, counts, strict=True):
            share = images / total if total else 0.0
            kind = "right" if said == label else "wrong"
            small = tag("small", percent(share, 0)) if images else ""
            level = math.ceil(10 * share)
            cells.append(tag("td", tag("b", str(images)), small, class_=f"{kind} q{level}"))
        rows.append(tag("tr", tag("th", name(label), scope="row"), *cells))
    caption = "Rows: what an image is. Columns: what the model said."
    grid = tag(
        "table",
        tag("caption", caption),
        tag("thead", tag("tr", tag("td"), *head)),
        tag("tbody", *rows),
        class_="matrix",
    )
    return join(
        tag("p", caption + " Shares are of a row.", class_="small"),
        tag(
            "div", grid, class_="scroll", tabindex="0", role="region", aria_label="Confusion matrix"
        ),
    )


def _pairs(found: Evaluation) -> Html:
    wrong = [
        (images, label, said)
        for label, counts in zip(found.classes, found.confusion, strict=True)
        for said, images in zip(found.classes, counts, strict=True)
        if said != label and images
    ]
    wrong.sort(key=lambda pair: -pair[0])
    of = dict(zip(found.classes, map(sum, found.confusion), strict=True))
    rows = [
        [name(label), name(said), str(images), percent(images / of[label], 0)]
        for images, label, said in wrong[:_PAIRS]
    ]
    return join(
        tag("p", f"Of {len(found.classes)} classes, those most often taken for another."),
        table(
            ["is", "taken for", "images", "of its class"],
            rows,
            caption="Classes most often confused",
            left=2,
        ),
    )


def _classes(found: Evaluation) -> Html:
    shown = found.per_class
    note = _overall(found)
    if len(shown) > _CLASSES:
        shown = tuple(sorted(shown, key=_weakest)[:_CLASSES])
        note += f" Of {len(found.classes)} classes, the {_CLASSES} with the lowest F1."
    rows = [
        [name(of.name), *map(_bar, (of.precision, of.recall, of.f1)), count(of.images)]
        for of in shown
    ]
    header = ["class", "precision", "recall", "F1", "images"]
    return join(tag("p", note), table(header, rows, caption="Scores of each class", left=4))


def _weakest(of: ClassScores) -> float:
    return of.f1 if math.isfinite(of.f1) else 2.0


def _overall(found: Evaluation) -> str:
    said = [
        f"Balanced accuracy {percent(found.balanced_accuracy, 2)}",
        *(
            f"top-{k} accuracy {percent(right.value, 2)}"
            for k, right in found.top_k.items()
            if k > 1
        ),
        f"cross-entropy {found.loss:.3f}",
    ]
    if math.isfinite(found.calibration_error):
        said.append(f"expected calibration error {percent(found.calibration_error)}")
    if found.roc_auc is not None and math.isfinite(found.roc_auc):
        said.append(f"area under the ROC curve {found.roc_auc:.3f}")
    return ", ".join(said) + "."


def _bar(share: float) -> Html:
    if not math.isfinite(share):
        return tag("span", NONE)
    return join(
        tag(
            "svg",
            tag("rect", width="100%", height="100%", rx="2", class_="rail"),
            tag("rect", width=f"{100 * share:.2f}%", height="100%", rx="2", class_="fill"),
            class_="bar",
            aria_hidden="true",
        ),
        tag("span", percent(share)),
    )


def _mistakes(found: Evaluation, shown: Sequence[Example]) -> Html:
    total = len(found.mistakes)
    if not total:
        return tag("p", "The model has made none.")
    of = "All" if len(shown) == total else f"{len(shown)} of"
    photos = [
        photo(
            one,
            tag("b", name(one.said), f" {percent(one.probability, 0)}"),
            join("is ", name(one.label)),
            path(one.image),
        )
        for one in shown
    ]
    noun = "mistake" if total == 1 else "mistakes"
    said = f"{of} {total} {noun}; the percentage is the model's probability for what it said."
    return join(tag("p", said, class_="small"), tag("div", *photos, class_="photos"))


def photo(one: Example, *lines: Html) -> Html:
    """Return a photo with lines below it."""
    if one.jpeg is None:
        seen = tag("div", "not there", class_="gone")
    else:
        data = base64.b64encode(one.jpeg).decode()
        seen = tag("img", src=f"data:image/jpeg;base64,{data}", alt=one.image)
    words = tag("figcaption", *(tag("span", line) for line in lines))
    return tag("figure", seen, words, class_="photo")
