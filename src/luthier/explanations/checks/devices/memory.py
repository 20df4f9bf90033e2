"""Memory that a device or the machine does not have, from the numbers of the message."""

from __future__ import annotations

import re
from collections.abc import Mapping

from luthier.explanations.checks.devices.common import (
    called_last,
    live_values,
    unless_by_others,
)
from luthier.explanations.values import Case, Facts, TensorFacts

_EVALUATIONS = re.compile(r"eval|valid|test|predict|infer", re.IGNORECASE)
_SUMS = re.compile(r"running|epoch|accum|cumul", re.IGNORECASE)  # a "total" may be of one step

_UNITS = {"bytes": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40}
_UNITS |= {unit.replace("i", ""): size for unit, size in _UNITS.items() if "i" in unit}
_SIZE = r"([\d.]+) (bytes|[KMGT]i?B)"
_SIZES = {
    "tried": f"Tried to allocate {_SIZE}",
    "total": f"total capaci?ty of {_SIZE}|; {_SIZE} total capacity",
    "free": f"of which {_SIZE} is free|; {_SIZE} free",
    "own": f"this process has {_SIZE} memory in use|; {_SIZE} reserved in total",
    "allocated": f"memory {_SIZE} is allocated by PyTorch|; {_SIZE} already allocated",
    "cached": f"{_SIZE} is reserved by PyTorch but unallocated",
    "allowed": f"{_SIZE} allowed",
}


@unless_by_others
def larger_than_device(case: Case) -> Facts | None:
    """Return facts where a single tensor has no room on the whole device."""
    sizes = _sizes(case)
    is_it = 0 < sizes.get("total", 0) <= sizes["tried"]
    return _told(sizes) if is_it else None


@unless_by_others
def of_others(case: Case) -> Facts | None:
    """Return what other processes hold, where it is more than this one holds."""
    sizes = _sizes(case)
    if not {"total", "free", "own"} <= sizes.keys() or "allowed" in sizes:
        return None
    others = sizes["total"] - sizes["free"] - sizes["own"]
    is_it = others > sizes["own"] and others > sizes["total"] / 4
    if not is_it:
        return None
    processes = ", ".join(re.findall(r"Process (\d+) has", case.raised.message))
    return {**_told({**sizes, "others": others}), "processes": processes or None}


@unless_by_others
def capped(case: Case) -> Facts | None:
    """Return how much the process allows itself."""
    sizes = _sizes(case)
    return _told(sizes) if "allowed" in sizes else None


@unless_by_others
def fragmented(case: Case) -> Facts | None:
    """Return what is held in pieces, where they together would be enough."""
    sizes = _sizes(case)
    if "cached" not in sizes and {"own", "allocated"} <= sizes.keys():
        sizes["cached"] = sizes["own"] - sizes["allocated"]  # as it was told until torch 1.13
    cached, total = sizes.get("cached", 0), sizes.get("total", 0)
    return _told(sizes) if total and cached >= max(sizes["tried"], total / 20) else None


@unless_by_others
def of_a_move(case: Case) -> Facts | None:
    """Return the sizes where a model was moved to the device."""
    is_move = any(frame.function == "_apply" for frame in called_last(case))
    return _told(_sizes(case)) if is_move else None


@unless_by_others
def of_an_optimizer(case: Case) -> Facts | None:
    """Return the sizes where an optimizer's step needed them."""
    is_step = any("torch/optim/" in frame.file for frame in called_last(case))
    return _told(_sizes(case)) if is_step else None


@unless_by_others
def of_a_batch(case: Case) -> Facts:
    """Return the sizes, a batch that may have room, and what keeps the graphs of all batches."""
    sizes = _sizes(case)
    return {**_told(sizes), **_kept(case), **_evaluated(case), **_smaller(case, sizes)}


@unless_by_others
def of_host(case: Case) -> Facts:
    """Return how much memory of the host was asked for, and what keeps all graphs."""
    asked = case.found.get("asked")
    return {"tried": _human(int(asked)) if asked else case.found.get("told"), **_kept(case)}


def _sizes(case: Case) -> dict[str, float]:
    found: dict[str, float] = {"tried": 0}
    for name, form in _SIZES.items():
        match = re.search(form, case.raised.message)
        if match is not None:
            number, unit = (part for part in match.groups() if part is not None)
            found[name] = float(number) * _UNITS[unit]
    return found


def _told(sizes: Mapping[str, float]) -> dict[str, object]:
    return {name: _human(size) for name, size in sizes.items() if size or name != "tried"}


def _human(size: float) -> str:
    for unit in ("TiB", "GiB", "MiB", "KiB"):
        if size >= _UNITS[unit]:
            return f"{size / _UNITS[unit]:.1f} {unit}"
    return f"{size:.0f} bytes"


def _kept(case: Case) -> Facts:
    """Return a sum of losses that has its graph, and with it all activations of all batches."""
    for variables, frame in zip(case.live, case.raised.frames, strict=False):
        for name, fact in variables.items():
            is_sum = isinstance(fact, TensorFacts) and not fact.shape and not fact.is_leaf
            if is_sum and not frame.is_library and _SUMS.search(name):
                return {"sum": name}
    return {}


def _evaluated(case: Case) -> Facts:
    """Return the function of the user that evaluates, though what it computes is recorded."""
    recorded = any(isinstance(f, TensorFacts) and not f.is_leaf for f in live_values(case))
    names = [frame.function for frame in case.raised.own if _EVALUATIONS.search(frame.function)]
    return {"evaluation": names[-1]} if names and recorded else {}


def _smaller(case: Case, sizes: Mapping[str, float]) -> Facts:
    """Return the batch, and the greatest power of two of which the numbers allow that it fits."""
    given = case.variable("input")
    if not isinstance(given, TensorFacts) or not given.shape or not sizes.get("allocated"):
        return {}
    room = sizes["allocated"] + sizes.get("free", 0) + sizes.get("cached", 0)
    batch = given.shape[0]
    most = min(batch - 1, int(batch * room / (sizes["allocated"] + sizes["tried"])))
    return {"batch": batch, "smaller": 2 ** (most.bit_length() - 1)} if most > 0 else {}
