"""An ``Evaluation``, a ``Calibration`` or a ``McNemar`` → lines."""

from __future__ import annotations

import math

from luthier.report.table import table
from luthier.values import Calibration, Evaluation, McNemar, Proportion

_WIDE = 12  # classes, above which the tables of all of them give way to the worst
_WORST = 10


def evaluation_lines(found: Evaluation) -> str:
    """Return all that is to be said of a model; for many classes of the worst of them."""
    parts = [_figures(found), _per_class(found), _confusion(found), _mistakes(found)]
    return "\n\n".join(part for part in parts if part)


def calibration_line(found: Calibration, model: str) -> str:
    """Return what a calibration did."""
    (loss, loss_now), (error, error_now) = found.loss, found.calibration_error
    return (
        f"temperature {found.temperature:.4g} is written into {model}; on these images, to which"
        f" it is fitted: loss {loss:.4f} → {loss_now:.4f}, calibration error {error:.4f} →"
        f" {error_now:.4f}"
    )


def mcnemar_lines(names: tuple[str, str], other: Proportion, found: McNemar) -> str:
    """Return how two models compare on the same images.

    Args:
        names: of the two.
        other: the accuracy of the second.
        found: what was compared.
    """
    only = found.first, found.second
    rows = [
        ("right with both", str(found.both)),
        (f"right with {names[0]} alone", str(only[0])),
        (f"right with {names[1]} alone", str(only[1])),
        ("wrong with both", str(found.neither)),
    ]
    said = f"McNemar's exact test: p = {found.p_value:.3g}."
    if only[0] == only[1] or found.p_value > 0.05:
        said += (
            " No difference is shown: an equally good model would differ as much by chance in"
            f" {100 * found.p_value:.3g} % of such sets of images."
        )
    else:
        better = names[only[1] > only[0]]
        said += (
            f" {better} is the better one: between equally good models so large a difference"
            f" comes by chance in {100 * found.p_value:.2g} % of such sets of images."
        )
    return "\n".join([f"{names[1]}: {other}", table(("images", "number"), rows), said])


def _figures(found: Evaluation) -> str:
    rows = [("accuracy", str(found.accuracy))]
    rows += [(f"top {k}", str(right)) for k, right in found.top_k.items()]
    rows += [
        ("balanced accuracy", _percent(found.balanced_accuracy)),
        ("loss", f"{found.loss:.4f}"),
        ("calibration error", f"{found.calibration_error:.4f} (expected, 15 bins)"),
    ]
    if found.roc_auc is not None:
        rows.append(("area under ROC", f"{found.roc_auc:.4f}"))
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:<{width}}  {value}" for name, value in rows)


def _per_class(found: Evaluation) -> str:
    shown, title = list(found.per_class), ""
    if len(shown) > _WIDE:
        shown = sorted((one for one in shown if one.images), key=lambda one: one.f1)[:_WORST]
        title = f"the {len(shown)} classes with the lowest F1, of {len(found.classes)}\n"
    rows = [
        (one.name, str(one.images), *map(_percent, (one.precision, one.recall, one.f1)))
        for one in shown
    ]
    return title + table(("class", "images", "precision", "recall", "F1"), rows)


def _confusion(found: Evaluation) -> str:
    if len(found.classes) > _WIDE:
        worst = [(label, said, str(count)) for label, said, count in found.confused[:_WORST]]
        if not worst:
            return ""
        title = f"the {len(worst)} most confused pairs, of {len(found.confused)}\n"
        return title + table(("class", "taken for", "images"), worst, left=2)
    rows = [
        (name, *map(str, row)) for name, row in zip(found.classes, found.confusion, strict=True)
    ]
    return table(("class \\ taken for", *found.classes), rows)


def _mistakes(found: Evaluation) -> str:
    if not found.mistakes:
        return ""
    rows = [
        (one.image, one.label, one.said, _percent(one.probability))
        for one in found.mistakes[:_WORST]
    ]
    more = "" if len(found.mistakes) <= _WORST else f", the {_WORST} most certain ones"
    title = f"{len(found.mistakes)} mistakes{more}\n"
    return title + table(("image", "class", "taken for", "certain"), rows, left=3)


def _percent(value: float) -> str:
    return "-" if math.isnan(value) else f"{100 * value:.2f} %"
