"""A recipe ⇄ TOML."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import tomli_w

from luthier.errors import RecipeError, nearest
from luthier.recipe.fields import ENTRIES, Recipe, replace, sections, values


def to_toml(recipe: Recipe) -> str:
    """Return the recipe as TOML; undecided fields are left out."""
    table: dict[str, dict[str, Any]] = {}
    for name, value in values(recipe).items():
        if value is not None:
            plain = list(value) if isinstance(value, tuple) else value
            table.setdefault(ENTRIES[name].section, {})[name] = plain
    return tomli_w.dumps(table)


def from_toml(text: str, source: str = "recipe") -> Recipe:
    """Return the recipe that a TOML text describes.

    Raises:
        RecipeError: the text is no TOML, or has an unknown section or key (the nearest known
            one is named), a key in the wrong section, or a value of the wrong type.
    """
    try:
        tables = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise RecipeError(f"{source} is not valid TOML: {error}") from error
    known = [name for name, _ in sections()]
    changes: dict[str, Any] = {}
    for section, table in tables.items():
        if section in ENTRIES and not isinstance(table, dict | list):
            right = ENTRIES[section].section
            raise RecipeError(f"{source}: {section!r} stands in no section, it goes in [{right}]")
        if section not in known or not isinstance(table, dict):
            raise RecipeError(f"{source}: unknown section [{section}]{nearest(section, known)}")
        for name, value in table.items():
            if name not in ENTRIES:
                raise RecipeError(f"{source}: unknown key {name!r}{nearest(name, ENTRIES)}")
            if ENTRIES[name].section != section:
                right = ENTRIES[name].section
                raise RecipeError(f"{source}: {name!r} stands in [{section}], it goes in [{right}]")
            changes[name] = value
    return replace(Recipe(), **changes)


def read(path: Path) -> Recipe:
    """Read a recipe file.

    Raises:
        RecipeError: the file cannot be read, or see ``from_toml``.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"recipe {path} cannot be read: {error}") from error
    return from_toml(text, str(path))
