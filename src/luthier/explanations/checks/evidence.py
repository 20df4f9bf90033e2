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
    frames = case.raised.frames
    if frames and not _is_torchs(frames[-1]) and _is_raise(frames[-1]):
        return None
    return {"line": line_of(case)}


def line_of(case: Case) -> str | None:
    """Return the user's innermost line."""
    own = [frame for frame in case.raised.frames if not frame.is_library and frame.source]
    return own[-1].source if own else None


def _is_torchs(frame: Frame) -> bool:
    return frame.is_library and bool(re.search(r"[/\\]torch[/\\]", frame.path))


def _is_raise(frame: Frame) -> bool:
    return frame.source.startswith(("raise ", "assert "))


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
    if not case.raised.frames:
        return None
    frame = case.raised.frames[-1]
    path = frame.file
    return frame if re.search(rf"/torch/{package}/(?:.*/)?{file}", path) else None


def file_of(frame: Frame) -> str | None:
    """Return the path of a file as an import has it: torch/optim/adam.py."""
    path = frame.file
    return path[path.rindex("/torch/") + 1 :] if "/torch/" in path else None


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
