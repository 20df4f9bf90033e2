"""A head by class name in a run: which rows are taken over, what is said of it, what is pulled."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from luthier import strategies
from luthier.adapt.classes import ClassMatch, check_some, match_classes
from luthier.errors import DoesNotFitError
from luthier.models import Head, Start
from luthier.values import Block


def rows_by_name(ours: Sequence[str], start: Start) -> ClassMatch:
    """Find the rows of the weights' head for the classes of the data.

    Raises:
        DoesNotFitError: the weights' class names are not known, or none of ours is among them;
            the nearest are given.
    """
    if not start.classes:
        raise DoesNotFitError(
            f"--head by-name: the class names of the weights {start.source} are not known",
            cure="they are for torchvision's and timm's published weights under their own file"
            " name, for luthier's model files, and for a file with a config.json of transformers"
            " or timm beside it; or take --head replace",
        )
    match = match_classes(ours, start.classes)
    check_some(match, start.classes, start.source)
    return match


def described(match: ClassMatch) -> dict[str, Any]:
    """Return for each class the row that it took, or None, as plain JSON values."""
    return {
        one.name: {"row": one.row, "name": one.theirs, "how": one.how}
        if one.row is not None
        else None
        for one in match.classes
    }


def overlap(match: ClassMatch, *, taken: bool) -> str:
    """Return what has to be said where classes are among those of the weights.

    Args:
        match: of the data's classes with the weights'; some match.
        taken: their rows are taken over.
    """
    names = ", ".join(match.matched[:8]) + (", …" if len(match.matched) > 8 else "")
    said = (
        f"overlap: the weights were trained on {len(match.matched)} of these {len(match.classes)}"
        f" classes already ({names}), perhaps on these very images: scores on them say how well the"
        " weights know them, and little about classes that are new to them"
    )
    return said if taken else f"{said}; --head by-name begins with what they know"


def starting_weights(
    model: nn.Module, blocks: Sequence[Block], head: Head, by_name: bool, match: ClassMatch | None
) -> dict[str, torch.Tensor]:
    """Return copies of the weights that decay may pull back to, by name.

    A new head has no start that is worth keeping: it is left out, and a row of a head by name
    that starts fresh is zero here.

    Args:
        model: as it starts.
        blocks: those that learn at some time.
        head: of the model.
        by_name: its rows were taken over by class name.
        match: how; None in a resumed run, whose checkpoint holds these weights.
    """
    named = dict(model.named_parameters())
    names = [name for block in blocks for name in strategies.decayed_names(model, block)]
    starts = {name: named[name].detach().clone() for name in names}
    weight = f"{head.name}.weight"
    if not by_name:
        starts.pop(weight, None)
    elif match is not None and weight in starts:
        fresh = [i for i, row in enumerate(match.rows) if row is None]
        starts[weight][fresh] = 0
    return starts
