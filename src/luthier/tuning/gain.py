"""Whether one setting is faster than another, from rounds that were measured by turns. Pure."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from luthier.intervals import mean95

LEAST_GAIN = 0.02  # a gain below is not worth another setting
_HOPELESS = 0.7  # of the base's rate in the first round: no further round would change it


@dataclass(frozen=True)
class Gain:
    """How many times as fast one setting is as another.

    Attributes:
        ratio: geometric mean over the rounds.
        low: lower end of its 95 % interval; 0 of a single round.
        high: upper end; infinite of a single round.
    """

    ratio: float
    low: float
    high: float

    @property
    def beyond_noise(self) -> bool:
        """Whether it is faster, by more than the measurements scatter and than ``LEAST_GAIN``."""
        return self.low > 1 + LEAST_GAIN

    def as_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {"ratio": self.ratio, "interval95": [self.low, self.high]}

    def __str__(self) -> str:
        if not self.low:
            return f"{self.ratio:.2f} times"
        return f"{self.ratio:.2f} times ({self.low:.2f} to {self.high:.2f})"


def gain_of(base: Sequence[float], other: Sequence[float]) -> Gain:
    """Compare rates that were measured by turns: base, other, base, other, …, base.

    Each round of the other is compared with the mean of the rounds before and after it, so that a
    machine that becomes slower or faster steadily shifts nothing.

    Args:
        base: one round more than ``other``.
        other: one round at least.
    """
    if len(base) != len(other) + 1 or not other:
        raise ValueError("rounds by turns begin and end with the base")
    around = [(before + after) / 2 for before, after in itertools.pairwise(base)]
    logs = [math.log(rate / beside) for rate, beside in zip(other, around, strict=True)]
    mean, low, high = mean95(logs)
    return Gain(math.exp(mean), math.exp(low), math.exp(high))


def is_decided(gain: Gain) -> bool:
    """Tell whether further rounds could hardly change what is decided."""
    if gain.low == 0:
        return gain.ratio < _HOPELESS
    return gain.beyond_noise or gain.high < 1 + LEAST_GAIN


def pays_back(base_rate: float, rate: float, images: int, extra: float) -> bool:
    """Tell whether a faster setting that takes longer to start is sooner done.

    Args:
        base_rate: images a second without it.
        rate: images a second with it.
        images: of the whole run.
        extra: seconds that its start takes longer.
    """
    return images / base_rate - images / rate > extra
