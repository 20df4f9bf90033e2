"""What the opcodes of pickles do that fill containers, or would import and call something."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from luthier.errors import UnsupportedFileError
from luthier.files.entries import Global, Name, Record, TensorEntry
from luthier.files.limits import Broken
from luthier.files.pickles import rebuild
from luthier.files.pickles.arrays import Unfinished
from luthier.files.pickles.containers import COST_OF_PAIR
from luthier.files.pickles.machine import Machine, handlers

HANDLERS, _on = handlers()


# --- containers


@_on(b"]")
def _empty_list(m: Machine) -> None:
    m.cost += 80
    m.stack.append([])


@_on(b"}")
def _empty_dict(m: Machine) -> None:
    m.cost += 80
    m.stack.append({})


@_on(b"\x8f")
def _empty_set(m: Machine) -> None:
    m.cost += 240
    m.stack.append(set())


@_on(b")")
def _empty_tuple(m: Machine) -> None:
    m.stack.append(())


@_on(b"\x85")
def _tuple1(m: Machine) -> None:
    m.push_tuple((m.stack.pop(),))


@_on(b"\x86")
def _tuple2(m: Machine) -> None:
    second = m.stack.pop()
    m.push_tuple((m.stack.pop(), second))


@_on(b"\x87")
def _tuple3(m: Machine) -> None:
    third, second = m.stack.pop(), m.stack.pop()
    m.push_tuple((m.stack.pop(), second, third))


@_on(b"t")
def _tuple(m: Machine) -> None:
    m.push_marked_tuple()


@_on(b"l")
def _list(m: Machine) -> None:
    items = m.since_mark()
    m.charge(80 + 10 * len(items))
    m.stack.append(items)


@_on(b"d")
def _dict(m: Machine) -> None:
    items = m.since_mark()
    m.cost += 80
    made: dict[Any, Any] = {}
    m.stack.append(made)
    _set_items(m, made, items)


@_on(b"\x91")
def _frozenset(m: Machine) -> None:
    items = m.since_mark()
    m.stack.append(frozenset(_admitted(m, items)))


def _admitted(m: Machine, items: list[Any]) -> set[Any]:
    m.settle()
    return m.builder.set_of(items)


@_on(b"a")
def _append(m: Machine) -> None:
    value = m.stack.pop()
    _extend(m, m.stack[-1], (value,))


@_on(b"e")
def _appends(m: Machine) -> None:
    items = m.since_mark()
    _extend(m, m.stack[-1], items)


def _extend(m: Machine, holder: Any, items: Sequence[Any]) -> None:
    if isinstance(holder, Record):
        holder = holder.items
    elif type(holder) is not list:
        raise Broken(f"something is appended to a {type(holder).__name__}")
    before = holder.__sizeof__()
    holder.extend(items)
    m.escapes += 1
    m.charge(holder.__sizeof__() - before)


@_on(b"s")
def _set_item(m: Machine) -> None:
    value, key = m.stack.pop(), m.stack.pop()
    _set_items(m, m.stack[-1], [key, value])


@_on(b"u")
def _set_all_items(m: Machine) -> None:
    items = m.since_mark()
    _set_items(m, m.stack[-1], items)


def _set_items(m: Machine, holder: Any, items: list[Any]) -> None:
    if len(items) % 2:
        raise Broken("a key has no value")
    m.escapes += 1
    pairs = zip(items[::2], items[1::2], strict=True)
    if type(holder) is dict:
        before = holder.__sizeof__()
        admit, consumed = m.builder.keys.admit, m.position - m.start
        for key, value in pairs:
            holder[key if type(key) is str else admit(key, consumed)] = value
        m.charge(holder.__sizeof__() - before)
    elif isinstance(holder, Record):
        m.charge(COST_OF_PAIR * (len(items) // 2))
        holder.pairs.extend(pairs)
    else:
        raise Broken(f"an item is set in a {type(holder).__name__}")


@_on(b"\x90")
def _add_items(m: Machine) -> None:
    items = m.since_mark()
    holder = m.stack[-1]
    m.escapes += 1
    if type(holder) is set:
        holder |= _admitted(m, items)
    elif isinstance(holder, Record):
        m.charge(10 * len(items))
        holder.items.extend(items)
    else:
        raise Broken(f"an item is added to a {type(holder).__name__}")


# --- what would have been imported and called


@_on(b"c")
def _global(m: Machine) -> None:
    module, name = m.line(), m.line()
    m.stack.append(m.find(str(module, "utf-8"), str(name, "utf-8")))


@_on(b"\x93")
def _stack_global(m: Machine) -> None:
    name, module = m.stack.pop(), m.stack.pop()
    if type(name) is not str or type(module) is not str:
        raise Broken("the name of a class or function is no text")
    m.stack.append(m.find(module, name))


@_on(b"R")
def _reduce(m: Machine) -> None:
    values = m.stack.pop()
    m.stack[-1] = m.call(m.stack[-1], values)


@_on(b"\x81")
def _new_object(m: Machine) -> None:
    values = m.stack.pop()
    m.stack[-1] = m.new(m.stack[-1], values)


@_on(b"\x92")
def _new_object_with_keywords(m: Machine) -> None:
    keywords, values = m.stack.pop(), m.stack.pop()
    m.stack[-1] = m.new(m.stack[-1], values, keywords)


@_on(b"i")
def _instance(m: Machine) -> None:
    module, name = m.line(), m.line()
    values = m.since_mark()
    m.charge(64 + 8 * len(values))
    m.stack.append(m.new(m.find(str(module, "utf-8"), str(name, "utf-8")), tuple(values)))


@_on(b"o")
def _object(m: Machine) -> None:
    values = m.since_mark()
    if not values:
        raise Broken("an object has no class")
    m.charge(64 + 8 * len(values))
    m.stack.append(m.new(values[0], tuple(values[1:])))


@_on(b"b")
def _build(m: Machine) -> None:
    state = m.stack.pop()
    value = m.stack[-1]
    m.escapes += 1
    if isinstance(value, Unfinished | TensorEntry):
        m.builder.consumed = m.position - m.start
        m.finish(value, state)
    elif isinstance(value, Record):
        value.state = state
    elif isinstance(value, Global | Name) or value is None:
        raise Broken("a state is given to what is no object")
    # What else a container or plain value was given, such as _metadata of a state_dict, is left.


@_on(b"P")
def _persistent_text(m: Machine) -> None:
    m.stack.append(_persistent(m, str(m.line(), "utf-8")))


@_on(b"Q")
def _persistent_value(m: Machine) -> None:
    m.stack.append(_persistent(m, m.stack.pop()))


def _persistent(m: Machine, value: Any) -> Any:
    if m.persistent is None:
        m.fresh = None
        return rebuild.record(m.builder, Global("pickle", "persistent_load"), (value,), {}, True)
    found = m.persistent(value)
    if type(value) is tuple:
        m.gone(value, with_content=True)
    return found


@_on(b"\x82")
@_on(b"\x83")
@_on(b"\x84")
def _extension(m: Machine) -> None:
    raise UnsupportedFileError(
        f"{m.builder.budget.name} is a pickle with codes of copyreg's extension registry: what they"
        " stand for is not in the file"
    )
