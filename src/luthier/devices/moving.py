"""Anything → a device: modules in place, everything else by value."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, TypeVar

import torch
from torch import nn

T = TypeVar("T")


def to(obj: T, device: torch.device | str, dtype: torch.dtype | None = None) -> T:
    """Return an object whose tensors are on a device.

    What is returned has to be used, whatever went in. A module is moved **in place** and returned
    itself: its parameters stay the objects that an optimizer knows. Of everything else a **new
    value** is returned, and what was given stays where it was: a tensor, or a tuple, list, dict,
    dataclass or named tuple of them, nested as deep as you like. What is there already is not
    copied, and what holds no tensors is returned as it is.

    Args:
        obj: a module, a tensor, a batch, or any of the above; other objects are returned as they
            are, unless they have a ``to`` of their own, such as a batch of ``transformers``.
        device: where to.
        dtype: of floating-point tensors; integers and booleans keep theirs.
    """
    moved: Any = _moved(obj, torch.device(device), dtype)
    return moved  # type: ignore[no-any-return]


def _moved(obj: Any, device: torch.device, dtype: torch.dtype | None) -> Any:
    if isinstance(obj, nn.Module):
        return obj.to(device=device, dtype=dtype)
    if isinstance(obj, torch.Tensor):
        floating = obj.is_floating_point() or obj.is_complex()
        # Page-locked memory is copied while the host goes on; from any other this is the same.
        return obj.to(device, dtype if floating else None, non_blocking=obj.is_pinned())
    if isinstance(obj, Mapping):
        return _rebuilt(obj, {key: _moved(value, device, dtype) for key, value in obj.items()})
    if isinstance(obj, tuple) and hasattr(obj, "_fields") and not _has_to(obj):
        return type(obj)(*(_moved(value, device, dtype) for value in obj))
    if isinstance(obj, list | tuple) and not _has_to(obj):
        return _rebuilt(obj, [_moved(value, device, dtype) for value in obj])
    if dataclasses.is_dataclass(obj) and not isinstance(obj, type):
        return _replaced(obj, device, dtype)
    return obj.to(device) if _has_to(obj) else obj


def _has_to(obj: Any) -> bool:
    return callable(getattr(obj, "to", None)) and not isinstance(obj, type)


def _rebuilt(like: Any, content: Any) -> Any:
    """Return content as the type that it came in, where that takes it."""
    if type(like) in (dict, list):
        return content
    try:
        return type(like)(content)
    except TypeError:  # such as a default dict, whose first argument is another
        copied = like.copy()
        copied.update(content)
        return copied


def _replaced(obj: Any, device: torch.device, dtype: torch.dtype | None) -> Any:
    # Not by dataclasses.replace: a field need not be an argument, and nothing is to be checked
    # or computed again.
    copied = object.__new__(type(obj))
    for name, value in vars(obj).items() if hasattr(obj, "__dict__") else _slots(obj):
        object.__setattr__(copied, name, _moved(value, device, dtype))
    return copied


def _slots(obj: Any) -> list[tuple[str, Any]]:
    names = [field.name for field in dataclasses.fields(obj)]
    return [(name, getattr(obj, name)) for name in names if hasattr(obj, name)]
