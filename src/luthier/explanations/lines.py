"""Sentences in lines of a terminal's width, also of a language without spaces. Pure."""

from __future__ import annotations

import re
import unicodedata

WIDTH = 96  # columns

_STEPS = re.compile(r"\s+|[^\s\u2e80-\uffff]+|[\u2e80-\uffff]")  # spaces, a word, a wide character
_STAY = ("Po", "Pe", "Pf")  # categories of what no line begins with: commas, closing brackets
_OPEN = ("Ps", "Pi")  # of what no line ends with


def told(label: str, text: str, indent: int, width: int = WIDTH) -> list[str]:
    """Return the lines of a labelled sentence; those after the first are indented.

    Args:
        label: of the first line.
        text: the sentence.
        indent: columns before the text.
        width: columns of a line; a word that is longer stays whole.
    """
    lines, line, used = [], label + " " * (indent - columns(label)), indent
    for step in _steps(text):
        size = columns(step)
        if used + size > width and used > indent and not step.isspace():
            lines.append(line.rstrip())
            line, used = " " * indent, indent
        if used > indent or not step.isspace():
            line, used = line + step, used + size
    return [*lines, line.rstrip()]


def columns(text: str) -> int:
    """Return how many columns a text takes: a wide character takes two."""
    return sum(1 + (unicodedata.east_asian_width(c) in "WF") for c in text)


def _steps(text: str) -> list[str]:
    """Return the parts between which a line may end."""
    parts: list[str] = []
    for part in _STEPS.findall(text):
        if parts and (_is(part[0], _STAY) or _is(parts[-1][-1], _OPEN)):
            parts[-1] += part
        else:
            parts.append(part)
    return parts


def _is(character: str, categories: tuple[str, ...]) -> bool:
    return columns(character) > 1 and unicodedata.category(character) in categories
