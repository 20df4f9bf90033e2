"""Optimizer, loss and mixing, as the recipe names them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from luthier import vision
from luthier.distributed.pieces import is_cut
from luthier.recipe import Optimizer, Regularisation, decided
from luthier.training.loop import Criterion, Mix


def make_optimizer(how: Optimizer, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
    """Build the optimizer of a resolved recipe over groups of parameters."""
    lr = decided(how.lr)
    # One pass over memory for each tensor; elsewhere torch's own choice is as good.
    fused = True if groups and groups[0]["params"][0].device.type == "cpu" else None
    if how.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=lr, fused=fused)
    momentum = 0.9 if how.momentum is None else how.momentum
    fused = None if groups and is_cut(groups[0]["params"][0]) else fused
    return torch.optim.SGD(groups, lr=lr, momentum=momentum, fused=fused)


def fit_fused(optimizer: torch.optim.Optimizer) -> None:
    """Let an optimizer that has the options of another run go without a kernel that cannot be."""
    for group in optimizer.param_groups:
        if isinstance(optimizer, torch.optim.SGD) and any(map(is_cut, group["params"])):
            group["fused"] = None  # torch has none for parameters that are cut


def make_criterion(how: Regularisation, class_counts: Sequence[int], device: str) -> Criterion:
    """Build the training loss: cross-entropy with label smoothing and class weights.

    "balanced" weighs class ``c`` by ``images / (classes * images of c)``.
    """
    smoothing = how.label_smoothing or 0.0
    if how.class_weights != "balanced":
        return nn.CrossEntropyLoss(label_smoothing=smoothing)
    total, classes = sum(class_counts), len(class_counts)
    weight = torch.tensor([total / (classes * n) for n in class_counts], device=device)
    weighted = nn.CrossEntropyLoss(weight, reduction="sum", label_smoothing=smoothing)
    # Per image, not per weight in its batch: accumulated batches then make one large batch.
    return lambda scores, targets: weighted(scores, targets) / len(targets)


def make_mix(how: Regularisation, classes: int) -> Mix | None:
    """Build mixup (Zhang et al. 2018), CutMix (Yun et al. 2019), or one of both a batch."""
    if how.mixup is None and how.cutmix is None:
        return None
    v2 = vision.load("torchvision.transforms.v2")
    kinds: list[Any] = []
    if how.mixup is not None:
        kinds.append(v2.MixUp(alpha=how.mixup, num_classes=classes))
    if how.cutmix is not None:
        kinds.append(v2.CutMix(alpha=how.cutmix, num_classes=classes))
    mix: Mix = kinds[0] if len(kinds) == 1 else v2.RandomChoice(kinds)
    return mix
