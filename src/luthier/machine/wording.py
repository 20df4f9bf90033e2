"""Findings → sentences in a person's language, and shell commands, by the table ``words.toml``."""

from __future__ import annotations

import functools
import importlib.resources
import shlex
import tomllib
from collections.abc import Mapping, Sequence
from typing import Any

from luthier.language import Language, fill
from luthier.machine.findings import Finding, Level

_MIB, _GIB = 2**20, 2**30


@functools.cache
def table() -> Mapping[str, Any]:
    """Return the table of all words."""
    text = importlib.resources.files("luthier.machine").joinpath("words.toml").read_text("utf-8")
    return tomllib.loads(text)


def frame(name: str, language: Language, **facts: object) -> str:
    """Return a sentence that belongs to no finding."""
    return fill(table()["frame"][name][language], facts) or ""


def topic(name: str, language: Language) -> str:
    """Return a heading."""
    return str(table()["topics"][name][language])


def level(name: Level, language: Language) -> str:
    """Return the word for a level."""
    return str(table()["levels"][name][language])


def title(finding: Finding, language: Language) -> str:
    """Return the name of what was checked."""
    return str(table()["checks"][finding.name]["title"][language])


def text(finding: Finding, language: Language) -> str:
    """Return what was found."""
    return fill(_entry(finding)[language], _told(finding.facts, language)) or finding.state


def cure(finding: Finding, language: Language) -> str | None:
    """Return what can be done about it; None of what is as it should be."""
    sentences = _entry(finding).get("cure")
    return None if sentences is None else fill(sentences[language], _told(finding.facts, language))


def fix(finding: Finding) -> str | None:
    """Return a shell command that would cure it, or says more; None where there is none."""
    command = _entry(finding).get("fix")
    return None if command is None else fill(command, _quoted(finding.facts))


def _entry(finding: Finding) -> Mapping[str, Any]:
    own = table()["checks"][finding.name].get(finding.state)
    entry: Mapping[str, Any] = table()["unchecked"][finding.state] if own is None else own
    return entry


def _told(facts: Mapping[str, object], language: Language) -> dict[str, object]:
    return {name: _said(name, value, language) for name, value in facts.items()}


def _said(name: str, value: object, language: Language) -> object:
    if isinstance(value, tuple):
        return str(table()["frame"]["join"][language]).join(map(str, value))
    if isinstance(value, int) and name.endswith("_bytes"):
        return size(value)
    return value


def size(nbytes: int) -> str:
    """Return a number of bytes such as ``"64 MiB"``."""
    return f"{nbytes / _GIB:.1f} GiB" if nbytes >= _GIB else f"{nbytes / _MIB:.0f} MiB"


def _quoted(facts: Mapping[str, object]) -> dict[str, object]:
    def quote(value: object) -> object:
        if isinstance(value, Sequence) and not isinstance(value, str):
            return shlex.join(map(str, value))
        return None if value is None else shlex.quote(str(value))

    return {name: quote(value) for name, value in facts.items()}
