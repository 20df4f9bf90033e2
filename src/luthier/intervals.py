"""What few cases can tell: intervals of a share and of a mean, a test of pairs. Pure."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

Z95 = 1.959963984540054  # 97.5 % quantile of the normal distribution
# 97.5 % quantiles of Student's t by degrees of freedom, where the series below is too coarse.
_STUDENT = (12.7062, 4.3027, 3.1824, 2.7764, 2.5706, 2.4469, 2.3646, 2.3060, 2.2622)


def wilson(share: float, count: int, z: float = Z95) -> tuple[float, float]:
    """Return the Wilson score interval (Wilson 1927, JASA 22:209) of a share of ``count`` cases.

    Args:
        share: in [0, 1]; also a mean of several such shares.
        count: of cases; of none the interval is everything.
        z: the normal quantile; the default gives 95 %.
    """
    if not count:
        return 0.0, 1.0
    centre = (share + z * z / (2 * count)) / (1 + z * z / count)
    root = math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    half = z / (1 + z * z / count) * root
    # Of none and of all one end is the share itself, which rounding could miss.
    return max(0.0, min(share, centre - half)), min(1.0, max(share, centre + half))


def student95(freedom: int) -> float:
    """Return the 97.5 % quantile of Student's t, to one part in two thousand.

    Above nine degrees by Cornish and Fisher's series (Abramowitz and Stegun 1964, 26.7.5).

    Args:
        freedom: degrees of freedom; infinite of none.
    """
    if freedom < 1:
        return math.inf
    if freedom <= len(_STUDENT):
        return _STUDENT[freedom - 1]
    z = Z95
    terms = (
        z,
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
    )
    return math.fsum(term / freedom**power for power, term in enumerate(terms))


def mean95(values: Sequence[float], shared: float = 0.0) -> tuple[float, float, float]:
    """Return a mean with its 95 % interval by Student's t; of a single value it is infinite.

    Args:
        values: one or more.
        shared: added to 1 over their number, where they are not independent: for differences by
            folds the images of validation over those of training (Nadeau and Bengio 2003).
    """
    mean = statistics.fmean(values)
    if len(values) == 1:
        return mean, -math.inf, math.inf
    error = statistics.stdev(values) * math.sqrt(1 / len(values) + shared)
    half = student95(len(values) - 1) * error
    return mean, mean - half, mean + half


def mcnemar_p(first: int, second: int) -> float:
    """Return the two-sided p of McNemar's exact test (1947, Psychometrika 12:153).

    How likely a fair coin shares out as unevenly the cases that only one of two has right.

    Args:
        first: cases that only the first has right.
        second: cases that only the second has right.
    """
    total, fewer = first + second, min(first, second)
    whole = math.lgamma(total + 1) - total * math.log(2)
    tail = (
        math.exp(whole - math.lgamma(k + 1) - math.lgamma(total - k + 1)) for k in range(fewer + 1)
    )
    return min(1.0, 2 * math.fsum(tail))
