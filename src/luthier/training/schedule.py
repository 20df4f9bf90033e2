"""Learning rates as a function of the step: nothing to save, nothing to restore. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass

from luthier.recipe import Schedule, decided


@dataclass(frozen=True)
class Rates:
    """What the optimizer uses for one step.

    Attributes:
        factor: of every group's learning rate.
        momentum: SGD's momentum or Adam's first beta, where the schedule sets it.
    """

    factor: float
    momentum: float | None = None


def rates_at(schedule: Schedule, step: int, steps_per_epoch: int, steps: int) -> Rates:
    """Return the rates of one optimizer step.

    Args:
        schedule: a resolved schedule: "step" multiplies by ``gamma`` every ``step_size`` epochs
            (torch's StepLR), "cosine" falls to zero along half a cosine (Loshchilov and Hutter
            2017), "one-cycle" is torch's OneCycleLR with its defaults (Smith and Topin 2018),
            "constant" stays.
        step: counted from 0.
        steps_per_epoch: optimizer steps in an epoch.
        steps: optimizer steps in the whole run.
    """
    if schedule.schedule == "one-cycle":
        return _one_cycle(step, steps)
    warmup = round((schedule.warmup_epochs or 0.0) * steps_per_epoch)
    if step < warmup:
        return Rates((step + 1) / warmup)
    if schedule.schedule == "cosine":
        return Rates(0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup))))
    if schedule.schedule == "step":
        falls = step // steps_per_epoch // decided(schedule.step_size)
        return Rates(decided(schedule.gamma) ** falls)
    return Rates(1.0)


def _one_cycle(step: int, steps: int) -> Rates:
    rise, start, end = 0.3 * steps - 1, 1 / 25, 1 / 25 / 1e4
    if step <= rise:
        part = step / rise if rise > 0 else 1.0
        return Rates(_cosine(start, 1.0, part), _cosine(0.95, 0.85, part))
    part = (step - rise) / (steps - 1 - rise)
    return Rates(_cosine(1.0, end, part), _cosine(0.85, 0.95, part))


def _cosine(start: float, end: float, part: float) -> float:
    return end + (start - end) / 2 * (1 + math.cos(math.pi * part))
