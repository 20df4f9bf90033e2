"""The state of the inert pickle machine: its stack, memo and account."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from luthier.files.entries import Global, Name, TensorEntry
from luthier.files.limits import Broken
from luthier.files.pickles import rebuild, torch_names
from luthier.files.pickles.arrays import Unfinished
from luthier.files.pickles.containers import Builder

# Bytes from this size on stay where they lie, as a memoryview: whether they are the content of an
# array or a file inside is only known later. So do those that a call has as its only argument.
LARGE = 1 << 16
_ONLY_ARGUMENT = re.compile(b"(?:q.|r.{4}|\x94)?\x85", re.DOTALL)
_WORTH_A_LOOK = 4096  # costs from this on are checked before the memory is used
_COST_OF_MARK = 200
_COST_OF_PLACE = 120  # in the memo
_COST_OF_GLOBAL = 500
NEWLINE = re.compile(b"\n")
_WIDE = (
    (re.compile(b"[\xf0-\xff]"), 6),
    (re.compile(b"[\xc4-\xff]"), 3),
    (re.compile(b"[\x80-\xff]"), 2),
)

# Python 2's names of what Python 3 has elsewhere.
_MODULES = {"__builtin__": "builtins", "copy_reg": "copyreg", "exceptions": "builtins"}
_RENAMED = {"long": "int", "unicode": "str", "xrange": "range", "basestring": "str"}


_OBJECT = Global("builtins", "object")


class Stop(Exception):  # noqa: N818 - it is no error
    """The pickle is at its end."""


class Machine:
    """What the opcodes work on.

    Args:
        content: holds the pickle.
        start: where it begins.
        builder: makes the values.
        persistent: gives what a persistent id stands for.
        fetched: at each place of the memo, whether anything asks for it.
    """

    __slots__ = (
        "below",
        "builder",
        "content",
        "cost",
        "entered",
        "escapes",
        "fetched",
        "found",
        "fresh",
        "fresh_cost",
        "held",
        "known",
        "marks",
        "memo",
        "noted",
        "persistent",
        "position",
        "puts",
        "skipped",
        "stack",
        "start",
    )

    def __init__(
        self,
        content: bytes | memoryview,
        start: int,
        builder: Builder,
        persistent: Callable[[Any], Any] | None,
        fetched: bytearray,
    ) -> None:
        self.content = content
        self.start = self.position = start
        self.builder = builder
        self.persistent = persistent
        self.fetched = fetched
        self.stack: list[Any] = []
        self.below: list[list[Any]] = []  # the stacks under the marks
        self.marks: list[tuple[int, int]] = []  # cost and escapes at each mark
        self.held = 0  # what the stacks under the marks take
        self.memo: dict[int, Any] = {}
        self.puts = 0
        self.cost = 0  # of all that was made, less what is known to be gone
        self.entered = 0  # of it, what the budget knows
        self.escapes = 0  # how often something on the stack became reachable from elsewhere
        self.skipped = 0  # bytes that were not touched
        self.fresh: Any = None  # the last tuple, while only the stack refers to it
        self.fresh_cost = 0  # of it, and of what only it refers to
        self.found: dict[tuple[str, str], Global | Name] = {}
        # By id, which is quicker than by hash; ``found`` keeps them alive.
        self.known: dict[int, rebuild.Known | None] = {}
        self.noted: set[int] = set()  # whose call is in the list of calls

    def settle(self) -> None:
        """Enter in the budget what was made since the last time.

        Raises:
            DamagedError: it is over the limit.
        """
        self.builder.consumed = self.position - self.start
        budget, cost = self.builder.budget, self.cost - self.entered
        self.entered = self.cost
        budget.spend(cost)
        budget.check(self.builder.consumed - self.skipped + 9 * len(self.stack) + self.held)

    def charge(self, cost: int) -> None:
        """Add to the cost; what is large is looked at before it is made."""
        self.cost += cost
        if cost >= _WORTH_A_LOOK:
            self.settle()

    def take(self, count: int) -> bytes | memoryview:
        """Return the next ``count`` bytes."""
        start = self.position
        self.position = end = start + count
        if end > len(self.content):
            self.position = start
            raise Broken(f"{count} bytes should follow, and there are {len(self.content) - start}")
        return self.content[start:end]

    def number(self, count: int) -> int:
        """Return the next ``count`` bytes as an unsigned number."""
        return int.from_bytes(self.take(count), "little")

    def line(self) -> bytes:
        """Return what is before the next newline."""
        found = NEWLINE.search(self.content, self.position)
        if found is None:
            raise Broken("a line has no end")
        start, self.position = self.position, found.end()
        self.charge(found.start() - start)
        return bytes(self.content[start : found.start()])

    def text(self, count: int) -> str:
        """Return the next ``count`` bytes as a string."""
        content = self.take(count)
        if count >= _WORTH_A_LOOK:
            self.charge(64 + count * next((n for kind, n in _WIDE if kind.search(content)), 1))
            return str(content, "utf-8", "surrogatepass")
        text = str(content, "utf-8", "surrogatepass")
        self.cost += 64 + count if text.isascii() else 100 + 4 * len(text)
        return text

    def binary(self, count: int) -> bytes | memoryview:
        """Return the next ``count`` bytes; where they are many, where they lie."""
        content = self.take(count)
        if count >= LARGE or (count > 512 and _ONLY_ARGUMENT.match(self.content, self.position)):
            self.cost += 200
            self.skipped += count
            return memoryview(content) if type(content) is memoryview else self._window(count)
        self.charge(48 + count)
        return bytes(content)

    def _window(self, count: int) -> memoryview:
        return memoryview(self.content)[self.position - count : self.position]

    def mark(self) -> None:
        """Begin a new stack above the present one."""
        self.held += 8 * len(self.stack) + _COST_OF_MARK
        self.below.append(self.stack)
        self.marks.append((self.cost, self.escapes))
        self.stack = []

    def since_mark(self) -> list[Any]:
        """Return everything above the last mark, and take both away."""
        return self._unmarked()[0]

    def _unmarked(self) -> tuple[list[Any], int, bool]:
        """Return also what was spent since the mark, and whether all of it is still here alone."""
        items = self.stack
        if not self.below:
            raise Broken("a mark is missing")
        self.stack = self.below.pop()
        self.held -= 8 * len(self.stack) + _COST_OF_MARK
        cost, escapes = self.marks.pop()
        return items, self.cost - cost, escapes == self.escapes

    def push_tuple(self, items: tuple[Any, ...]) -> None:
        """Push a tuple that was made just now."""
        cost = 64 + 8 * len(items) if items else 0
        self.charge(cost)
        self.fresh, self.fresh_cost = items, cost
        self.stack.append(items)

    def push_marked_tuple(self) -> None:
        """Push the tuple of everything above the last mark."""
        items, cost, is_alone = self._unmarked()
        self.push_tuple(tuple(items))
        if is_alone:
            self.fresh_cost += cost

    def gone(self, values: tuple[Any, ...], with_content: bool) -> None:
        """Take a tuple off the account if nothing refers to it any more."""
        if values is self.fresh:
            self.cost -= self.fresh_cost if with_content else 64 + 8 * len(values) if values else 0
        self.fresh = None

    def escape(self) -> None:
        """Note that something on the stack may be reachable from elsewhere from now on."""
        self.escapes += 1
        self.fresh = None

    def put(self, place: int) -> None:
        """Remember the top of the stack, if anything asks for it later."""
        value = self.stack[-1]
        self.puts += 1
        if place >= len(self.fetched) or not self.fetched[place]:
            return
        self.cost += _COST_OF_PLACE
        self.memo[place] = value
        self.escape()
        if isinstance(value, Unfinished):
            value.places.append(place)

    def get(self, place: int) -> None:
        """Push what was remembered."""
        try:
            self.stack.append(self.memo[place])
        except KeyError:
            raise Broken(f"nothing was remembered at place {place}") from None

    def finish(self, value: Unfinished | TensorEntry, state: Any) -> None:
        """Put what a state completes in the place of what it was on the stack and in the memo."""
        if isinstance(value, TensorEntry):
            self.stack[-1] = rebuild.variable_state(value, state)
            return
        self.stack[-1] = done = value.finish(state)
        for place in value.places:
            if self.memo.get(place) is value:
                self.memo[place] = done

    def find(self, module: str, name: str) -> Global | Name:
        """Return a reference, or the value of torch that it stands for. Nothing is looked up."""
        found = self.found.get((module, name))
        if found is None:
            self.charge(_COST_OF_GLOBAL + 4 * (len(module) + len(name)))
            reference = Global(_MODULES.get(module, module), name)
            if module == "__builtin__":
                reference = Global("builtins", _RENAMED.get(name, name))
            self.builder.called.setdefault(reference, False)
            found = self.found[module, name] = torch_names.named(reference)
            self.known[id(found)] = rebuild.KNOWN.get(reference)
        return found

    def call(self, function: Any, values: Any) -> Any:
        """Return what a call gives, or the Record of it."""
        if type(values) is not tuple:
            raise Broken("the arguments of a call are no tuple")
        number = id(function)
        if number not in self.noted:
            self._note(function)
        known = self.known.get(number)
        made = NotImplemented if known is None else self._made(known, values)
        if made is NotImplemented:
            self.fresh = None
            return self._recorded(function, values)
        self.gone(values, known is not None and known.forgets)
        return made

    def _made(self, known: rebuild.Known, values: tuple[Any, ...]) -> Any:
        if not known.least <= len(values) <= known.most:
            return NotImplemented
        builder = self.builder
        builder.consumed = self.position - self.start
        before = builder.budget.spent
        made = known.make(builder, *values)
        if known.make is not rebuild.inner_file:  # its content lives on in what it gives
            spent = builder.budget.spent - before
            self.cost += spent
            self.entered += spent
        return made

    def new(self, kind: Any, values: Any, keywords: Any = ()) -> Any:
        """Return a new instance of a class, or the Record of it."""
        if type(values) is not tuple:
            raise Broken("the arguments of a call are no tuple")
        self._note(kind)
        self.fresh = None
        keywords = {} if keywords == () else keywords
        if not isinstance(keywords, dict):
            raise Broken("the keywords of a call are none")
        known = self.known.get(id(kind))
        if known is not None and not keywords:
            made = self._made(known, values)
            if made is not NotImplemented:
                return made
        return rebuild.record(self.builder, kind, values, keywords)

    def _recorded(self, function: Any, values: tuple[Any, ...]) -> Any:
        if isinstance(function, Global) and function.module == "copyreg":
            if function.name == "_reconstructor" and len(values) == 3:
                kind, base, state = values
                return self.new(kind, () if base == _OBJECT else (state,))
            if function.name == "__newobj__" and values:
                return self.new(values[0], values[1:])
            if function.name == "__newobj_ex__" and len(values) == 3:
                return self.new(*values)
        return rebuild.record(self.builder, function, values, is_call=True)

    def _note(self, function: Any) -> None:
        if isinstance(function, Name):
            function = Global("torch", function.value)
        if isinstance(function, Global):
            self.builder.called[function] = True
            if id(function) in self.known:
                self.noted.add(id(function))


Handler = Callable[[Machine], None]


def handlers() -> tuple[dict[int, Handler], Callable[[bytes], Callable[[Handler], Handler]]]:
    """Return a table of opcodes, empty, and the decorator that puts a handler into it."""
    table: dict[int, Handler] = {}

    def on(code: bytes) -> Callable[[Handler], Handler]:
        def register(handler: Handler) -> Handler:
            table[code[0]] = handler
            return handler

        return register

    return table, on
