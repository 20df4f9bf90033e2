"""Markup from values: whatever is not markup already is escaped."""

from __future__ import annotations

import re
import unicodedata
from html import escape

_EMPTY = frozenset({"br", "img", "input", "link", "meta"})  # elements that nothing can be in
# Of categories that show as nothing or turn the text about them round: control, format (as are the
# marks of direction), surrogate, private, line and paragraph ends.
_UNSEEN = frozenset({"Cc", "Cf", "Cs", "Co", "Zl", "Zp"})
_JOINERS = "\u200c\u200d"  # that spelling and emoji need

Attribute = str | float | bool | None


class Html(str):
    """Markup. Joined to other text by ``tag`` and ``join`` alone, which escape that."""

    __slots__ = ()


def visible(text: str) -> str:
    """Return a text in which what cannot be seen is written as an escape.

    A name with U+202E in it would be read backwards, and half a character cannot be written.
    """
    if text.isascii() and text.isprintable():  # as is a photo, character by character a while
        return text
    return "".join(
        character
        if character in "\n\t" + _JOINERS or unicodedata.category(character) not in _UNSEEN
        else f"\\u{ord(character):04x}"
        for character in text
    )


def escaped(text: str) -> Html:
    """Return a text as markup that shows it; markup stays as it is."""
    return text if isinstance(text, Html) else Html(escape(visible(text)))


def join(*parts: str) -> Html:
    """Return parts one after another."""
    return Html("".join(map(escaped, parts)))


def tag(name: str, /, *inside: str, **attributes: Attribute) -> Html:
    """Return an element.

    Args:
        name: such as ``"td"``.
        inside: text, or markup.
        attributes: with ``_`` for ``-``, and none at the end; None and False are left out, True
            stands alone.
    """
    said = "".join(_attribute(key, value) for key, value in attributes.items())
    if name in _EMPTY:
        return Html(f"<{name}{said}>")
    return Html(f"<{name}{said}>{join(*inside)}</{name}>")


def _attribute(key: str, value: Attribute) -> str:
    if value is None or value is False:
        return ""
    name = key.removesuffix("_").replace("_", "-")
    if value is True:
        return f" {name}"
    return f' {name}="{escaped(number(value) if isinstance(value, float) else str(value))}"'


def number(value: float) -> str:
    """Return a coordinate: a tenth of a pixel is more than can be seen."""
    return f"{value:.1f}".removesuffix(".0")


def name(text: str) -> Html:
    """Return a name that someone else has given, apart from the direction of the text about it."""
    return tag("bdi", text)


def path(text: str) -> Html:
    """Return a path, which may be broken after each of its parts and words."""
    pieces = re.split(r"(?<=[/_-])", text)
    return tag("bdi", Html("<wbr>".join(map(escaped, pieces))), class_="path")


def table(header: list[str], rows: list[list[str]], *, caption: str, left: int = 1) -> Html:
    """Return a table whose first column names its rows.

    Args:
        header: texts or markup, as all cells.
        rows: as wide.
        caption: what it is, for those who cannot see it beside its heading.
        left: columns from the left that hold words; the others hold numbers.
    """
    sides = [None if column < left else "number" for column in range(len(header))]
    head = [
        tag("th", cell, scope="col", class_=side) for cell, side in zip(header, sides, strict=True)
    ]
    body = []
    for first, *cells in rows:
        columns = zip(cells, sides[1:], strict=True)
        body.append(
            tag(
                "tr",
                tag("th", first, scope="row"),
                *(tag("td", cell, class_=side) for cell, side in columns),
            )
        )
    return tag(
        "div",
        tag(
            "table",
            tag("caption", caption),
            tag("thead", tag("tr", *head)),
            tag("tbody", *body),
        ),
        class_="scroll",
        tabindex="0",
        role="region",
        aria_label=caption,
    )


def facts(pairs: list[tuple[str, str]]) -> Html:
    """Return a list of names and values."""
    return tag("dl", *(tag("div", tag("dt", k), tag("dd", v)) for k, v in pairs))
