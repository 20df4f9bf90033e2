"""Assertions of CUDA kernels, which were printed ahead of the error."""

from __future__ import annotations

import re

from luthier.explanations.checks.devices.common import live_values, unless_by_others
from luthier.explanations.values import Case, Facts, ObjectFacts, TensorFacts


@unless_by_others
def asserted_label(case: Case) -> Facts | None:
    """Return which label of a batch a kernel found to be none of the classes."""
    found = re.search(
        r"thread: \[(?P<thread>\d+),\d+,\d+\] Assertion `t(?:arget_val)? >= 0 && "
        r"t(?:arget_val)? < n_classes` failed",
        case.raised.before,
    )
    if found is None or re.search(r"nll_loss2d|Spatial", case.raised.before):
        return None
    return {"thread": found["thread"], **_labels(case)}


@unless_by_others
def asserted_pixel(case: Case) -> Facts | None:
    """Return facts where the label of a pixel is none of the classes."""
    before = case.raised.before
    is_it = "< n_classes` failed" in before and re.search(r"nll_loss2d|Spatial", before)
    return _labels(case) if is_it else None


@unless_by_others
def asserted_row(case: Case) -> Facts | None:
    """Return facts where a row of a table, such as an embedding's, does not exist."""
    kernels = r"(?:indexSelect\w*|vectorized_gather_kernel|embedding\w*): block"
    return {"assertion": _assertion(case)} if re.search(kernels, case.raised.before) else None


@unless_by_others
def asserted_index(case: Case) -> Facts | None:
    """Return facts where an index is outside a tensor."""
    assertion = _assertion(case)
    if assertion is None or not re.search(r"ind(?:ex|ices)|idx|Index", assertion):
        return None
    return {"assertion": assertion}


@unless_by_others
def asserted_probability(case: Case) -> Facts | None:
    """Return facts where a loss of probabilities got none."""
    assertion = _assertion(case) or ""
    is_it = re.search(r"(?:input|target)_val >= zero && (?:input|target)_val <= one", assertion)
    return {"which": "target" if "target" in assertion else "input"} if is_it else None


@unless_by_others
def asserted(case: Case) -> Facts:
    """Return the assertion that was printed, and labels that are outside of the classes."""
    return {"assertion": _assertion(case), **_labels(case)}


def _assertion(case: Case) -> str | None:
    found = re.search(r"Assertion `(?P<text>.+?)` failed", case.raised.before)
    return found["text"] if found else None


def _labels(case: Case) -> Facts:
    """Return the labels of a data set at hand, where they are not the numbers of the classes."""
    output = case.variable("input")
    if not isinstance(output, TensorFacts) or len(output.shape) <= 1:
        return {}
    classes = output.shape[1]
    for fact in live_values(case):
        if isinstance(fact, ObjectFacts):
            low, high = fact.fields.get("low"), fact.fields.get("high")
            if isinstance(low, int) and isinstance(high, int) and (low < 0 or high >= classes):
                return {"low": low, "high": high, "classes": classes}
    return {}
