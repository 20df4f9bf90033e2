"""What may be done where a tensor's place is known and its shape or dtype differs. Pure."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import replace

from luthier.adapt.plan import Assignment
from luthier.adapt.transforms import Channels, Copy, Interpolate, Transform, fits
from luthier.values import TensorSpec

Specs = Mapping[str, TensorSpec]
_POSITIONS = re.compile(r"(^|\.|_)(abs_)?pos(ition)?_embed(ding)?s?$")
_TOKENS = re.compile(r"(^|\.)(cls|class|dist|distillation|reg|register)_tokens?$")
_IMAGE_CHANNELS = (1, 3, 4)
_MOST_CHANNELS = 16


def shaped(link: Assignment, model: Specs, file: Specs, adjust: bool = True) -> Assignment | None:
    """Return the link with a transform that gives the target's shape; None where there is none.

    Besides what the link says already, that is: the input channels of the first convolution, and
    the grid of position embeddings.

    Args:
        link: from names of the file to a name of the model.
        model: the model's tensors, in its order.
        file: the file's.
        adjust: allow what the link does not say.
    """
    sources = [file[name] for name in link.sources]
    target = model[link.target]
    if fits(link.transform, sources, target):
        return link
    if not adjust or link.transform != Copy() or len(sources) != 1:
        return None
    other = _channels(link, model, sources[0]) or _positions(link, model, sources[0])
    if other is not None and fits(other, sources, target):
        return replace(link, transform=other)
    return None


def _channels(link: Assignment, model: Specs, source: TensorSpec) -> Transform | None:
    first = next((name for name, spec in model.items() if len(spec.shape) >= 4), None)
    target = model[link.target]
    if link.target != first or len(source.shape) != len(target.shape):
        return None
    of, to = source.shape[1], target.shape[1]
    floating = source.dtype.startswith(("float", "bfloat"))
    if of not in _IMAGE_CHANNELS or not 1 <= to <= _MOST_CHANNELS or not floating:
        return None
    return Channels(of, to)


def _positions(link: Assignment, model: Specs, source: TensorSpec) -> Transform | None:
    target = model[link.target]
    if not _POSITIONS.search(link.target) or len(source.shape) != 3 or len(target.shape) != 3:
        return None
    counts = {0}
    tokens = 0
    for name, spec in model.items():
        if _TOKENS.search(name) and len(spec.shape) == 3:
            tokens += spec.shape[1]
            counts.add(tokens)
    grids = [
        Interpolate(count, of, to)
        for count in sorted(counts, reverse=True)
        if (of := _edge(source.shape[1] - count)) and (to := _edge(target.shape[1] - count))
    ]
    return grids[0] if len(grids) == 1 else None


def _edge(count: int) -> int:
    """Return the edge of a square of so many; 0 where it is none."""
    edge = math.isqrt(count) if count > 0 else 0
    return edge if edge * edge == count else 0


def why_not_cast(source: str, target: str) -> str:
    """Return why a dtype cannot become another without loss of what it means; "" where it can."""
    if _kind(source) == "complex" != _kind(target):
        return f"{source} has imaginary parts, and the model's is {target}"
    if _kind(source) == "float" and _kind(target) == "whole":
        return f"{source} has fractions, and the model's is {target}"
    return ""


def _kind(dtype: str) -> str:
    if dtype.startswith("complex"):
        return "complex"
    return "float" if dtype.startswith(("float", "bfloat")) else "whole"
