"""Which settings are worth a trial. Pure."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from luthier.tuning.settings import Facts, Setting


@dataclass(frozen=True)
class Options:
    """What is tried.

    Attributes:
        fields: field of the recipe → its other values, in the order of the trials.
        left_out: why something is not tried, a line each.
    """

    fields: dict[str, tuple[bool | int | str, ...]]
    left_out: tuple[str, ...]

    def settings(self, field: str, base: Setting) -> list[Setting]:
        """Return the base with each other value of a field."""
        return [Setting(**(base.as_dict() | {field: value})) for value in self.fields[field]]


def options_of(facts: Facts, asked: Collection[str], cores: int) -> Options:
    """Decide what to try.

    Args:
        facts: of the base.
        asked: fields that the user has decided, which stay as they are.
        cores: that the process may use.
    """
    base, left_out = facts.setting, []
    fields: dict[str, tuple[bool | int | str, ...]] = {
        "precision": ("bf16" if base.precision == "fp32" else "fp32",),
        "compile": (not base.compile,),
        "pin_memory": (not base.pin_memory,),
        "workers": tuple(n for n in _numbers_of_workers(cores) if n != base.workers),
    }
    reasons = {name: "as it was asked for" for name in fields if name in asked}
    if facts.of_device != "cuda":
        reasons["pin_memory"] = f"has no effect on {facts.of_device}"
    if not facts.compiler:
        reasons["compile"] = f"no compiler for {facts.of_device} was found"
    for name, reason in reasons.items():
        left_out.append(f"{name}: {reason}")
        del fields[name]
    return Options({name: values for name, values in fields.items() if values}, tuple(left_out))


def _numbers_of_workers(cores: int) -> list[int]:
    doubled = [2**n for n in range(cores.bit_length()) if 2**n < cores]
    return [*doubled, cores]
