"""The document around the sections: head, theme, and what it may not do."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources

from luthier.report.page.html import Html, tag
from luthier.version import __version__

_THEMES = ("auto", "light", "dark")


@dataclass(frozen=True)
class Section:
    """A part of a page under a heading of its own; left out where it has no content."""

    anchor: str
    heading: str
    content: Html | None


def document(title: str, head: Html, sections: Sequence[Section]) -> str:
    """Return a whole HTML document that asks for nothing outside of itself.

    Its policy lets run what has the hash of our script, and nothing else.
    """
    style, script = _resource("page.css"), _resource("page.js")
    policy = (
        f"default-src 'none'; img-src data:; style-src '{_hash(style)}';"
        f" script-src '{_hash(script)}'; base-uri 'none'; form-action 'none'"
    )
    there = [section for section in sections if section.content]
    page = tag(
        "html",
        tag(
            "head",
            tag("meta", charset="utf-8"),
            tag("meta", http_equiv="Content-Security-Policy", content=policy),
            tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
            tag("meta", name="generator", content=f"luthier {__version__}"),
            tag("link", rel="icon", href="data:,"),
            tag("title", title),
            tag("style", Html(style)),
        ),
        tag(
            "body",
            tag("header", tag("div", _theme(), head, class_="page"), tag("nav", _links(there))),
            tag("main", *map(_section, there), class_="page"),
            tag("footer", tag("p", f"Written by luthier {__version__}."), class_="page"),
            tag("script", Html(script)),
        ),
        lang="en",
    )
    return f"<!doctype html>\n{page}\n"


def _section(section: Section) -> Html:
    content = section.content or Html()
    return tag("section", tag("h2", section.heading), content, id=section.anchor)


def _links(sections: Sequence[Section]) -> Html:
    links = [tag("a", section.heading, href=f"#{section.anchor}") for section in sections]
    return tag("div", *links, class_="page")


def _theme() -> Html:
    choices = [
        tag(
            "label",
            tag("input", type="radio", name="theme", id=f"theme-{theme}", checked=theme == "auto"),
            tag("span", theme),
        )
        for theme in _THEMES
    ]
    return tag("fieldset", tag("legend", "Colours", class_="unseen"), *choices, class_="theme")


def _resource(file: str) -> str:
    return resources.files(__package__).joinpath(file).read_text(encoding="utf-8").strip()


def _hash(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"
