"""What loading would do, as plain values. Nothing is decided and nothing is changed here."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from luthier.adapt.report import as_dict, report
from luthier.adapt.transforms import Copy, Transform
from luthier.errors import RecipeError

HEAD_MODES = ("keep", "replace", "rows")


@dataclass(frozen=True)
class HeadFit:
    """What becomes of the model's head.

    Attributes:
        tensors: the model's names of the head's tensors.
        mode: "keep": the file's head is loaded like everything else; "replace": these tensors
            keep their initial value and the file's are left out; "rows": rows are chosen.
        rows: with "rows": row ``i`` takes row ``rows[i]`` of the file; None stays initial.
        of: with "rows": how many the file's head has if the rows were found rightly.
        note: how the rows were found, for the report.
    """

    tensors: tuple[str, ...] = ()
    mode: str = "keep"
    rows: tuple[int | None, ...] = ()
    of: int | None = None
    note: str = ""

    def __post_init__(self) -> None:
        if self.mode not in HEAD_MODES:
            raise RecipeError(f"head mode {self.mode!r} is none of {', '.join(HEAD_MODES)}")


@dataclass(frozen=True)
class Assignment:
    """Where one tensor of the model gets its values.

    Attributes:
        target: its name in the model.
        sources: names in the file: one, or several that are put together.
        transform: what happens on the way.
        why: the evidence: "same name", "without module.", "rule …", "order and shape".
        cast: dtype in the file and in the model, where they differ.
    """

    target: str
    sources: tuple[str, ...]
    transform: Transform = field(default_factory=Copy)
    why: str = "same name"
    cast: tuple[str, str] | None = None


@dataclass(frozen=True)
class LoadPlan:
    """What loading would do, name by name; ``str(plan)`` is the report.

    Every tensor of the model is in exactly one of ``assignments``, ``tied``, ``kept``,
    ``missing``, ``misshapen`` and ``refused``.

    Attributes:
        assignments: in the model's order.
        tied: (name, the loaded name whose memory it shares).
        kept: model tensors that keep their initial value on purpose (the new head), and counts
            of batches that an old file lacks.
        missing: model tensors that the file lacks.
        misshapen: (name, spec in the file, spec in the model).
        refused: (name, why its tensor in the file cannot be used).
        unexpected: tensors of the file that the model has no place for.
        inside: those of them that belong to blocks out of which others are loaded: the file is
            of another network.
        dropped: tensors of the file left out on purpose (the old head).
        notes: what else was decided, a line each: prefixes, rules, evidence.
        doubts: why the ways that were tried did not cover more.
        source: the file.
        where: the place of the weights in it, "" for the top.
        others: other places with weights.
    """

    assignments: tuple[Assignment, ...] = ()
    tied: tuple[tuple[str, str], ...] = ()
    kept: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    misshapen: tuple[tuple[str, str, str], ...] = ()
    refused: tuple[tuple[str, str], ...] = ()
    unexpected: tuple[str, ...] = ()
    inside: tuple[str, ...] = ()
    dropped: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    doubts: tuple[str, ...] = ()
    source: str = ""
    where: str = ""
    others: tuple[str, ...] = ()

    @property
    def loaded(self) -> tuple[str, ...]:
        """Model tensors that get values from the file."""
        return tuple(a.target for a in self.assignments)

    @property
    def cast(self) -> tuple[tuple[str, str, str], ...]:
        """Those of them whose dtype changes, as (name, from, to)."""
        return tuple((a.target, *a.cast) for a in self.assignments if a.cast)

    @property
    def wanted(self) -> int:
        """The number of the model's tensors, those kept on purpose aside."""
        lacking = len(self.missing) + len(self.misshapen) + len(self.refused)
        return len(self.assignments) + len(self.tied) + lacking

    @property
    def coverage(self) -> float:
        """Loaded part of them, in [0, 1]."""
        return (len(self.assignments) + len(self.tied)) / self.wanted if self.wanted else 0.0

    @property
    def fits(self) -> bool:
        """Whether a load would do it: all is covered, and the file is not of a larger network."""
        return bool(self.assignments) and self.coverage == 1.0 and not self.inside

    def __str__(self) -> str:
        return report(self)

    def as_dict(self) -> dict[str, Any]:
        """Return it as plain JSON values."""
        return as_dict(self)
