"""A step of training on tensors that have shapes and no content."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeCopyMode, FakeTensorMode
from torch.nn import functional as F

from luthier.devices.live import LiveBytes, tensors
from luthier.devices.moving import to

Criterion = Callable[[Any, Any], torch.Tensor]

_MANY = 1000  # steps: some optimizers do otherwise in their first ones


@dataclass
class SimulatedStep:
    """Copies without content, and the step of training that they take.

    Attributes:
        model: a copy, as is what follows.
        optimizer: of the copy's parameters.
        inputs: for the model.
        targets: for the criterion; None where there are none.
        criterion: outputs, targets → loss.
        mode: in which tensors have no content.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    inputs: Any
    targets: Any
    criterion: Criterion
    mode: FakeTensorMode

    def run(self, live: LiveBytes, *, bf16: bool, set_to_none: bool) -> None:
        """Take a step; ``live`` counts its storages."""
        with self.mode, live:
            self.optimizer.zero_grad(set_to_none=set_to_none)
            with torch.autocast(live.device.type, torch.bfloat16, enabled=bf16):
                outputs = self._forward()
                loss = self.criterion(outputs, self.targets)
            loss.backward()  # type: ignore[no-untyped-call]
            live.scalar = _MANY  # what an optimizer reads is its steps' count, or such
            self.optimizer.step()
            live.scalar = None
        for tensor in tensors(self.optimizer.state):
            live.move(tensor, "optimizer")

    def _forward(self) -> Any:
        if isinstance(self.inputs, Mapping):
            return self.model(**self.inputs)
        if isinstance(self.inputs, tuple):
            return self.model(*self.inputs)
        return self.model(self.inputs)


def simulated(
    live: LiveBytes,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    batch: Any,
    criterion: Criterion | None,
) -> SimulatedStep:
    """Return copies without content; ``live`` counts their storages, each to its part."""
    # Not only what is copied may be met: a function may hold tensors of its own.
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    memo: dict[int, Any] = {}
    with FakeCopyMode(mode):
        model, criterion = copy.deepcopy((model, criterion or default_loss), memo)
        modules = [module for module in (model, criterion) if isinstance(module, nn.Module)]
        _count(live, [p for module in modules for p in module.parameters()], "parameters")
        _count(live, memo.values(), "buffers")
        optimizer = _copy_of(optimizer, memo)
        choose_foreach(optimizer, live.device)
        _count(live, [p for group in optimizer.param_groups for p in group["params"]], "parameters")
        _count(live, memo.values(), "optimizer")
        batch = copy.deepcopy(batch, memo)
    batch = to(batch, live.device)
    _count(live, [*memo.values(), *tensors(batch)], "batch")
    _follow_gradients(live, memo.values())
    pair = isinstance(batch, tuple | list) and len(batch) == 2
    inputs, targets = batch if pair else (batch, None)
    return SimulatedStep(model, optimizer, inputs, targets, criterion, mode)


def _count(live: LiveBytes, values: Iterable[Any], part: str) -> None:
    for value in values:
        if isinstance(value, torch.Tensor):
            live.add(value, part)


def _follow_gradients(live: LiveBytes, values: Iterable[Any]) -> None:
    def made(parameter: torch.Tensor) -> None:
        for grad in tensors([parameter.grad]):
            live.move(grad, "gradients")

    for value in values:
        if isinstance(value, torch.Tensor) and value.requires_grad and value.is_leaf:
            value.register_post_accumulate_grad_hook(made)  # type: ignore[no-untyped-call]


def _copy_of(optimizer: torch.optim.Optimizer, memo: dict[int, Any]) -> torch.optim.Optimizer:
    """Copy an optimizer, whose own ``deepcopy`` leaves out what a subclass has beside the state.

    Functions stay away: a learning-rate scheduler puts a ``step`` there that is the original's.
    """
    copied = copy.deepcopy(optimizer, memo)
    for name, value in vars(optimizer).items():
        if name not in vars(copied) and not callable(value):
            setattr(copied, name, copy.deepcopy(value, memo))
    return copied


def choose_foreach(optimizer: torch.optim.Optimizer, device: torch.device) -> None:
    """Let an optimizer update all parameters at once where torch does so by itself, on CUDA.

    That takes more memory. torch goes by the parameters' class, which is another without content.
    """
    for group in optimizer.param_groups:
        unset = "foreach" in group and group["foreach"] is None and not group.get("fused")
        if device.type == "cuda" and unset:
            group["foreach"] = True


def default_loss(outputs: Any, targets: Any) -> torch.Tensor:
    """Return the loss that outputs carry, or cross entropy, or the mean of what is floating-point.

    Args:
        outputs: of a model; scores are ``[batch, classes, ...]`` or ``[..., classes]``.
        targets: class indices ``[batch, ...]`` for cross entropy.
    """
    loss = getattr(outputs, "loss", None)
    if isinstance(loss, torch.Tensor):
        return loss
    scores = getattr(outputs, "logits", outputs)
    if isinstance(scores, torch.Tensor) and _are_classes(targets):
        if scores.ndim > 2 and scores.shape[:-1] == targets.shape:
            scores, targets = scores.flatten(0, -2), targets.flatten()
        return F.cross_entropy(scores, targets)
    means = [tensor.mean() for tensor in tensors(outputs) if tensor.is_floating_point()]
    return torch.stack(means).sum()


def _are_classes(targets: Any) -> bool:
    return isinstance(targets, torch.Tensor) and targets.dtype in (torch.int64, torch.uint8)
