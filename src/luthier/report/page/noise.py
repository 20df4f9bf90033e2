"""Which differences between runs are more than noise. Pure."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

from luthier.intervals import mcnemar_p
from luthier.report.page.values import Difference
from luthier.values import Score

Answers = Mapping[tuple[str, str], bool]  # by name and content of the image

_LEVEL = 0.05


def differences(best: Mapping[str, Score], right: Mapping[str, Answers]) -> tuple[Difference, ...]:
    """Compare every two runs by their best epochs.

    Two runs of which it is known what each said of the same images differ if McNemar's exact test
    says so at the level of 5 %, after Holm's correction for so many comparisons (1979, Scand. J.
    Statist. 6:65). Any others differ if their 95 % intervals do not overlap, which asks for more.

    Args:
        best: by name.
        right: by name, for each image whether it was right, where that is known.
    """
    found = [_alone(a, b, best, right) for a, b in itertools.combinations(best, 2)]
    tested = [n for n, one in enumerate(found) if one.p is not None]
    for number, p in zip(tested, holm([found[n].p or 0.0 for n in tested]), strict=True):
        one = found[number]
        found[number] = Difference(one.better, one.other, one.gain, one.alone, p, p < _LEVEL)
    return tuple(found)


def _alone(a: str, b: str, best: Mapping[str, Score], right: Mapping[str, Answers]) -> Difference:
    if best[b].accuracy.value > best[a].accuracy.value:
        a, b = b, a
    gain = best[a].accuracy.value - best[b].accuracy.value
    if a not in right or b not in right or right[a].keys() != right[b].keys():
        low, high = best[a].accuracy.interval()[0], best[b].accuracy.interval()[1]
        return Difference(a, b, gain, None, None, low > high)
    pairs = [(right[a][image], right[b][image]) for image in right[a]]
    first = sum(x and not y for x, y in pairs)
    second = sum(y and not x for x, y in pairs)
    return Difference(a, b, gain, (first, second), mcnemar_p(first, second), False)


def holm(p: Sequence[float]) -> list[float]:
    """Return p values such that the chance of one false alarm among them all keeps the level."""
    corrected, most = [0.0] * len(p), 0.0
    for rank, number in enumerate(sorted(range(len(p)), key=lambda n: p[n])):
        most = max(most, min(1.0, (len(p) - rank) * p[number]))
        corrected[number] = most
    return corrected
