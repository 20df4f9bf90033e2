"""What the functions that raise known errors are built with."""

from __future__ import annotations

import contextlib
import functools
import sys
import types
import warnings
from collections.abc import Iterator
from pathlib import Path

from known_errors import Raises


def named(name: str, raises: Raises) -> Raises:
    raises.__name__ = name
    return raises


def quiet(raises: Raises) -> Raises:
    """Keep what torch warns of on its way to the error to itself."""

    @functools.wraps(raises)
    def without_warnings(folder: Path) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            raises(folder)

    return without_warnings


@contextlib.contextmanager
def module_named(name: str, **members: object) -> Iterator[types.ModuleType]:
    """Let a module of this name be there inside."""
    module = types.ModuleType(name)
    sys.modules[name] = module
    for key, value in members.items():
        setattr(module, key, value)
    try:
        yield module
    finally:
        del sys.modules[name]
