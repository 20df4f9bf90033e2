"""A module that was pickled whole → its tensors by name, and its architecture as text.

Its class is neither needed nor looked for: ``nn.Module`` keeps what it consists of in plain dicts,
and those are in the file. What a class computes in a ``state_dict`` of its own cannot be known.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from luthier.errors import DamagedError
from luthier.files.entries import (
    DEEPEST,
    Entry,
    Global,
    Record,
    RefusedEntry,
    SparseEntry,
    TensorEntry,
)
from luthier.files.limits import Budget
from luthier.files.wording import plain, shown

NAMES_LIMIT = 32 << 20  # bytes of names; modules that share parts can have exponentially many
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
# Values of constructors that say nothing, and are left out of the text.
_USUAL: Mapping[str, tuple[Any, ...]] = {
    "affine": (True,),
    "ceil_mode": (False,),
    "count_include_pad": (True,),
    "dilation": (1,),
    "divisor_override": (None,),
    "groups": (1,),
    "inplace": (False,),
    "output_padding": (0,),
    "padding": (0,),
    "padding_mode": ("zeros",),
    "return_indices": (False,),
    "track_running_stats": (True,),
    "transposed": (False,),
}
_SCALARS = (bool, int, float, str)
_LONGEST_TUPLE = 6


def body(value: Any) -> dict[Any, Any] | None:
    """Return what a pickled module had in its ``__dict__``; None of anything else."""
    if not isinstance(value, Record):
        return None
    # A GraphModule is pickled as a call with its __dict__; objects with slots as a pair.
    for found in (value.state, *value.arguments[:1]):
        if isinstance(found, tuple) and found:
            found = found[0]
        if isinstance(found, dict) and all(
            isinstance(found.get(part), dict) for part in ("_modules", "_parameters")
        ):
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
        budget.spend(len(prefix) + _NAME_COST)
        inside, why = body(value), _refusal(value)
        if inside is None or why:
            found[prefix.removesuffix(".")] = RefusedEntry(why or "is no module")
            continue
        for name, entry in _own_tensors(inside):
            budget.spend(len(prefix) + len(name) + _NAME_COST)
            found[prefix + name] = entry
        below = [(name, child) for name, child in _children(inside)]
        waiting += [(f"{prefix}{name}.", child, depth + 1) for name, child in reversed(below)]
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
    hidden = inside.get("_non_persistent_buffers_set", ())
    for name, value in inside["_parameters"].items():
        if value is not None:
            yield plain(name), _entry(value)
    buffers = inside.get("_buffers")
    for name, value in buffers.items() if isinstance(buffers, dict) else ():
        if value is not None and name not in hidden:
            yield plain(name), _entry(value)


def _entry(value: Any) -> Entry:
    if isinstance(value, TensorEntry | SparseEntry | RefusedEntry):
        return value
    return RefusedEntry(f"is no tensor but {shown(value)}")


def _children(inside: dict[Any, Any]) -> Iterator[tuple[str, Any]]:
    return ((plain(name), child) for name, child in inside["_modules"].items() if child is not None)
