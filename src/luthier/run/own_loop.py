"""Parts of luthier composed for a loop of the caller's own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from luthier import checkpoint
from luthier.checkpoint import OptimizerReport
from luthier.errors import DoesNotFitError
from luthier.models import find_head
from luthier.strategies import apply_rates, blocks_of, new_groups, policy_of


def param_groups(
    model: nn.Module,
    strategy: str,
    lr: float,
    *,
    head: str | None = None,
    weight_decay: float = 0.0,
    trunk_lr_scale: float = 0.1,
    layer_decay: float = 0.75,
) -> list[dict[str, Any]]:
    """Set a model up for a strategy and return the groups for any torch optimizer.

    Freezes what the strategy freezes and puts it in evaluation mode; call
    ``apply_rates`` again after a ``model.train()`` of your own.

    Args:
        model: is changed in place.
        strategy: "full", "scratch", "frozen", "zero-lr", "discriminative" or "layerwise"; those
            that change from epoch to epoch need ``luthier finetune``.
        lr: learning rate of the head.
        head: dotted name of the head, where it is not found by itself.
        weight_decay: for tensors of two and more dimensions.
        trunk_lr_scale: of "discriminative".
        layer_decay: of "layerwise".

    Raises:
        ModelError: the head was not found.
        ValueError: an unknown strategy, or one that is no matter of parameter groups.
    """
    settings = {"trunk_lr_scale": trunk_lr_scale, "layer_decay": layer_decay}
    if strategy in ("lp-ft", "gradual"):
        raise ValueError(f"{strategy!r} changes from epoch to epoch; use luthier.finetune")
    if strategy == "probe":
        raise ValueError("'probe' takes no steps: use luthier.finetune, or 'frozen' in a loop")
    blocks = blocks_of(model, find_head(model, head).name)
    rates = policy_of(strategy, settings).rates(len(blocks) - 1, 0)
    apply_rates(model, blocks, rates)
    groups = new_groups(model, blocks, rates, weight_decay=weight_decay)
    return [
        {"params": g["params"], "lr": lr * g["rate"], "weight_decay": g["weight_decay"]}
        for g in groups
    ]


def load_optimizer(
    optimizer: torch.optim.Optimizer, model: nn.Module, path: str | Path
) -> OptimizerReport:
    """Give an optimizer the state that a checkpoint has for it, parameter by parameter, by name.

    It lands on no other parameter, whatever was frozen, regrouped, reordered or replaced since:
    parameters that the checkpoint does not have, such as those of a new head, start empty.

    Args:
        optimizer: its state is replaced.
        model: whose parameters it holds.
        path: a checkpoint's directory, ``RUN/checkpoints/step-…``.

    Returns:
        what was restored, what starts empty and what was left out; print it.

    Raises:
        DamagedError: the checkpoint is damaged. DoesNotFitError: it has no optimizer's state, or
            that of another kind of optimizer.
    """
    found = checkpoint.read(Path(path))
    saved = [s for s in found.parts.values() if isinstance(s.plain, dict) and "groups" in s.plain]
    if len(saved) != 1:
        raise DoesNotFitError(f"{path} has the state of {len(saved)} optimizers, expected one")
    modules = {name.partition(".")[0] for name in saved[0].plain["shapes"]}
    if len(modules) != 1:
        known = ", ".join(sorted(modules))
        raise DoesNotFitError(
            f"the optimizer in {path} holds several modules, {known}; expected one"
        )
    names = checkpoint.names_of({modules.pop(): model})
    return checkpoint.restore_optimizer(optimizer, names, saved[0])
