"""What each opcode of the pickle protocols 0 to 5 does. The opcodes are those of PEP 3154 and 574."""

from __future__ import annotations

import re
import struct
from collections.abc import Callable
from typing import Any

from luthier.errors import UnsupportedFileError
from luthier.files import rebuild
from luthier.files.arrays import Unfinished
from luthier.files.containers import COST_OF_PAIR
from luthier.files.entries import Global, Name, Record, TensorEntry
from luthier.files.limits import Broken
from luthier.files.machine import Machine, Stop

NEWEST_PROTOCOL = 5
_LONGEST_NUMBER = 4_300  # digits; reading a longer one takes time quadratic in its length
_CONTAINER = (dict, list, set)

Handler = Callable[[Machine], None]
HANDLERS: list[Handler | None] = [None] * 256


def _on(code: bytes) -> Callable[[Handler], Handler]:
    def register(handler: Handler) -> Handler:
        HANDLERS[code[0]] = handler
        return handler

    return register


# --- the stack, the memo and the frame of it all


@_on(b"\x80")
def _protocol(m: Machine) -> None:
    protocol = m.number(1)
    if protocol > NEWEST_PROTOCOL:
        raise UnsupportedFileError(
            f"{m.builder.budget.name} is a pickle of protocol {protocol}; luthier reads up to"
            f" {NEWEST_PROTOCOL}"
        )


@_on(b"\x95")
def _frame(m: Machine) -> None:
    count = m.number(8)
    if count > len(m.content) - m.position:
        raise Broken(f"a frame of {count} bytes should follow, and the file ends before that")


@_on(b".")
def _stop(m: Machine) -> None:
    raise Stop(m.stack.pop())


@_on(b"(")
def _mark(m: Machine) -> None:
    m.mark()


@_on(b"0")
def _pop(m: Machine) -> None:
    if m.stack:
        m.stack.pop()
    else:
        m.since_mark()


@_on(b"1")
def _pop_mark(m: Machine) -> None:
    m.since_mark()


@_on(b"2")
def _dup(m: Machine) -> None:
    m.fresh = None
    m.stack.append(m.stack[-1])


@_on(b"p")
def _put(m: Machine) -> None:
    m.put(_whole(m.line()))


@_on(b"q")
def _binput(m: Machine) -> None:
    m.put(m.content[m.position])
    m.position += 1


@_on(b"r")
def _long_binput(m: Machine) -> None:
    m.put(m.number(4))


@_on(b"\x94")
def _memoize(m: Machine) -> None:
    m.put(m.puts)


@_on(b"g")
def _get(m: Machine) -> None:
    m.get(_whole(m.line()))


@_on(b"h")
def _binget(m: Machine) -> None:
    m.get(m.content[m.position])
    m.position += 1


@_on(b"j")
def _long_binget(m: Machine) -> None:
    m.get(m.number(4))


# --- numbers


@_on(b"N")
def _none(m: Machine) -> None:
    m.stack.append(None)


@_on(b"\x88")
def _true(m: Machine) -> None:
    m.stack.append(True)


@_on(b"\x89")
def _false(m: Machine) -> None:
    m.stack.append(False)


def _whole(line: bytes) -> int:
    if len(line) > _LONGEST_NUMBER:
        raise Broken(f"a number has {len(line)} digits, at most {_LONGEST_NUMBER} expected")
    return int(line)


@_on(b"I")
def _int(m: Machine) -> None:
    line = m.line()
    m.cost += 32 + len(line)
    m.stack.append(line == b"01" if line in (b"00", b"01") else _whole(line))


@_on(b"J")
def _binint(m: Machine) -> None:
    m.cost += 32
    m.stack.append(int.from_bytes(m.take(4), "little", signed=True))


@_on(b"K")
def _binint1(m: Machine) -> None:
    m.stack.append(m.content[m.position])
    m.position += 1


@_on(b"M")
def _binint2(m: Machine) -> None:
    m.cost += 32
    m.stack.append(m.number(2))


@_on(b"L")
def _long(m: Machine) -> None:
    line = m.line()
    m.cost += 32 + len(line)
    m.stack.append(_whole(line.removesuffix(b"L")))


