"""What a user names as ``package.module:callable``."""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
from collections.abc import Callable, Iterator
from typing import Any

from luthier.errors import LuthierError


def find(name: str, what: str, error: type[LuthierError]) -> Callable[..., Any]:
    """Import what a name stands for; modules in the working directory are found.

    Args:
        name: ``package.module:callable``.
        what: it is to be, in a word.
        error: of it, which is raised where it is not found or cannot be called.
    """
    module_name, _, attribute = name.partition(":")
    try:
        with _working_directory_importable():
            found: Any = importlib.import_module(module_name)
        for part in attribute.split("."):
            found = getattr(found, part)
    except Exception as trouble:  # an import runs the module's code
        raise error(
            f"{what} {name!r} was not found: {type(trouble).__name__}: {trouble}",
            cure="give it as package.module:callable",
        ) from trouble
    if not callable(found):
        raise error(f"{name} is a {type(found).__name__}, expected a function or class")
    return found  # type: ignore[no-any-return]


@contextlib.contextmanager
def _working_directory_importable() -> Iterator[None]:
    folder = os.getcwd()
    sys.path.insert(0, folder)
    try:
        yield
    finally:
        with contextlib.suppress(ValueError):  # the module may have changed the path
            sys.path.remove(folder)
