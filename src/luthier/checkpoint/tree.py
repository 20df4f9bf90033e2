"""Any object's state ⇄ named tensors and plain JSON. No pickle: what fits neither is refused.

JSON has no tuples, no keys but strings, no infinities and no arrays, so these become objects with
the key ``"$"`` that says what they are; ``docs/format.md`` lists them.
"""

from __future__ import annotations

import base64
import math
from collections import Counter, OrderedDict
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from luthier.errors import UnsupportedStateError

_MARK = "$"
_DTYPES = {
    str(dtype).removeprefix("torch."): dtype
    for dtype in vars(torch).values()
    if isinstance(dtype, torch.dtype)
}
_LONG = 1 << 2000  # Python reads only so many decimal digits; hexadecimal ones it reads all


def pack(value: Any, where: str = "") -> tuple[Any, dict[str, torch.Tensor]]:
    """Return a value as plain JSON, and the tensors in it by their place.

    Args:
        value: of ``None``, booleans, numbers, texts, bytes, tensors, numpy arrays and scalars,
            dtypes, and of lists, tuples, dicts and Counters of these.
        where: name of the value; the tensors' names begin with it.

    Raises:
        UnsupportedStateError: anything else is in it; its place is named.
    """
    tensors: dict[str, torch.Tensor] = {}
    try:
        return _pack(value, where, tensors), tensors
    except RecursionError:
        raise UnsupportedStateError(
            f"the state {where or 'given'} is nested without an end"
        ) from None


def _pack(value: Any, where: str, tensors: dict[str, torch.Tensor]) -> Any:
    if value is None or type(value) in (bool, str):
        return value
    if type(value) in (int, float):
        return _pack_number(value)
    if isinstance(value, torch.Tensor):
        return {_MARK: "tensor", "name": _keep(value, where, tensors)}
    if type(value) is np.ndarray or isinstance(value, np.generic):
        return _pack_numpy(value, where, tensors)
    if type(value) in (list, tuple, torch.Size):
        items = [_pack(item, _join(where, index), tensors) for index, item in enumerate(value)]
        return items if type(value) is list else {_MARK: "tuple", "items": items}
    if type(value) in (dict, OrderedDict, Counter):
        return _pack_dict(value, where, tensors)
    if isinstance(value, torch.dtype):
        return {_MARK: "dtype", "value": str(value).removeprefix("torch.")}
    if type(value) is bytes:
        return {_MARK: "bytes", "base64": base64.b64encode(value).decode()}
    raise UnsupportedStateError(
        f"the state {where or 'given'} holds a {type(value).__qualname__}, and a checkpoint holds"
        " tensors and plain values only",
        cure="leave it out of state_dict(), or give it there as numbers or text",
    )


def _join(where: str, key: object) -> str:
    return f"{where}.{key}" if where else str(key)


def _keep(tensor: torch.Tensor, where: str, tensors: dict[str, torch.Tensor]) -> str:
    name = where.encode("utf-8", "backslashreplace").decode()
    while name in tensors:  # keys may hold dots, and 1 and "1" are two keys
        name += "'"
    tensors[name] = tensor
    return name


def _pack_number(value: int | float) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else {_MARK: "float", "value": str(value)}
    return value if abs(value) < _LONG else {_MARK: "int", "hex": hex(value)}


def _pack_numpy(
    value: np.ndarray[Any, Any] | np.generic, where: str, tensors: dict[str, torch.Tensor]
) -> Any:
    try:
        tensor = torch.from_numpy(np.array(value, order="C"))
    except (TypeError, ValueError) as error:
        raise UnsupportedStateError(f"the state {where} is an array of {value.dtype}") from error
    kind = "scalar" if isinstance(value, np.generic) else "array"
    return {_MARK: kind, "name": _keep(tensor, where, tensors)}


def _pack_dict(value: dict[Any, Any], where: str, tensors: dict[str, torch.Tensor]) -> Any:
    plain = all(type(key) is str for key in value) and _MARK not in value
    if plain and not isinstance(value, Counter):
        return {key: _pack(item, _join(where, key), tensors) for key, item in value.items()}
    kind = "Counter" if isinstance(value, Counter) else "dict"
    items = []
    for number, (key, item) in enumerate(value.items()):
        if not _is_key(key):
            raise UnsupportedStateError(
                f"the state {where or 'given'} has the key {key!r}, expected a number, a text or a"
                " tuple of these"
            )
        packed_key = _pack(key, _join(where, f"key{number}"), tensors)
        items.append([packed_key, _pack(item, _join(where, key), tensors)])
    return {_MARK: kind, "items": items}


def _is_key(key: Any) -> bool:
    if type(key) is tuple:
        return all(map(_is_key, key))
    return type(key) in (bool, int, float, str)


def unpack(value: Any, tensors: Mapping[str, torch.Tensor]) -> Any:
    """Return the value that ``pack`` was given, with the tensors of ``tensors``.

    Raises:
        ValueError: a tensor that is not there, or a kind of object that ``pack`` never writes.
        KeyError, TypeError: an object that lacks something, or is of another form.
    """
    if isinstance(value, list):
        return [unpack(item, tensors) for item in value]
    if not isinstance(value, dict):
        return value
    if _MARK not in value:
        return {key: unpack(item, tensors) for key, item in value.items()}
    return _unpack_marked(value[_MARK], value, tensors)


def _unpack_marked(kind: str, value: dict[str, Any], tensors: Mapping[str, torch.Tensor]) -> Any:
    if kind in ("tensor", "array", "scalar"):
        if value["name"] not in tensors:
            raise ValueError(f"no file holds the tensor {value['name']!r}, which is named")
        tensor = tensors[value["name"]]
        if kind == "tensor":
            return tensor
        return tensor.numpy()[()] if kind == "scalar" else tensor.numpy()
    if kind in ("int", "float"):
        return int(value["hex"], 16) if kind == "int" else float(value["value"])
    if kind == "dtype":
        return _DTYPES[value["value"]]
    if kind == "bytes":
        return base64.b64decode(value["base64"], validate=True)
    if kind == "tuple":
        return tuple(unpack(item, tensors) for item in value["items"])
    if kind in ("dict", "Counter"):
        made = {unpack(key, tensors): unpack(item, tensors) for key, item in value["items"]}
        return Counter(made) if kind == "Counter" else made
    raise ValueError(f"unknown kind of value {kind!r}")
