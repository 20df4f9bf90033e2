"""What a loop logs: plain values, and whether one of them is the best so far."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch

from luthier.errors import RecipeError


class Best:
    """The best of a logged value so far.

    Args:
        text: ``"max NAME"`` or ``"min NAME"``; None where no value is to be looked at.

    Attributes:
        value: the best so far.
        is_now: whether it was logged last, for the state that the run is in.
    """

    def __init__(self, text: str | None) -> None:
        words = text.split() if text is not None else ["max", ""]
        if (len(words) != 2 and text is not None) or words[0] not in ("max", "min"):
            raise RecipeError(f"best={text!r} is not understood: give 'max NAME' or 'min NAME'")
        self._sign = 1 if words[0] == "max" else -1
        self._name = words[1]
        self.value: float | None = None
        self.is_now = False

    def see(self, record: Mapping[str, Any]) -> None:
        """Look at what was logged."""
        new = record.get(self._name)
        if not isinstance(new, int | float) or not math.isfinite(new):
            return
        self.is_now = self.value is None or self._sign * new > self._sign * self.value
        if self.is_now:
            self.value = new


def plain(name: str, value: Any) -> Any:
    """Return a value that was given to ``log`` as plain JSON.

    Raises:
        TypeError: it is none; its name is given.
    """
    one = isinstance(value, torch.Tensor) and value.numel() == 1
    if one or (hasattr(value, "dtype") and getattr(value, "size", 0) == 1):  # or numpy's
        value = value.item()
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, list | tuple):
        return [plain(name, item) for item in value]
    what = type(value).__qualname__
    raise TypeError(f"log({name}=…) takes numbers, texts, booleans and lists, found a {what}")
