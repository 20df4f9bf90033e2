"""Naming schemes side by side, as data: which name of one is which of the other. Pure.

A file of rules is TOML::

    title = "efficientnet_pytorch and timm"
    names = ["efficientnet_pytorch", "timm"]

    [[rules]]
    under = ["_blocks.{n}.", "blocks.{stage}.{block}."]
    having = ["_expand_conv.weight", "conv_pwl.weight"]
    pairs = [["_expand_conv.*", "conv_pw.*"]]

``{n}`` stands for a number and ``*``, once in a name, for one or more components. ``{n+1}`` and
``{2*n}`` shift and stretch. A number that only one side has is paired by order: the blocks of
both sides, counted through. ``having`` and ``lacking`` choose among blocks by a member.
Several names for one are put together along the first dimension. ``optional`` says that one
side may be without them (a head); ``reshape`` that the shapes may differ where the elements do
not. The rules are read in order, and the first that a name fits is the one. Both directions
follow from the same lines.
"""

from __future__ import annotations

import functools
import importlib.resources
import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from luthier.errors import RecipeError, nearest

_PIECE = re.compile(r"\{(?:(?P<factor>\d+)\*)?(?P<name>[a-z]+)(?:\+(?P<shift>\d+))?\}|\*")
_KEYS = ("under", "having", "lacking", "pairs", "optional", "reshape")
_LEAF_NOISE = "num_batches_tracked"

Numbers = tuple[tuple[str, int], ...]


@dataclass(frozen=True)
class Link:
    """A tensor of one scheme and the tensor or tensors of the other that it is.

    Attributes:
        many: names on the first side: one, or several that are put together.
        one: the name on the second side.
        reshape: the shapes may differ.
        optional: it belongs to what one side may be without.
    """

    many: tuple[str, ...]
    one: str
    reshape: bool = False
    optional: bool = False


@dataclass(frozen=True)
class Joined:
    """The names of two sides that a rule set brings together.

    Attributes:
        links: those that have a partner.
        alone: for each side the names that a rule fits and that have none, optional ones aside.
    """

    links: tuple[Link, ...]
    alone: tuple[tuple[str, ...], tuple[str, ...]]


@dataclass(frozen=True)
class _Found:
    """What a name is: which line, which number, what stands for the star."""

    line: int
    part: int
    rest: str
    numbers: Numbers


class _Pattern:
    """One name of a scheme with its placeholders."""

    def __init__(self, under: str, member: str) -> None:
        self._arithmetic: dict[str, tuple[int, int]] = {}
        head, tail = self._compiled(under), self._compiled(member)
        self._regex = re.compile(f"(?P<under_>{head}){tail}")

    def _compiled(self, text: str) -> str:
        out, at = [], 0
        for piece in _PIECE.finditer(text):
            out.append(re.escape(text[at : piece.start()]))
            at = piece.end()
            if piece[0] == "*":
                out.append("(?P<rest_>.+)")
                continue
            name = piece["name"]
            self._arithmetic[name] = int(piece["factor"] or 1), int(piece["shift"] or 0)
            out.append(rf"(?P<{name}>\d{{1,9}})")
        return "".join([*out, re.escape(text[at:])])

    @property
    def names(self) -> frozenset[str]:
        return frozenset(self._arithmetic)

    @property
    def source(self) -> str:
        """Return the expression without its names, for one that finds any of many."""
        return re.sub(r"\(\?P<\w+>", "(?:", self._regex.pattern)

    def read(self, name: str) -> tuple[str, str, Numbers] | None:
        """Return (what stands before the member, the star, the numbers), or None."""
        found = self._regex.fullmatch(name)
        if found is None:
            return None
        values = found.groupdict()
        numbers = []
        for key, (factor, shift) in self._arithmetic.items():
            value, odd = divmod(int(values[key]) - shift, factor)
            if odd or value < 0:
                return None
            numbers.append((key, value))
        return values["under_"], values.get("rest_") or "", tuple(numbers)


@dataclass(frozen=True)
class _Line:
    """A pair of a rule: patterns of both sides, and where it holds."""

    sides: tuple[tuple[_Pattern, ...], tuple[_Pattern, ...]]
    under: tuple[str, str]
    having: tuple[str, str] | None
    lacking: tuple[str, str] | None
    optional: bool
    reshape: bool

    def holds(self, side: int, before: str, names: frozenset[str] | Mapping[str, Any]) -> bool:
        has = self.having is None or before + self.having[side] in names
        return has and not (self.lacking and before + self.lacking[side] in names)

    def shared(self) -> frozenset[str]:
        return self.sides[0][0].names & self.sides[1][0].names

    def counting(self) -> tuple[Any, ...]:
        """Return what lines have in common whose one-sided numbers are counted together."""
        return self.under, self.sides[0][0].names, self.sides[1][0].names


