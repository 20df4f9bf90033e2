"""In which language a person is spoken to; sentences with places for facts, in lines. Pure."""

from __future__ import annotations

import re
import string
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Literal

from luthier.errors import RecipeError

Language = Literal["en", "zh"]
LANGUAGES: tuple[Language, ...] = ("en", "zh")
VARIABLE = "LUTHIER_LANG"

_LOCALE = ("LC_ALL", "LC_MESSAGES", "LANG")  # as setlocale(3) reads them: the first that is set
_FACTS = string.Formatter()
_PARTS = re.compile(r"\s+|[^\s\u2e80-\uffff]+|[\u2e80-\uffff]")  # spaces, a word, a wide character
_STAY = ("Po", "Pe", "Pf")  # categories of what no line begins with: commas, closing brackets
_OPEN = ("Ps", "Pi")  # of what no line ends with


def language(environment: Mapping[str, str]) -> Language:
    """Return the language that an environment asks for: ``LUTHIER_LANG``, else its locale.

    Chinese is Simplified Chinese. A locale in any other language, and none, is English.

    Raises:
        RecipeError: ``LUTHIER_LANG`` names another language.
    """
    asked = environment.get(VARIABLE, "").strip()
    if asked:
        found = _known(asked)
        if found is None:
            raise RecipeError(
                f"{VARIABLE}={asked}: expected en (English) or zh (Simplified Chinese)",
                cure=f"set {VARIABLE}=en, or unset it",
            )
        return found
    locale = next((environment[name] for name in _LOCALE if environment.get(name)), "")
    return _known(locale) or "en"


def fill(sentences: str | Sequence[str], facts: Mapping[str, object]) -> str | None:
    """Return the first sentence whose facts are all known, with them in its places; or None.

    Args:
        sentences: as ``str.format`` has them, the most telling one first.
        facts: by name; None is what is not known.
    """
    known = {name: value for name, value in facts.items() if value is not None}
    for sentence in [sentences] if isinstance(sentences, str) else sentences:
        if places(sentence) <= known.keys():
            return sentence.format_map(known)
    return None


def places(sentence: str) -> set[str]:
    """Return the names of the facts that a sentence has places for."""
    return {name for _, name, _, _ in _FACTS.parse(sentence) if name}


def folded(text: str, width: int) -> list[str]:
    """Return a text in lines of so many columns, broken at spaces and between Chinese characters.

    A word that is longer stays whole.
    """
    lines = [""]
    for part in _parts(text):
        if lines[-1] and not part.isspace() and columns(lines[-1] + part) > width:
            lines.append("")
        if lines[-1] or not part.isspace():
            lines[-1] += part
    return [line.rstrip() for line in lines]


def columns(text: str) -> int:
    """Return how many columns of a terminal a text takes: a Chinese character takes two."""
    return sum(1 + (unicodedata.east_asian_width(character) in "WF") for character in text)


def _parts(text: str) -> list[str]:
    """Return the parts between which a line may end."""
    parts: list[str] = []
    for part in _PARTS.findall(text):
        if parts and (_is_wide(part[0], _STAY) or _is_wide(parts[-1][-1], _OPEN)):
            parts[-1] += part
        else:
            parts.append(part)
    return parts


def _is_wide(character: str, categories: tuple[str, ...]) -> bool:
    return columns(character) > 1 and unicodedata.category(character) in categories


def _known(name: str) -> Language | None:
    """Return the language of a name such as ``zh_CN.UTF-8``, if it is one of ours."""
    word = name.replace("-", "_").partition(".")[0].partition("@")[0].partition("_")[0].lower()
    return next((language for language in LANGUAGES if language == word), None)
