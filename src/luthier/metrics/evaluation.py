"""Labels and probabilities → an ``Evaluation``."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch.nn import functional as F

from luthier import vision
from luthier.values import ClassScores, Evaluation, Mistake, Proportion

_TOP = (3, 5)
_BINS = 15


def log_probabilities(scores: torch.Tensor, temperature: float | None = None) -> torch.Tensor:
    """Return the logarithm of the mean over views of the softmax of scores.

    In float64, where rounding makes no tie of two scores that differ.

    Args:
        scores: ``[images, views, classes]``.
        temperature: what they are divided by (Guo et al. 2017, arXiv 1706.04599); None is 1.

    Returns:
        float64 ``[images, classes]``.
    """
    each = F.log_softmax(scores.double() / (temperature or 1.0), dim=-1)
    # A mean of one view is that view; a sum of several may be above 1 by rounding.
    return (each.logsumexp(1) - math.log(each.shape[1])).clamp(max=0.0)


def evaluation(
    classes: Sequence[str],
    images: Sequence[str],
    labels: torch.Tensor,
    log_probabilities: torch.Tensor,
    *,
    counts_only: bool = False,
) -> Evaluation:
    """Evaluate a model on labelled images.

    Args:
        classes: names in index order.
        images: what each is called.
        labels: int64 ``[images]``.
        log_probabilities: float64 ``[images, classes]``.
        counts_only: leave out the calibration error (NaN) and the ROC curve, whose formulas take
            seconds to import.
    """
    said = log_probabilities.argmax(1)
    confusion = _confusion(labels, said, len(classes))
    per_class = _per_class(classes, confusion)
    recalls = [one.recall for one in per_class if one.images]
    return Evaluation(
        classes=tuple(classes),
        accuracy=Proportion(int(confusion.trace()), len(labels)),
        loss=float(F.nll_loss(log_probabilities, labels)),
        balanced_accuracy=sum(recalls) / len(recalls),
        top_k=_top_k(labels, log_probabilities),
        per_class=per_class,
        confusion=tuple(map(tuple, confusion.tolist())),
        calibration_error=math.nan if counts_only else calibration_error(labels, log_probabilities),
        roc_auc=None if counts_only else _roc_auc(labels, log_probabilities),
        mistakes=_mistakes(classes, images, labels, said, log_probabilities),
    )


def calibration_error(labels: torch.Tensor, log_probabilities: torch.Tensor) -> float:
    """Return the expected calibration error in 15 bins of equal width (Guo et al. 2017).

    Args:
        labels: int64 ``[images]``.
        log_probabilities: float64 ``[images, classes]``.
    """
    count = log_probabilities.shape[1]
    return float(
        _formulas().multiclass_calibration_error(
            log_probabilities.exp(), labels, num_classes=count, n_bins=_BINS, norm="l1"
        )
    )


@functools.cache
def _formulas() -> Any:
    # Over a second, and torchvision comes with it.
    return vision.load("torchmetrics.functional.classification")


def _confusion(labels: torch.Tensor, said: torch.Tensor, count: int) -> torch.Tensor:
    return (labels * count + said).bincount(minlength=count * count).reshape(count, count)


def _per_class(classes: Sequence[str], confusion: torch.Tensor) -> tuple[ClassScores, ...]:
    right = confusion.diagonal().double()
    has, taken = confusion.sum(1), confusion.sum(0)
    # Where nothing is of a class, or taken for it, 0 / 0 is NaN.
    columns = (has, right / taken, right / has, 2 * right / (has + taken))
    rows = zip(*(column.tolist() for column in columns), strict=True)
    return tuple(ClassScores(name, *row) for name, row in zip(classes, rows, strict=True))


def _top_k(labels: torch.Tensor, log_probabilities: torch.Tensor) -> dict[int, Proportion]:
    count, ranked = log_probabilities.shape[1], log_probabilities.argsort(1, True)
    at = (ranked == labels[:, None]).int().argmax(1)  # place of the label, from 0
    return {k: Proportion(int((at < k).sum()), len(labels)) for k in _TOP if k < count}


def _roc_auc(labels: torch.Tensor, log_probabilities: torch.Tensor) -> float | None:
    if log_probabilities.shape[1] != 2 or not 0 < int(labels.sum()) < len(labels):
        return None
    return float(_formulas().binary_auroc(log_probabilities[:, 1].exp(), labels))


def _mistakes(
    classes: Sequence[str],
    images: Sequence[str],
    labels: torch.Tensor,
    said: torch.Tensor,
    log_probabilities: torch.Tensor,
) -> tuple[Mistake, ...]:
    probabilities = log_probabilities.exp()
    found = [
        Mistake(
            images[at],
            classes[int(labels[at])],
            classes[int(said[at])],
            float(probabilities[at, said[at]]),
        )
        for at in torch.nonzero(labels != said)[:, 0].tolist()
    ]
    return tuple(sorted(found, key=lambda mistake: -mistake.probability))
