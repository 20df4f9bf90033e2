"""What the opcodes of pickles do that push plain values, or move what is on the stack.

They are those of protocols 0 to 5 (PEP 307, 3154 and 574); ``opcodes_built`` has the rest.
"""

from __future__ import annotations

import re
import struct

from luthier.errors import UnsupportedFileError
from luthier.files.limits import Broken
from luthier.files.pickles.machine import Machine, Stop, handlers

NEWEST_PROTOCOL = 5
_LONGEST_NUMBER = 4_300  # digits; reading a longer one takes time quadratic in its length

HANDLERS, _on = handlers()


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
    m.escape()
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
    m.position += 4
    m.put(int.from_bytes(m.content[m.position - 4 : m.position], "little"))


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
    m.position += 4
    m.get(int.from_bytes(m.content[m.position - 4 : m.position], "little"))


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
_ESCAPED = {
    b"n": b"\n",
    b"r": b"\r",
    b"t": b"\t",
    b"a": b"\a",
    b"b": b"\b",
    b"f": b"\f",
    b"v": b"\v",
}


def _unescaped(content: bytes) -> bytes:
    if b"\\" not in content:
        return content
    made, at = bytearray(), 0
    for found in _ESCAPE.finditer(content):
        made += content[at : found.start()]
        made += _escaped(found[1])
        at = found.end()
    made += content[at:]
    return bytes(made)


def _escaped(what: bytes) -> bytes:
    if what[:1] == b"x" and len(what) == 3:
        return bytes([int(what[1:], 16)])
    if what.isdigit() and what < b"8":
        return bytes([int(what, 8) & 255])
    return _ESCAPED.get(what, what if what in b"\\'\"" else b"\\" + what)


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
