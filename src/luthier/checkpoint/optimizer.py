"""Optimizer state by parameter name: it cannot land on another parameter."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch

from luthier.errors import DoesNotFitError


def _named_parameters(
    optimizer: torch.optim.Optimizer,
) -> Iterator[tuple[str, torch.nn.Parameter]]:
    for group in optimizer.param_groups:
        yield from zip(group["names"], group["params"], strict=True)


def capture_optimizer(optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    """Return the optimizer's state as tensors named ``"momentum_buffer/fc.weight"``.

    Args:
        optimizer: each group has ``names`` beside ``params``.

    Raises:
        TypeError: a value is neither a tensor nor None; it is named.
    """
    found = {}
    for name, parameter in _named_parameters(optimizer):
        for kind, value in optimizer.state.get(parameter, {}).items():
            if isinstance(value, torch.Tensor):
                found[f"{kind}/{name}"] = value
            elif value is not None:
                raise TypeError(f"optimizer state {kind}/{name} is a {type(value).__name__}")
    return found


def restore_optimizer(
    optimizer: torch.optim.Optimizer, tensors: Mapping[str, torch.Tensor]
) -> None:
    """Put captured state back, by name. A parameter without state starts empty.

    Raises:
        DoesNotFitError: state of a parameter that the optimizer does not hold, or of another
            shape than the parameter's; nothing was changed.
    """
    parameters = dict(_named_parameters(optimizer))
    placed: list[tuple[torch.nn.Parameter, str, torch.Tensor]] = []
    for full, tensor in tensors.items():
        kind, _, name = full.partition("/")
        parameter = parameters.get(name)
        if parameter is None:
            raise DoesNotFitError(
                f"the checkpoint has optimizer state {full}, and no such parameter"
            )
        if tensor.ndim and tensor.shape != parameter.shape:
            shapes = f"{tuple(tensor.shape)}, the parameter {tuple(parameter.shape)}"
            raise DoesNotFitError(f"optimizer state {full} has shape {shapes}")
        placed.append((parameter, kind, tensor))
    for parameter in parameters.values():
        optimizer.state.pop(parameter, None)
    for parameter, kind, tensor in placed:
        if kind == "step" or tensor.shape != parameter.shape:  # single numbers, kept on the CPU
            value = tensor.clone()
        else:  # on the parameter's device, in its memory format
            value = torch.empty_like(parameter, dtype=tensor.dtype).copy_(tensor)
        optimizer.state[parameter][kind] = value.detach()
