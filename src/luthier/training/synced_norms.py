"""Batch normalisation by the statistics of a whole batch, of which each process has a part."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm
from torch.overrides import TorchFunctionMode

from luthier.errors import ModelError


class SyncedNorms:
    """The batch normalisation of a model, by mean and variance over all processes.

    It is what ``torch.nn.SyncBatchNorm`` computes, on any device, and for subclasses with a forward
    of their own. The modules stay those that they are.

    Args:
        model: the same in all processes.

    Attributes:
        counts: this process's images are of the batch; else they are made up, to take part.
        forwards: how the modules compute in a step; see ``Learner``.

    Raises:
        ModelError: it has no batch normalisation.
    """

    def __init__(self, model: nn.Module) -> None:
        self.counts = True
        self.forwards: dict[nn.Module, Callable[..., Any]] = {
            module: functools.partial(self._forward, module.forward)
            for module in model.modules()
            if isinstance(module, _BatchNorm)
        }
        if not self.forwards:
            raise ModelError(
                f"--sync-batchnorm has no effect: {type(model).__name__} has no batch norm",
                cure="leave it out",
            )

    def _forward(self, forward: Callable[..., Any], *given: Any, **named: Any) -> Any:
        with _InPlaceOfBatchNorm(self._normalised):
            return forward(*given, **named)

    def _normalised(
        self,
        images: torch.Tensor,
        running_mean: torch.Tensor | None,
        running_var: torch.Tensor | None,
        weight: torch.Tensor | None = None,
        bias: torch.Tensor | None = None,
        training: bool = False,
        momentum: float = 0.1,
        eps: float = 1e-5,
    ) -> torch.Tensor:
        if not training:
            how = weight, bias, training, momentum, eps
            return F.batch_norm(images, running_mean, running_var, *how)
        mean, var, count = _statistics(images, self.counts)
        if running_mean is not None and running_var is not None:
            with torch.no_grad():
                unbiased = var * (count / (count - 1))
                for running, now in ((running_mean, mean), (running_var, unbiased)):
                    running.mul_(1 - momentum).add_(now, alpha=momentum)
        inverse = torch.rsqrt(var + eps)
        found: torch.Tensor = _Normalised.apply(  # type: ignore[no-untyped-call]
            images, weight, bias, mean, inverse, count if self.counts else None
        )
        return found


class _InPlaceOfBatchNorm(TorchFunctionMode):
    def __init__(self, normalised: Callable[..., torch.Tensor]) -> None:
        super().__init__()
        self._normalised = normalised

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        made = self._normalised if func is F.batch_norm else func
        return made(*args, **(kwargs or {}))


@torch.no_grad()
def _statistics(images: torch.Tensor, counts: bool) -> tuple[torch.Tensor, torch.Tensor, float]:
    """Return mean and variance of each channel in all processes, and over how many values."""
    var, mean = torch.var_mean(_exact(images), _others(images), correction=0)
    own = mean.new_tensor([images.numel() // images.shape[1] if counts else 0])
    told = _gathered(torch.cat([mean, var, own]))
    means, variances, each = torch.split(told, [len(mean), len(mean), 1], dim=1)
    count = each.double().sum().item()
    if count <= 1:
        raise ValueError(f"Expected more than 1 value per channel when training, got {count:.0f}")
    share = each / count
    mean = (share * means).sum(0)
    var = (share * (variances + (means - mean).square())).sum(0)
    return mean, var, count


class _Normalised(torch.autograd.Function):
    """Images by mean and inverse deviation, which depend on the images of all processes."""

    @staticmethod
    def forward(
        ctx: Any,
        images: torch.Tensor,
        weight: torch.Tensor | None,
        bias: torch.Tensor | None,
        mean: torch.Tensor,
        inverse: torch.Tensor,
        count: float | None,  # None: mean and deviation are of other images than these
    ) -> torch.Tensor:
        ctx.save_for_backward(images, weight, mean, inverse)
        ctx.count = count
        found = (_exact(images) - _wide(mean, images)) * _wide(inverse, images)
        if weight is not None:
            found = found * _wide(weight, images)
        if bias is not None:
            found = found + _wide(bias, images)
        return found.to(images.dtype)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> Any:
        images, weight, mean, inverse = ctx.saved_tensors
        slope = _exact(gradient)
        normed = (_exact(images) - _wide(mean, images)) * _wide(inverse, images)
        by_bias, by_weight = slope.sum(_others(images)), (slope * normed).sum(_others(images))
        of_all = _gathered(torch.cat([by_bias, by_weight])).sum(0)
        if ctx.count is not None:
            by_mean, by_deviation = (of_all / ctx.count).chunk(2)
            slope = slope - _wide(by_mean, images) - normed * _wide(by_deviation, images)
        scale = inverse if weight is None else inverse * weight
        by_images = (slope * _wide(scale, images)).to(images.dtype)
        has_weight, has_bias = ctx.needs_input_grad[1:3]
        return (
            by_images,
            by_weight if has_weight else None,
            by_bias if has_bias else None,
            *(None,) * 3,
        )


def _exact(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def _others(images: torch.Tensor) -> list[int]:
    """Return all dimensions but that of the channels."""
    return [0, *range(2, images.ndim)]


def _wide(channels: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
    return channels.view(1, -1, *(1,) * (images.ndim - 2))


def _gathered(mine: torch.Tensor) -> torch.Tensor:
    """Return what all processes give, a row each; summed by row, all have the same bits."""
    rows = [torch.empty_like(mine) for _ in range(dist.get_world_size())]
    dist.all_gather(rows, mine)
    return torch.stack(rows)
