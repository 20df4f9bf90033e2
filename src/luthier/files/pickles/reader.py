"""Pickles, read without running anything: an own machine that builds plain values and Records.

No class is looked up, no function called, no state set. What code would have built stays a Record
with its name, arguments and state.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from luthier.errors import DamagedError
from luthier.files.entries import Global
from luthier.files.limits import Broken, Budget
from luthier.files.pickles import opcodes, opcodes_built
from luthier.files.pickles.containers import Builder
from luthier.files.pickles.machine import NEWLINE, Machine, Stop

_STEPS = 1_000  # opcodes between two looks at the account


@dataclass(frozen=True)
class Unpickled:
    """What a pickle holds.

    Attributes:
        value: the tree (see ``entries``); storages of torch that are in it on their own are
            ``rebuild.Storage``, bytes of 64 KiB and more ``memoryview``.
        end: the position behind its last byte.
        globals: each class and function that it refers to, and whether it would have been called.
    """

    value: Any
    end: int
    globals: tuple[tuple[Global, bool], ...]


def read_pickle(
    content: bytes | memoryview,
    budget: Budget,
    persistent: Callable[[Any], Any] | None = None,
    start: int = 0,
) -> Unpickled:
    """Read the pickle (protocols 0 to 5) that begins at ``start``, and run nothing of it.

    Args:
        content: of the file, or of a part of it. Arrays in it stay where they are.
        budget: for the objects; its name is the file's.
        persistent: gives what a persistent id stands for: of torch, a ``rebuild.Storage``. It
            raises ``Broken`` for what it does not know.
        start: position of the first byte.

    Raises:
        DamagedError: it is truncated, contradicts itself, or is over a limit; with the position.
        UnsupportedFileError: it needs what no file holds, or a newer protocol.
    """
    machine = Machine(content, start, Builder(budget), persistent, _fetched(content, start))
    budget.check(len(machine.fetched))
    try:
        _run(machine)
    except Stop as stop:
        machine.settle()
        return Unpickled(stop.args[0], machine.position, tuple(machine.builder.called.items()))
    except Broken as error:
        raise _damaged(machine, str(error)) from error
    except IndexError as error:
        at_end = machine.position >= len(content)
        what = "it ends too early" if at_end else "it takes more from its stack than is there"
        raise _damaged(machine, what) from error
    except (ValueError, OverflowError) as error:
        raise _damaged(machine, f"a value cannot be read ({error})") from error
    raise AssertionError("the machine stops by an exception")


def _run(machine: Machine) -> None:
    content, handlers = machine.content, _HANDLERS
    while True:
        for _ in range(_STEPS):
            code = content[machine.position]
            machine.position += 1
            handlers[code](machine)
        machine.settle()


def _unknown(machine: Machine) -> None:
    machine.position -= 1
    code = machine.content[machine.position]
    raise Broken(f"there is no opcode {bytes([code])!r}")


_KNOWN = opcodes.HANDLERS | opcodes_built.HANDLERS
_HANDLERS = [_KNOWN.get(code, _unknown) for code in range(256)]


def _damaged(machine: Machine, what: str) -> DamagedError:
    return DamagedError(
        f"{machine.builder.budget.name} is truncated or damaged: at byte {machine.position} of its"
        f" pickle, {what}"
    )


# Opcodes and what follows them: nothing, or one, two, four or eight bytes.
_PLAIN = re.compile(
    rb"(?:[()012NRQabdelostu\]}\x81\x85-\x89\x8f-\x94\x97\x98]|[Kq\x80\x82].|[M\x83].{2}"
    rb"|[Jr\x84].{4}|[G\x95].{8})*+",
    re.DOTALL,
)
# A number of bytes, which follow it; lines; a place of the memo that is asked for.
_COUNTED = {
    code: width
    for width, codes in ((1, b"\x8cCU\x8a"), (4, b"XBT\x8b"), (8, b"\x8d\x8e\x96"))
    for code in codes
}
_LINES = dict.fromkeys(b"SVILFPp", 1) | dict.fromkeys(b"ci", 2)
_GETS = {ord("h"): 1, ord("j"): 4}
_GET_LINE = ord("g")


def _fetched(content: bytes | memoryview, start: int) -> bytearray:
    """Tell, place by place, whether a pickle asks its memo for it.

    Picklers remember nearly everything and ask for little of it: what is not kept needs no memory.
    Where the pickle is damaged this ends; the machine, which meets the same bytes, says so.
    """
    found = bytearray()
    position, size = start, len(content)
    while True:
        plain = _PLAIN.match(content, position)
        position = plain.end() if plain else size
        if position >= size:
            return found
        code, position = content[position], position + 1
        if code in _GETS:
            position += _GETS[code]
            place = int.from_bytes(content[position - _GETS[code] : position], "little")
            _ask(found, place, position - start)
        elif code in _COUNTED:
            position += _COUNTED[code]
            count = int.from_bytes(content[position - _COUNTED[code] : position], "little")
            position = min(position + count, size)
        elif code in _LINES:
            position = _behind_lines(content, position, _LINES[code])
        elif code == _GET_LINE:
            line = bytes(content[position : position + 20]).partition(b"\n")[0]
            position += len(line) + 1
            _ask(found, int(line) if line.isdigit() else 0, position - start)
        else:
            return found


def _ask(found: bytearray, place: int, consumed: int) -> None:
    # A place far beyond what can have been filled so far would only cost memory.
    if len(found) <= place < 4 * consumed + 1024:
        found.extend(bytes(place + 1 + place // 8 - len(found)))
    if place < len(found):
        found[place] = 1


def _behind_lines(content: bytes | memoryview, position: int, count: int) -> int:
    for _ in range(count):
        newline = NEWLINE.search(content, position)
        position = newline.end() if newline else len(content)
    return position
