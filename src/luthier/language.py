"""In which language a person is spoken to, and sentences with places for facts. Pure."""

from __future__ import annotations

import string
from collections.abc import Mapping, Sequence
from typing import Literal

from luthier.errors import RecipeError

Language = Literal["en", "zh"]
LANGUAGES: tuple[Language, ...] = ("en", "zh")
VARIABLE = "LUTHIER_LANG"

_LOCALE = ("LC_ALL", "LC_MESSAGES", "LANG")  # as setlocale(3) reads them: the first that is set
_FACTS = string.Formatter()


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


def _known(name: str) -> Language | None:
    """Return the language of a name such as ``zh_CN.UTF-8``, if it is one of ours."""
    word = name.replace("-", "_").partition(".")[0].partition("@")[0].partition("_")[0].lower()
    return next((language for language in LANGUAGES if language == word), None)
