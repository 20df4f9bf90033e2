"""Sizes and times as people write them."""

from __future__ import annotations

import re

from luthier.errors import RecipeError

_DECIMAL = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}
_BINARY = {"": 1, "k": 2**10, "m": 2**20, "g": 2**30, "t": 2**40}
_TIMES = {"": 1, "s": 1, "m": 60, "min": 60, "h": 3600, "d": 86400}
_NUMBER = r"(\d+(?:\.\d+)?)\s*"


def parse_size(name: str, text: str | int) -> int:
    """Return bytes: ``10GiB`` and ``10G`` are 10 x 2**30, ``10GB`` is 10 x 10**9.

    Args:
        name: of what is given, for the error.
        text: a size, or bytes already.

    Raises:
        RecipeError: it is no size.
    """
    match = re.fullmatch(rf"{_NUMBER}([kmgt]?)(i?b|)", str(text).strip().lower())
    if match is None:
        raise RecipeError(f"{name} {text}: expected a size such as 20GiB")
    number, unit, suffix = match.groups()
    units = _DECIMAL if suffix == "b" else _BINARY  # a bare G is GiB, as for torch and Slurm
    return int(float(number) * units[unit])


def parse_time(name: str, text: str | float) -> float:
    """Return seconds: ``90``, ``90s``, ``15min``, ``2h``, ``1d``.

    Args:
        name: of what is given, for the error.
        text: a time, or seconds already.

    Raises:
        RecipeError: it is no time.
    """
    match = re.fullmatch(rf"{_NUMBER}([a-z]*)", str(text).strip().lower())
    if match is None or match[2] not in _TIMES:
        raise RecipeError(f"{name} {text}: expected a time such as 90s, 15min or 2h")
    return float(match[1]) * _TIMES[match[2]]
