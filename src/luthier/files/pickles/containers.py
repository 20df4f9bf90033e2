"""What pickles call to build Python's own containers and values, done again without calling it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from luthier.files.entries import Global
from luthier.files.limits import Broken, Budget, Keys

COST_OF_PAIR = 80  # bytes of memory of a pair in a dict, or of an item of a set, without the values


class Builder:
    """What the makers of values share while one pickle is read.

    Args:
        budget: what is made is entered there.

    Attributes:
        consumed: bytes of the pickle so far.
        called: each reference in it, and whether it would have been called.
    """

    def __init__(self, budget: Budget) -> None:
        self.budget = budget
        self.keys = Keys(budget)
        self.consumed = 0
        self.called: dict[Global, bool] = {}

    def set_of(self, items: Any) -> set[Any]:
        """Return a set of ``items``, each admitted as a key."""
        self.budget.spend(216 + COST_OF_PAIR * len(items))
        return set(self.keys.admit_all(items, self.consumed))


def ordered_dict(builder: Builder, pairs: Any = ()) -> Any:
    """``collections.OrderedDict(pairs)``; Python 2 gives the pairs, Python 3 sets them later."""
    if isinstance(pairs, dict):
        return _copied(builder, pairs)
    if not isinstance(pairs, list | tuple):
        return NotImplemented
    builder.budget.spend(80 + COST_OF_PAIR * len(pairs))
    found = {}
    for pair in pairs:
        if not isinstance(pair, list | tuple) or len(pair) != 2:
            raise Broken("an OrderedDict is made of what are no pairs")
        found[builder.keys.admit(pair[0], builder.consumed)] = pair[1]
    return found


def default_dict(builder: Builder, _factory: Any = None, pairs: Any = ()) -> Any:
    """``collections.defaultdict(factory)``: a plain dict."""
    return ordered_dict(builder, pairs)


def counter(builder: Builder, counts: Any = ()) -> Any:
    """``collections.Counter(counts)``: a plain dict."""
    return (
        ordered_dict(builder, counts)
        if isinstance(counts, dict) or counts == ()
        else NotImplemented
    )


def deque(builder: Builder, items: Any = (), _length: Any = None) -> Any:
    """``collections.deque(items, length)``: a plain list."""
    return list_of(builder, items)


def list_of(builder: Builder, items: Any = ()) -> Any:
    """``list(items)``."""
    if not isinstance(items, list | tuple):
        return NotImplemented
    builder.budget.spend(80 + 10 * len(items))
    return list(items)


def size(builder: Builder, items: Any = ()) -> Any:
    """``torch.Size(items)``: a plain tuple."""
    if not isinstance(items, list | tuple):
        return NotImplemented
    builder.budget.spend(64 + 8 * len(items))
    return tuple(items)


def set_of(builder: Builder, items: Any = ()) -> Any:
    """``set(items)``."""
    return builder.set_of(items) if isinstance(items, list | tuple | set) else NotImplemented


def frozenset_of(builder: Builder, items: Any = ()) -> Any:
    """``frozenset(items)``."""
    found = set_of(builder, items)
    return found if found is NotImplemented else frozenset(found)


def encoded(builder: Builder, text: Any, encoding: Any = "utf-8") -> Any:
    """``_codecs.encode(text, "latin1")``: how old protocols hold bytes."""
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1", "utf-8", "ascii"):
        return NotImplemented
    builder.budget.spend(64 + 2 * len(text))
    return text.encode(encoding)


def bytes_of(_builder: Builder, content: Any = ()) -> Any:
    """``bytes()``, ``bytes(content)``: how old protocols hold empty ones."""
    if not isinstance(content, bytes) and content != ():
        return NotImplemented
    return bytes(content)


def bytearray_of(builder: Builder, content: Any = (), encoding: Any = None) -> Any:
    """``bytearray(content)``, or of a text in latin-1."""
    if isinstance(content, memoryview):
        return content
    if isinstance(content, str) and encoding in ("latin1", "latin-1"):
        content = encoded(builder, content, encoding)
    if not isinstance(content, bytes) and content != ():
        return NotImplemented
    builder.budget.spend(80 + len(content))
    return bytearray(content)


def complex_of(builder: Builder, real: Any, imaginary: Any) -> Any:
    """``complex(real, imaginary)``."""
    builder.budget.spend(48)
    both = (real, imaginary)
    return complex(*both) if all(isinstance(part, int | float) for part in both) else NotImplemented


def slice_of(builder: Builder, start: Any, stop: Any, step: Any = None) -> Any:
    """``slice(start, stop, step)`` of numbers: of slices, Python's own hash takes for ever."""
    builder.budget.spend(64)
    plain = all(part is None or isinstance(part, int) for part in (start, stop, step))
    return slice(start, stop, step) if plain else NotImplemented


def range_of(builder: Builder, start: Any, stop: Any, step: Any = 1) -> Any:
    """``range(start, stop, step)``."""
    builder.budget.spend(160)
    numbers = all(isinstance(part, int) for part in (start, stop, step))
    return range(start, stop, step) if numbers else NotImplemented


def _copied(builder: Builder, pairs: dict[Any, Any]) -> dict[Any, Any]:
    builder.budget.spend(80 + COST_OF_PAIR * len(pairs))
    builder.keys.work += len(pairs)
    return dict(pairs)


Maker = Callable[..., Any]

MAKERS: dict[Global, Maker] = {
    Global("collections", "OrderedDict"): ordered_dict,
    Global("collections", "defaultdict"): default_dict,
    Global("collections", "Counter"): counter,
    Global("collections", "deque"): deque,
    Global("builtins", "set"): set_of,
    Global("builtins", "frozenset"): frozenset_of,
    Global("builtins", "bytes"): bytes_of,
    Global("builtins", "bytearray"): bytearray_of,
    Global("builtins", "complex"): complex_of,
    Global("builtins", "slice"): slice_of,
    Global("builtins", "range"): range_of,
    Global("_codecs", "encode"): encoded,
    Global("torch", "Size"): size,
}
