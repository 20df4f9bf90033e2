"""Where the first number that is not finite comes from: nan, or infinity."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn


@dataclass(frozen=True)
class NonFinite:
    """The first thing on the way of a forward that is not finite.

    Attributes:
        what: it is; of an "output" all that is before it is finite.
        name: of the weights or the layer, as the model names it; "" of inputs and of the whole.
        kind: the layer's class, of an output.
    """

    what: Literal["input", "parameter", "buffer", "output"]
    name: str = ""
    kind: str = ""

    def __str__(self) -> str:
        if self.what == "input":
            return "the inputs are not finite"
        if self.what == "output":
            layer = f"{self.name} ({self.kind})" if self.name else f"the model ({self.kind})"
            return f"{layer} is the first whose output is not finite, of inputs that are"
        return f"the {self.what} {self.name} is not finite"


def first_nonfinite(model: nn.Module, *inputs: Any, **named: Any) -> NonFinite | None:
    """Return where the first number that is not finite comes from in a forward, or None.

    Inputs are looked at, then parameters and buffers in order, then the outputs of all modules as
    they are made in a forward without gradients. The model is as it was afterwards, its buffers
    and the state of the random generators too.

    Args:
        model: is run once, in the modes in which its modules are.
        *inputs: what it is called with.
        **named: likewise, by name.
    """
    if not _are_finite([*inputs, *named.values()]):
        return NonFinite("input")
    for name, parameter in model.named_parameters():
        if not _are_finite(parameter):
            return NonFinite("parameter", name)
    for name, buffer in model.named_buffers():
        if not _are_finite(buffer):
            return NonFinite("buffer", name)
    found: list[NonFinite] = []

    def looking(name: str) -> Any:
        def look(module: nn.Module, _inputs: Any, output: Any) -> None:
            if not found and not _are_finite(output):
                found.append(NonFinite("output", name, type(module).__name__))

        return look

    with contextlib.ExitStack() as ends, torch.no_grad():
        ends.enter_context(_unchanged(model))
        for name, module in model.named_modules():
            ends.callback(module.register_forward_hook(looking(name)).remove)
        model(*inputs, **named)
    return found[0] if found else None


@contextlib.contextmanager
def _unchanged(model: nn.Module) -> Iterator[None]:
    """Put back buffers and the state of the generators that a forward changes."""
    buffers = [(buffer, buffer.detach().clone()) for buffer in model.buffers()]
    used = {p.device for p in model.parameters() if p.device.type == "cuda"}
    with torch.random.fork_rng(sorted(device.index or 0 for device in used)):
        try:
            yield
        finally:
            for buffer, before in buffers:
                buffer.copy_(before)


def _are_finite(values: Any) -> bool:
    if isinstance(values, torch.Tensor):
        return not values.is_floating_point() or bool(torch.isfinite(values.detach()).all())
    if isinstance(values, dict):
        return _are_finite(list(values.values()))
    if isinstance(values, list | tuple):
        return all(_are_finite(value) for value in values)
    return True
