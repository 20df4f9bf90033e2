"""A plan as lines of text."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

from luthier.errors import nearest

if TYPE_CHECKING:
    from luthier.adapt.plan import LoadPlan

_OPTIONAL = "num_batches_tracked"
_SHOWN = 6


def report(plan: LoadPlan) -> str:
    """Return what a plan does, and what it does not."""
    lines = [f"{len(plan.loaded)} of {plan.wanted} tensors loaded"]
    new = [name for name in plan.kept if not name.endswith(_OPTIONAL)]
    if new:
        lines[0] += f", {len(new)} new: {_some(new)}"
    if len(new) < len(plan.kept):
        lines.append(f"  counts of batches that start at 0: {len(plan.kept) - len(new)}")
    if plan.cast:
        lines.append(f"  cast: {_some([f'{n} {a} → {b}' for n, a, b in plan.cast])}")
    if plan.misshapen:
        shapes = [f"{n} {a} in the file, {b} in the model" for n, a, b in plan.misshapen]
        lines.append(f"  other shape: {_some(shapes)}")
    if plan.missing:
        hints = [n + nearest(n, plan.unexpected) for n in plan.missing[:_SHOWN]]
        lines.append(f"  not in the file: {_some(hints, len(plan.missing))}")
    if plan.unexpected:
        lines.append(f"  not in the model: {_some(plan.unexpected)}")
    return "\n".join(lines)


def _some(names: Collection[str], total: int | None = None) -> str:
    total = len(names) if total is None else total
    shown = list(names)[:_SHOWN]
    return ", ".join(shown) + (f" and {total - len(shown)} more" if total > len(shown) else "")
