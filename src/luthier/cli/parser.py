"""An argument parser whose errors are luthier's, with the nearest known flag."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any, NoReturn

from luthier.errors import RecipeError, nearest


class Parser(argparse.ArgumentParser):
    """``argparse`` without abbreviations; a wrong request raises ``RecipeError``."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(allow_abbrev=False, **settings)

    def error(self, message: str) -> NoReturn:
        """Raise instead of leaving the process."""
        raise RecipeError(message, cure=f"see: {self.prog} --help")

    def parse_known_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> tuple[argparse.Namespace, list[str]]:
        """Refuse what is unknown, where the flags of this command are at hand."""
        found, unknown = super().parse_known_args(args, namespace)
        for word in unknown:
            name = word.split("=")[0]
            flags = [f for action in self._actions for f in action.option_strings]
            kind = "flag" if name.startswith("-") else "argument"
            self.error(f"unknown {kind} {name!r}{nearest(name, flags)}")
        return found, unknown