def _push_long(m: Machine, count: int) -> None:
    m.charge(40 + count + count // 8)
    m.stack.append(int.from_bytes(m.take(count), "little", signed=True))


@_on(b"\x8a")
def _long1(m: Machine) -> None:
    _push_long(m, m.number(1))


@_on(b"\x8b")
def _long4(m: Machine) -> None:
    _push_long(m, m.number(4))


@_on(b"F")
def _float(m: Machine) -> None:
    m.cost += 24
    m.stack.append(float(m.line()))


_BIG_DOUBLE = struct.Struct(">d")


@_on(b"G")
def _binfloat(m: Machine) -> None:
    m.cost += 24
    m.stack.append(_BIG_DOUBLE.unpack(m.take(8))[0])


# --- texts and bytes


@_on(b"V")
def _unicode(m: Machine) -> None:
    line = m.line()
    m.charge(64 + 4 * len(line))
    m.stack.append(str(line, "raw-unicode-escape"))


@_on(b"X")
def _binunicode(m: Machine) -> None:
    m.stack.append(m.text(m.number(4)))


@_on(b"\x8c")
def _short_binunicode(m: Machine) -> None:
    m.stack.append(m.text(m.number(1)))


@_on(b"\x8d")
def _binunicode8(m: Machine) -> None:
    m.stack.append(m.text(m.number(8)))


def _of_python_2(m: Machine, content: bytes | memoryview) -> None:
    # Texts and bytes are one kind there: a text, if it can be one.
    m.charge(64 + 4 * len(content) if len(content) < 4096 else 4 * len(content))
    try:
        m.stack.append(str(content, "utf-8"))
    except UnicodeDecodeError:
        m.stack.append(content)


@_on(b"S")
def _string(m: Machine) -> None:
    line = m.line().rstrip(b"\r")
    if len(line) < 2 or line[:1] != line[-1:] or line[:1] not in b"'\"":
        raise Broken("a string has no quotes around it")
    _of_python_2(m, _unescaped(line[1:-1]))


_ESCAPE = re.compile(rb"\\(x[0-9a-fA-F]{2}|[0-7]{1,3}|.|$)", re.DOTALL)
_ESCAPED = {b"n": b"\n", b"r": b"\r", b"t": b"\t", b"a": b"\a", b"b": b"\b", b"f": b"\f", b"v": b"\v"}


def _unescaped(content: bytes) -> bytes:
    def one(found: re.Match[bytes]) -> bytes:
        what = found[1]
        if what[:1] == b"x" and len(what) == 3:
            return bytes([int(what[1:], 16)])
        if what.isdigit() and what < b"8":
            return bytes([int(what, 8) & 255])
        return _ESCAPED.get(what, what if what in (b"\\", b"'", b'"') else b"\\" + what)

    return _ESCAPE.sub(one, content) if b"\\" in content else content


def _push_string(m: Machine, count: int) -> None:
    content = m.binary(count)
    if type(content) is memoryview:
        m.stack.append(content)
    else:
        _of_python_2(m, content)


@_on(b"T")
def _binstring(m: Machine) -> None:
    _push_string(m, m.number(4))


@_on(b"U")
def _short_binstring(m: Machine) -> None:
    _push_string(m, m.number(1))


@_on(b"B")
def _binbytes(m: Machine) -> None:
    m.stack.append(m.binary(m.number(4)))


@_on(b"C")
def _short_binbytes(m: Machine) -> None:
    m.stack.append(m.binary(m.number(1)))


@_on(b"\x8e")
def _binbytes8(m: Machine) -> None:
    m.stack.append(m.binary(m.number(8)))


@_on(b"\x96")
def _bytearray8(m: Machine) -> None:
    content = m.binary(m.number(8))
    if type(content) is memoryview:
        m.stack.append(content)
        return
    m.charge(80 + len(content))
    m.stack.append(bytearray(content))


@_on(b"\x97")
@_on(b"\x98")
def _buffer(m: Machine) -> None:
    raise UnsupportedFileError(
        f"{m.builder.budget.name} is a pickle whose buffers were kept elsewhere (protocol 5, out of"
        " band): they are not in the file",
        cure="write it again without buffer_callback",
    )


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
    m.push_tuple(tuple(m.since_mark()))


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
    m.cost += 10
    _items_of(m.stack[-1]).append(value)


@_on(b"e")
def _appends(m: Machine) -> None:
    items = m.since_mark()
    m.charge(10 * len(items))
    _items_of(m.stack[-1]).extend(items)


def _items_of(holder: Any) -> list[Any]:
    if type(holder) is list:
        return holder
    if isinstance(holder, Record):
        return holder.items
    raise Broken(f"something is appended to a {type(holder).__name__}")


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
    m.charge((0 if holder else 130) + COST_OF_PAIR * (len(items) // 2))
    pairs = zip(items[::2], items[1::2], strict=True)
    if type(holder) is dict:
        admit, consumed = m.builder.keys.admit, m.position - m.start
        for key, value in pairs:
            holder[key if type(key) is str else admit(key, consumed)] = value
    elif isinstance(holder, Record):
        holder.pairs.extend(pairs)
    else:
        raise Broken(f"an item is set in a {type(holder).__name__}")


@_on(b"\x90")
def _add_items(m: Machine) -> None:
    items = m.since_mark()
    holder = m.stack[-1]
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
        m.gone(value)
    return found


@_on(b"\x82")
@_on(b"\x83")
@_on(b"\x84")
def _extension(m: Machine) -> None:
    raise UnsupportedFileError(
        f"{m.builder.budget.name} is a pickle with codes of copyreg's extension registry: what they"
        " stand for is not in the file"
    )
