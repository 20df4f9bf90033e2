"""Carry out a plan: all of it, or nothing."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import torch
from torch import nn

from luthier.adapt.matching import match
from luthier.adapt.plan import LoadPlan
from luthier.errors import DoesNotFitError
from luthier.files import tensors
from luthier.files.tensors import Archive


def load(
    model: nn.Module,
    file: Archive | Path | str,
    head: Collection[str] = (),
    coverage: float = 1.0,
) -> LoadPlan:
    """Put a file's weights into a model, all or nothing, and return what was done.

    Args:
        model: is changed in place, and not at all if anything is raised.
        file: the weights, or where they are.
        head: tensors of the model that keep their value.
        coverage: least part of the model's other tensors that must be loaded, in (0, 1].

    Raises:
        DoesNotFitError: less is covered; the message lists missing, unexpected and misshapen.
        UnsupportedFileError, DamagedError: see ``luthier.files.tensors.read``.
    """
    archive = file if isinstance(file, Archive) else tensors.read(Path(file))
    state = model.state_dict()
    plan = match(
        {name: tensors.spec(t) for name, t in state.items()},
        {name: tensors.spec(t) for name, t in archive.tensors.items()},
        head,
    )
    if plan.coverage < coverage or not plan.loaded:
        raise DoesNotFitError(
            f"the weights {archive.path} do not fit the model ({100 * plan.coverage:.1f} % covered,"
            f" {100 * coverage:.0f} % asked for): {plan}",
            cure="give the weights of this architecture, or the --model that they belong to",
        )
    with torch.no_grad():
        for name in plan.loaded:
            state[name].copy_(archive.tensors[name])
    return plan
