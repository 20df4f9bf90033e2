"""Decide which tensor of a file goes where in a model. Pure: nothing is changed here."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from luthier.errors import nearest
from luthier.values import TensorSpec

# Counts that files from before torch 0.4.1 lack; their absence changes nothing in inference.
_OPTIONAL = "num_batches_tracked"
_SHOWN = 6


@dataclass(frozen=True)
class LoadPlan:
    """What loading would do, name by name; ``str(plan)`` is the report.

    Attributes:
        loaded: model tensors that take the file's tensor of the same name.
        cast: those of them whose dtype changes, as (name, from, to).
        kept: model tensors that keep their initial value on purpose (the new head), and counts
            of batches that an old file lacks.
        missing: model tensors that the file lacks.
        misshapen: (name, shape in the file, shape in the model).
        unexpected: tensors of the file that the model has no place for.
        dropped: tensors of the file left out on purpose (the old head).
    """

    loaded: tuple[str, ...]
    cast: tuple[tuple[str, str, str], ...]
    kept: tuple[str, ...]
    missing: tuple[str, ...]
    misshapen: tuple[tuple[str, str, str], ...]
    unexpected: tuple[str, ...]
    dropped: tuple[str, ...]

    @property
    def coverage(self) -> float:
        """Loaded part of the model's tensors, those kept on purpose aside, in [0, 1]."""
        wanted = len(self.loaded) + len(self.missing) + len(self.misshapen)
        return len(self.loaded) / wanted if wanted else 0.0

    def __str__(self) -> str:
        wanted = len(self.loaded) + len(self.missing) + len(self.misshapen)
        lines = [f"{len(self.loaded)} of {wanted} tensors loaded"]
        new = [name for name in self.kept if not name.endswith(_OPTIONAL)]
        if new:
            lines[0] += f", {len(new)} new: {_some(new)}"
        if len(new) < len(self.kept):
            lines.append(f"  counts of batches that start at 0: {len(self.kept) - len(new)}")
        if self.cast:
            lines.append(f"  cast: {_some([f'{n} {a} → {b}' for n, a, b in self.cast])}")
        if self.misshapen:
            shapes = [f"{n} {a} in the file, {b} in the model" for n, a, b in self.misshapen]
            lines.append(f"  other shape: {_some(shapes)}")
        if self.missing:
            hints = [n + nearest(n, self.unexpected) for n in self.missing[:_SHOWN]]
            lines.append(f"  not in the file: {_some(hints, len(self.missing))}")
        if self.unexpected:
            lines.append(f"  not in the model: {_some(self.unexpected)}")
        return "\n".join(lines)


def _some(names: Collection[str], total: int | None = None) -> str:
    total = len(names) if total is None else total
    shown = list(names)[:_SHOWN]
    return ", ".join(shown) + (f" and {total - len(shown)} more" if total > len(shown) else "")


def match(
    model: Mapping[str, TensorSpec],
    file: Mapping[str, TensorSpec],
    head: Collection[str] = (),
) -> LoadPlan:
    """Match the tensors of a file to those of a model by name and shape.

    Args:
        model: the model's tensors, in the order of its ``state_dict``.
        file: the file's tensors.
        head: model tensors that keep their initial value whatever the file holds.
    """
    wanted = [name for name in model if name not in head]
    found = [name for name in wanted if name in file]
    fits = [name for name in found if file[name].shape == model[name].shape]
    return LoadPlan(
        loaded=tuple(fits),
        cast=tuple(
            (n, file[n].dtype, model[n].dtype) for n in fits if file[n].dtype != model[n].dtype
        ),
        kept=tuple(n for n in model if n in head or (n not in file and n.endswith(_OPTIONAL))),
        missing=tuple(n for n in wanted if n not in file and not n.endswith(_OPTIONAL)),
        misshapen=tuple((n, str(file[n]), str(model[n])) for n in found if n not in fits),
        unexpected=tuple(name for name in file if name not in model),
        dropped=tuple(name for name in file if name in head),
    )
