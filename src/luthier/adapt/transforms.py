"""What may happen to a tensor on its way from a file into a model, as values. No torch here.

A tensor is never reshaped, cut or put together unless one of these says so; the report names it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from luthier.values import TensorSpec

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Copy:
    """The source as it is."""

    def shape(self, sources: Sequence[Shape]) -> Shape | None:
        """Return what comes out of these shapes; None where it cannot be done."""
        return sources[0] if len(sources) == 1 else None

    def __str__(self) -> str:
        return "as it is"


@dataclass(frozen=True)
class Rows:
    """Chosen rows (along the first dimension) of the source.

    Attributes:
        rows: row ``i`` of the model takes row ``rows[i]`` of the file; None keeps its own value.
    """

    rows: tuple[int | None, ...]

    def shape(self, sources: Sequence[Shape]) -> Shape | None:
        """See ``Copy``."""
        if len(sources) != 1 or not sources[0]:
            return None
        if any(row is not None and not 0 <= row < sources[0][0] for row in self.rows):
            return None
        return (len(self.rows), *sources[0][1:])

    def __str__(self) -> str:
        taken = sum(row is not None for row in self.rows)
        return f"{taken} of {len(self.rows)} rows by class name"


@dataclass(frozen=True)
class Concat:
    """The sources one after the other along the first dimension: q, k, v → qkv."""

    def shape(self, sources: Sequence[Shape]) -> Shape | None:
        """See ``Copy``."""
        rests = {shape[1:] for shape in sources}
        if len(rests) != 1 or not all(sources):
            return None
        return (sum(shape[0] for shape in sources), *rests.pop())

    def __str__(self) -> str:
        return "put together along the first dimension"


@dataclass(frozen=True)
class Part:
    """One of ``of`` equal parts of the source along the first dimension: qkv → k.

    Attributes:
        index: which, from 0.
        of: how many there are.
    """

    index: int
    of: int

    def shape(self, sources: Sequence[Shape]) -> Shape | None:
        """See ``Copy``."""
        if len(sources) != 1 or not sources[0] or sources[0][0] % self.of:
            return None
        return (sources[0][0] // self.of, *sources[0][1:])

    def __str__(self) -> str:
        return f"part {self.index + 1} of {self.of} along the first dimension"


@dataclass(frozen=True)
class Reshape:
    """The same elements in the same order under another shape, where a rule says so."""

    to: Shape

    def shape(self, sources: Sequence[Shape]) -> Shape | None:
        """See ``Copy``."""
        fits = len(sources) == 1 and math.prod(sources[0]) == math.prod(self.to)
        return self.to if fits else None

    def __str__(self) -> str:
        return f"as {list(self.to)}"


@dataclass(frozen=True)
class Channels:
    """A first convolution for another number of input channels.

    One channel: the sum, so that a grey image gives what it gave as RGB. More or fewer: the
    channels are repeated in order and scaled by ``of / to``, so that what comes out stays about
    as large; the rule is timm's.

    Attributes:
        of: input channels in the file.
        to: input channels of the model.
    """

    of: int
    to: int

    def shape(self, sources: Sequence[Shape]) -> Shape | None:
        """See ``Copy``."""
        if len(sources) != 1 or len(sources[0]) < 3 or sources[0][1] != self.of:
            return None
        return (sources[0][0], self.to, *sources[0][2:])

    def __str__(self) -> str:
        how = "summed" if self.to == 1 else f"repeated in order, times {self.of}/{self.to}"
        return f"input channels {self.of} → {self.to}, {how}"


@dataclass(frozen=True)
class Interpolate:
    """Position embeddings ``[1, tokens + edge², width]`` resampled for another image size.

    Bicubic with antialiasing, computed in float32, as timm does; the first tokens are kept.

    Attributes:
        tokens: embeddings before those of the grid (class token, registers).
        of: edge of the file's grid.
        to: edge of the model's grid.
    """

    tokens: int
    of: int
    to: int

    def shape(self, sources: Sequence[Shape]) -> Shape | None:
        """See ``Copy``."""
        if len(sources) != 1 or len(sources[0]) != 3:
            return None
        ones, count, width = sources[0]
        fits = ones == 1 and count == self.tokens + self.of**2
        return (1, self.tokens + self.to**2, width) if fits else None

    def __str__(self) -> str:
        kept = f", {self.tokens} first kept" if self.tokens else ""
        grids = f"{self.of}x{self.of} → {self.to}x{self.to}"
        return f"position embeddings {grids}, bicubic with antialiasing{kept}"


Transform = Copy | Rows | Concat | Part | Reshape | Channels | Interpolate


def fits(transform: Transform, sources: Sequence[TensorSpec], target: TensorSpec) -> bool:
    """Tell whether a transform makes the target's shape out of these sources."""
    return transform.shape([source.shape for source in sources]) == target.shape
