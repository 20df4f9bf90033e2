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
_TOP = ("title", "names", "rules")
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
        try:
            self._regex = re.compile(f"(?P<under_>{head}){tail}")
        except re.error as error:  # a group of the same name
            raise ValueError(f"{under + member!r} has a number or a * twice") from error

    def _compiled(self, text: str) -> str:
        out, at = [], 0
        for piece in _PIECE.finditer(text):
            out.append(_literal(text[at : piece.start()], text))
            at = piece.end()
            if piece[0] == "*":
                out.append("(?P<rest_>.+)")
                continue
            name = piece["name"]
            self._arithmetic[name] = int(piece["factor"] or 1), int(piece["shift"] or 0)
            if not self._arithmetic[name][0]:
                raise ValueError(f"{piece[0]} in {text!r} is the same for all numbers")
            out.append(rf"(?P<{name}>\d{{1,9}})")
        return "".join([*out, _literal(text[at:], text)])

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


def _literal(part: str, whole: str) -> str:
    if "{" in part or "}" in part:
        raise ValueError(f"{whole!r} has a brace that is no number such as {{n}} or {{n+1}}")
    return re.escape(part)


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
            _check_keys(content, _TOP)
            self.title = _text(content["title"])
            self.names = _two(content["names"], "names")
            self._lines = _all_lines(content["rules"])
        except (KeyError, TypeError, ValueError) as error:
            what = f"there is no {error}" if isinstance(error, KeyError) else error
            raise RecipeError(
                f"rules {source}: {what}",
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


def _all_lines(rules: Any) -> list[_Line]:
    if not isinstance(rules, list) or not rules:
        raise ValueError("there are no [[rules]]")
    found: list[_Line] = []
    for number, rule in enumerate(rules, 1):
        try:
            found += _lines(rule)
        except KeyError as error:
            raise ValueError(f"rule {number}: there is no {error}") from error
        except ValueError as error:
            raise ValueError(f"rule {number}: {error}") from error
    return found


def _lines(rule: Mapping[str, Any]) -> list[_Line]:
    _check_keys(rule, _KEYS)
    under = _two(rule.get("under", ["", ""]), "under")
    lines = []
    for pair in rule["pairs"]:
        if not isinstance(pair, list) or len(pair) != 2 or pair[0] == []:
            raise ValueError(f"{pair!r} is no pair")
        many, one = pair
        names = many if isinstance(many, list) else [many]
        _check_stars(under, [*names, one])
        lines.append(
            _Line(
                sides=(
                    tuple(_Pattern(under[0], name) for name in names),
                    (_Pattern(under[1], one),),
                ),
                under=under,
                having=_two(rule["having"], "having") if "having" in rule else None,
                lacking=_two(rule["lacking"], "lacking") if "lacking" in rule else None,
                optional=_flag(rule, "optional"),
                reshape=_flag(rule, "reshape"),
            )
        )
    return lines


def _check_keys(given: Mapping[str, Any], known: Sequence[str]) -> None:
    for key in given:
        if key not in known:
            raise ValueError(f"unknown key {key!r}{nearest(key, known)}")


def _check_stars(under: Sequence[str], names: Sequence[Any]) -> None:
    if any(map(_stars, under)):
        raise ValueError(f"a * in under, {list(under)}; it stands in pairs")
    if len({_stars(_text(name)) for name in names}) > 1:
        raise ValueError(f"a * on one side only: {names}")


def _stars(text: str) -> int:
    return sum(piece[0] == "*" for piece in _PIECE.finditer(text))


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{value!r} is no text")
    return value


def _two(value: Any, key: str) -> tuple[str, str]:
    if not isinstance(value, list) or len(value) != 2:
        raise ValueError(f"{key} is {value!r}, expected two texts, one of each side")
    return _text(value[0]), _text(value[1])


def _flag(rule: Mapping[str, Any], key: str) -> bool:
    value = rule.get(key, False)
    if not isinstance(value, bool):
        raise ValueError(f"{key} is {value!r}, expected true or false")
    return value


def read_rules(path: Path) -> RuleSet:
    """Read a rule set of the caller's own.

    Raises:
        RecipeError: the file does not exist or holds no rules.
    """
    try:
        return RuleSet(tomllib.loads(path.read_text(encoding="utf-8")), str(path))
    except FileNotFoundError:
        raise RecipeError(f"rules {path}: there is no such file") from None
    except OSError as error:
        raise RecipeError(f"rules {path} cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise RecipeError(f"rules {path}: not TOML: {error}") from error


@functools.cache
def built_in() -> tuple[RuleSet, ...]:
    """Return the rule sets that come with luthier, in the order of their names."""
    folder = importlib.resources.files("luthier.adapt").joinpath("schemes")
    files = sorted((f for f in folder.iterdir() if f.name.endswith(".toml")), key=lambda f: f.name)
    return tuple(RuleSet(tomllib.loads(f.read_text(encoding="utf-8")), f.name) for f in files)
