"""The catalogue of errors: one table an area, words in every language, checks in Python.

An entry of ``entries/AREA.toml``:

    [module-prefix]
    raises = ["RuntimeError"]              # classes, without their modules
    message = 'regular expression'         # searched in the message; its named groups are facts
    calls = ["MODEL.load_state_dict(STATE)"]  # how the user's own names are found; they are facts
    check = "prefixed"                     # function of checks/AREA.py: Case → facts, or None: it
                                           # is not this
    code = '''lines with {places} for facts'''
    [module-prefix.en]                     # and .zh: each a sentence, or several of which the
    cause = "…"                            # first counts whose facts are all known
    checked = ["…"]                        # each of these whose facts are all known
    cure = "…"

Entries are tried in the order of ``AREAS`` and within a table; the first that fits is it.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.resources
import re
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from luthier.explanations.names import bind
from luthier.explanations.values import Case, Explanation, Fact, Facts, Here, Raised
from luthier.language import LANGUAGES, Language, fill

AREAS = ("loading", "devices", "data", "tensors", "training")
PAGE = "docs/errors.md"
_LONGEST = 120  # characters of a line of code that is shown
Check = Callable[[Case], Facts | None]


@dataclass(frozen=True)
class Words:
    """An entry in one language; sentences have places for facts.

    Attributes:
        cause: of these, the first whose facts are known.
        checked: those whose facts are known.
        cure: as of the cause.
    """

    cause: tuple[str, ...]
    checked: tuple[str, ...]
    cure: tuple[str, ...]


@dataclass(frozen=True)
class Entry:
    """An error that is known.

    Attributes:
        name: of the entry, and of its place in the documentation.
        area: the table that it stands in.
        raises: classes of the error, without their modules.
        message: what its message matches.
        calls: calls in which the user's names stand; see ``names.bind``.
        check: whether a case is this error, and more facts.
        code: lines that end it, alternatives as of a sentence.
        words: by language.
    """

    name: str
    area: str
    raises: frozenset[str]
    message: re.Pattern[str]
    calls: tuple[str, ...]
    check: Check | None
    code: tuple[str, ...]
    words: Mapping[str, Words]


def explain(
    errors: Sequence[Raised],
    language: Language = "en",
    here: Here | None = None,
    live: Sequence[tuple[Mapping[str, Fact], ...]] = (),
) -> Explanation | None:
    """Return the explanation of an error, or None where it is not known.

    Args:
        errors: the error, then its causes: the first that is known is explained.
        language: of the sentences.
        here: the machine, as far as it is known.
        live: for each error the variables of its frames, where the program still runs.
    """
    for number, raised in enumerate(errors):
        if _is_by_hand(raised):
            continue
        variables = live[number] if number < len(live) else ()
        case = Case(raised, {}, here or Here(), variables, tuple(errors[number + 1 :]))
        for entry in entries():
            found = None
            with contextlib.suppress(Exception):  # one that cannot be read is not this one
                found = explained(entry, case, language)
            if found is not None:
                return found
    return None


@functools.cache
def labels(language: Language) -> Mapping[str, str]:
    """Return the words around an explanation: for its parts, and where there is none."""
    found: Mapping[str, str] = _read("words.toml")[language]
    return found


@functools.cache
def entries() -> tuple[Entry, ...]:
    """Return all entries, in the order in which they are tried."""
    return tuple(entry for area in AREAS for entry in _table(area))


def _is_by_hand(raised: Raised) -> bool:
    """Return whether a line of the user's raised it, with whatever words."""
    last = raised.innermost
    return last is not None and not last.is_library and last.raises


def explained(entry: Entry, case: Case, language: Language) -> Explanation | None:
    """Return the explanation of an error by an entry, or None where it is another's."""
    raised, here = case.raised, case.here
    if raised.name not in entry.raises:
        return None
    said = entry.message.search(raised.message)
    if said is None:
        return None
    found = {name: value for name, value in said.groupdict().items() if value is not None}
    more = {} if entry.check is None else entry.check(replace(case, found=found))
    if more is None:
        return None
    known = {name: value for name, value in vars(here).items() if value is not None}
    facts = known | bind(entry.calls, raised.frames) | found | dict(more)
    words = entry.words[language]
    cause, cure = fill(words.cause, facts), fill(words.cure, facts)
    if cause is None or cure is None:
        return None
    checked = tuple(t for s in words.checked if (t := fill(s, facts)) is not None)
    checked = checked or (_evidence(raised, language),)
    code = fill(entry.code, facts) or ""
    return Explanation(
        entry.name, cause, checked, cure, code.strip("\n"), f"{PAGE}#{entry.name}", labels(language)
    )


def _evidence(raised: Raised, language: Language) -> str:
    """Return by what an error is known where nothing more was looked at: its calls or its words."""
    line, last = raised.line, raised.innermost
    facts = {"line": line and line[:_LONGEST]}
    if last is not None and last.is_library:
        place = re.split(r"(?:site|dist)-packages/|/lib/python3[^/]*/", last.file)[-1]
        facts |= {"place": place, "function": last.function}
        kinds = ("called", "raised")
    else:
        kinds = ("compiled", "alone")
    return fill([labels(language)[kind] for kind in kinds], facts) or ""


def _table(area: str) -> list[Entry]:
    table = _read(f"entries/{area}.toml")
    checks = importlib.import_module(f"luthier.explanations.checks.{area}")
    return [
        Entry(
            name=name,
            area=area,
            raises=frozenset(told["raises"]),
            message=re.compile(told["message"], re.MULTILINE),
            calls=tuple(told.get("calls", ())),
            check=getattr(checks, told["check"]) if "check" in told else None,
            code=_several(told.get("code", ())),
            words={
                language: Words(
                    _several(told[language]["cause"]),
                    _several(told[language].get("checked", ())),
                    _several(told[language]["cure"]),
                )
                for language in LANGUAGES
            },
        )
        for name, told in table.items()
    ]


def _read(name: str) -> Mapping[str, Any]:
    folder = importlib.resources.files("luthier.explanations")
    return tomllib.loads(folder.joinpath(name).read_text(encoding="utf-8"))


def _several(sentences: str | Sequence[str]) -> tuple[str, ...]:
    return (sentences,) if isinstance(sentences, str) else tuple(sentences)