class RuleSet:
    """Two naming schemes side by side.

    Attributes:
        title: what to call it.
        names: of the two schemes.
    """

    def __init__(self, content: Mapping[str, Any], source: str) -> None:
        try:
            self.title = str(content["title"])
            first, second = content["names"]
            self.names = str(first), str(second)
            self._lines = [line for rule in content["rules"] for line in _lines(rule)]
        except (KeyError, TypeError, ValueError, re.error) as error:
            raise RecipeError(
                f"rules {source}: {type(error).__name__}: {error}",
                cure='expected title = "…", names = ["…", "…"] and [[rules]] with'
                ' pairs = [["…", "…"], …]',
            ) from error
        self._any = [
            re.compile("|".join(p.source for line in self._lines for p in line.sides[side]))
            for side in (0, 1)
        ]

    def fits(self, side: int, name: str) -> bool:
        """Tell whether a name has the form of one of the side's."""
        return self._any[side].fullmatch(name) is not None

    def join(self, first: Iterable[str], second: Iterable[str]) -> Joined:
        """Bring together the names of two sides.

        Args:
            first: names in the first scheme.
            second: names in the second.
        """
        found = [self._read(side, list(names)) for side, names in enumerate((first, second))]
        ranks = [self._ranks(found[side]) for side in (0, 1)]
        many: dict[tuple[Any, ...], dict[int, str]] = {}
        for name, what in found[0].items():
            many.setdefault(self._key(what, ranks[0]), {})[what.part] = name
        links = []
        for name, what in found[1].items():
            line, parts = self._lines[what.line], many.get(self._key(what, ranks[1]), {})
            if len(parts) == len(line.sides[0]):
                sources = tuple(parts[index] for index in range(len(parts)))
                links.append(Link(sources, name, line.reshape, line.optional))
        return Joined(tuple(links), self._alone(found, links))

    def _read(self, side: int, names: Sequence[str]) -> dict[str, _Found]:
        known = dict.fromkeys(names)
        return {name: what for name in names if (what := self._which(side, name, known))}

    def _which(self, side: int, name: str, known: Mapping[str, Any]) -> _Found | None:
        if not self.fits(side, name):
            return None
        for index, line in enumerate(self._lines):
            for part, pattern in enumerate(line.sides[side]):
                read = pattern.read(name)
                if read is not None and line.holds(side, read[0], known):
                    return _Found(index, part, *read[1:])
        return None

    def _ranks(self, found: Mapping[str, _Found]) -> dict[tuple[Any, ...], int]:
        """Number what only one side numbers: (where, shared numbers, own numbers) → rank."""
        own: dict[tuple[Any, ...], set[Numbers]] = {}
        for what in found.values():
            line = self._lines[what.line]
            shared, alone = _parted(what.numbers, line.shared())
            own.setdefault((line.counting(), shared), set()).add(alone)
        return {
            (*place, alone): rank
            for place, values in own.items()
            for rank, alone in enumerate(sorted(values))
        }

    def _key(self, what: _Found, ranks: Mapping[tuple[Any, ...], int]) -> tuple[Any, ...]:
        line = self._lines[what.line]
        shared, alone = _parted(what.numbers, line.shared())
        return what.line, shared, what.rest, ranks[line.counting(), shared, alone]

    def _alone(
        self, found: Sequence[Mapping[str, _Found]], links: Sequence[Link]
    ) -> tuple[tuple[str, ...], tuple[str, ...]]:
        paired = ({n for link in links for n in link.many}, {link.one for link in links})
        return tuple(  # type: ignore[return-value]
            tuple(
                name
                for name, what in found[side].items()
                if name not in paired[side]
                and not self._lines[what.line].optional
                and not name.endswith(_LEAF_NOISE)
            )
            for side in (0, 1)
        )


def _parted(numbers: Numbers, shared: frozenset[str]) -> tuple[Numbers, Numbers]:
    both = tuple(sorted(item for item in numbers if item[0] in shared))
    return both, tuple(item for item in numbers if item[0] not in shared)


def _lines(rule: Mapping[str, Any]) -> list[_Line]:
    for key in rule:
        if key not in _KEYS:
            raise ValueError(f"unknown key {key!r}{nearest(key, _KEYS)}")
    under = _two(rule.get("under", ["", ""]))
    lines = []
    for pair in rule["pairs"]:
        many, one = pair
        names = [many] if isinstance(many, str) else list(many)
        lines.append(
            _Line(
                sides=(
                    tuple(_Pattern(under[0], name) for name in names),
                    (_Pattern(under[1], one),),
                ),
                under=under,
                having=_two(rule["having"]) if "having" in rule else None,
                lacking=_two(rule["lacking"]) if "lacking" in rule else None,
                optional=bool(rule.get("optional", False)),
                reshape=bool(rule.get("reshape", False)),
            )
        )
    return lines


def _two(value: Any) -> tuple[str, str]:
    first, second = value
    return str(first), str(second)


def read_rules(path: Path) -> RuleSet:
    """Read a rule set of the caller's own.

    Raises:
        RecipeError: the file does not exist or holds no rules.
    """
    try:
        return RuleSet(tomllib.loads(path.read_text(encoding="utf-8")), str(path))
    except FileNotFoundError:
        raise RecipeError(f"rules {path}: there is no such file") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise RecipeError(f"rules {path}: not TOML: {error}") from error


@functools.cache
def built_in() -> tuple[RuleSet, ...]:
    """Return the rule sets that come with luthier, in the order of their names."""
    folder = importlib.resources.files("luthier.adapt").joinpath("schemes")
    files = sorted((f for f in folder.iterdir() if f.name.endswith(".toml")), key=lambda f: f.name)
    return tuple(RuleSet(tomllib.loads(f.read_text(encoding="utf-8")), f.name) for f in files)
