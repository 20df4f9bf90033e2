"""A module that was pickled whole → its tensors by name. No torch here, and not the module's class.

Its class is neither needed nor looked for: ``nn.Module`` keeps what it consists of in plain dicts,
and those are in the file. What a class computes in a ``state_dict`` of its own cannot be known.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from luthier.errors import DamagedError
from luthier.files.entries import (
    DEEPEST,
    Entry,
    Record,
    RefusedEntry,
    SparseEntry,
    TensorEntry,
)
from luthier.files.limits import Budget
from luthier.files.wording import shown

NAMES_LIMIT = 32 << 20  # bytes of names; modules that share parts can have exponentially many
_PARTS = ("_modules", "_parameters")
_NAME_COST = 150  # a str and its place in a dict, beside its characters

_QUANTISED = (
    "torch.ao.nn.quantized.",
    "torch.nn.quantized.",
    "torch.ao.nn.intrinsic.quantized.",
    "torch.nn.intrinsic.quantized.",
    "torch.ao.nn.sparse.quantized.",
)
# They only mark where quantisation is to come, and hold floats.
_FLOAT = {"FloatFunctional", "FXFloatFunctional"}


def body(value: Any) -> dict[Any, Any] | None:
    """Return what a pickled module had in its ``__dict__``; None of anything else."""
    if not isinstance(value, Record):
        return None
    # A GraphModule is pickled as a call with its __dict__; objects with slots as a pair.
    for given in (value.state, *value.arguments[:1]):
        found = given[0] if isinstance(given, tuple) and given else given
        if isinstance(found, dict) and all(isinstance(found.get(part), dict) for part in _PARTS):
            return found
    return None


def is_module(value: Any) -> bool:
    """Tell whether a value is an ``nn.Module`` that was pickled whole."""
    return body(value) is not None


def state_dict(module: Record, budget: Budget | None = None) -> dict[str, Entry]:
    """Return what the module's ``state_dict()`` gives: the same names in the same order.

    Parameters come first, then persistent buffers, then the children's. A tensor that is there
    under two names is the same entry under both. A child whose tensors only its code could give
    (quantised, scripted) is there as a ``RefusedEntry`` under its own name.

    Args:
        module: a record of which ``is_module`` is true.
        budget: what the names may cost; a share of its own if not given.

    Raises:
        DamagedError: the module contains itself, or has more names than memory allows.
    """
    budget = budget or Budget(NAMES_LIMIT)
    found: dict[str, Entry] = {}
    waiting: list[tuple[str, Any, int]] = [("", module, 0)]
    while waiting:
        prefix, value, depth = waiting.pop()
        if depth > DEEPEST:
            raise DamagedError(f"its modules are nested deeper than {DEEPEST} levels")
        budget.spend(len(prefix) + _NAME_COST)  # of a module that is met again and again, too
        inside, why = body(value), _refusal(value)
        if inside is None or why:
            found[prefix.removesuffix(".")] = RefusedEntry(why or "is no module")
            continue
        for name, entry in _own_tensors(inside):
            budget.spend(len(prefix) + len(name) + _NAME_COST)
            found[prefix + name] = entry
        below = [(f"{prefix}{name}.", child, depth + 1) for name, child in children(inside)]
        waiting += reversed(below)
    return found


def _refusal(value: Any) -> str:
    """Say why a child's tensors cannot be known; "" if they can."""
    if not isinstance(value, Record):
        return f"is no module but {shown(value)}"
    made_by = value.made_by
    if made_by.module.startswith("torch.jit"):
        return f"is a scripted module ({made_by}), whose tensors only its code could give"
    if made_by.module.startswith(_QUANTISED) and made_by.name not in _FLOAT:
        return f"is quantised ({made_by})"
    if body(value) is None:
        return f"is no module that keeps its tensors in plain sight ({made_by})"
    return ""


def _own_tensors(inside: dict[Any, Any]) -> Iterator[tuple[str, Entry]]:
    hidden = inside.get("_non_persistent_buffers_set")
    hidden = hidden if isinstance(hidden, set | frozenset) else ()
    for name, value in inside["_parameters"].items():
        if value is not None:
            yield _text(name), _entry(value)
    buffers = inside.get("_buffers")
    for name, value in buffers.items() if isinstance(buffers, dict) else ():
        if value is not None and name not in hidden:
            yield _text(name), _entry(value)


def _entry(value: Any) -> Entry:
    if isinstance(value, TensorEntry | SparseEntry | RefusedEntry):
        return value
    return RefusedEntry(f"is no tensor but {shown(value)}")


def children(inside: dict[Any, Any]) -> Iterator[tuple[str, Any]]:
    """Give a module's children by name; ``inside`` is what ``body`` gave."""
    return ((_text(k), child) for k, child in inside["_modules"].items() if child is not None)


def _text(name: Any) -> str:
    return name if isinstance(name, str) else shown(name)
