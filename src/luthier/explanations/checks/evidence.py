"""What a case shows that several checks look at: its frames and the user's variables. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator

from luthier.explanations.values import (
    Case,
    Fact,
    Facts,
    Frame,
    ModuleFacts,
    ObjectFacts,
    TensorFacts,
)

_MOST_NAMES = 3  # that a sentence lists


def of_torch(case: Case) -> Facts | None:
    """Return the user's line, or None where somebody else raised the error in torch's words."""
    last = case.raised.innermost
    return None if last and last.raises and not _is_torchs(last) else {"line": case.raised.line}


def _is_torchs(frame: Frame) -> bool:
    return frame.is_library and "/torch/" in frame.file


def own(case: Case) -> Iterator[tuple[str, Fact]]:
    """Yield the variables of the user's own calls, of the innermost first."""
    for frame, variables in reversed([*zip(case.raised.frames, case.live, strict=False)]):
        if not frame.is_library:
            yield from variables.items()


def named(case: Case, name: str) -> Fact | None:
    """Return the user's variable of a name."""
    return next((value for variable, value in own(case) if variable == name), None)


def models(case: Case) -> list[tuple[str, ModuleFacts]]:
    """Return the user's modules with parameters, the largest first."""
    found = [(n, v) for n, v in own(case) if isinstance(v, ModuleFacts) and v.parameters]
    return sorted(found, key=lambda pair: -len(pair[1].parameters))


def largest_model(case: Case) -> tuple[str, ModuleFacts] | None:
    """Return the user's module that has the most parameters, with its name."""
    return next(iter(models(case)), None)


def is_result(value: Fact) -> bool:
    """Return whether it is a tensor with a graph behind it."""
    return isinstance(value, TensorFacts) and value.requires_grad and not value.is_leaf


def shape_of(value: Fact) -> str | None:
    """Return a tensor's shape as it is printed."""
    return str(list(value.shape)) if isinstance(value, TensorFacts) else None


def listed(names: list[str]) -> str:
    """Return some names as a part of a sentence in any language."""
    return ", ".join(names[:_MOST_NAMES]) + (", …" if len(names) > _MOST_NAMES else "")


def innermost_in(case: Case, package: str, file: str = "") -> Frame | None:
    """Return the innermost frame, if it is in a package of torch, and in a file of it."""
    last = case.raised.innermost
    is_in = last is not None and re.search(rf"/torch/{package}/(?:.*/)?{file}", last.file)
    return last if is_in else None


def file_of(frame: Frame) -> str | None:
    """Return the path of a file as an import has it: torch/optim/adam.py."""
    _, at, after = frame.file.rpartition("/torch/")
    return f"torch/{after}" if at else None


def at_work(case: Case, field: str) -> ObjectFacts | None:
    """Return the object with a field whose method was called last."""
    for variables in reversed(case.live):
        value = variables.get("self")
        if isinstance(value, ObjectFacts) and value.fields.get(field) is not None:
            return value
    return None


def optimizer_of(case: Case) -> Facts:
    """Return the kind of the optimizer that was at work, its groups and its tensors."""
    found = at_work(case, "rates")
    if found is None:
        return {}
    rates = found.fields["rates"]
    groups = len(rates) if isinstance(rates, tuple) else None
    return {"kind": found.kind, "groups": groups, "tensors": found.fields["tensors"]}
