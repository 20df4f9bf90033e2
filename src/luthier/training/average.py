"""The exponential moving average of a model's weights."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping

import torch
from torch import nn

from luthier.distributed.pieces import put
from luthier.errors import DoesNotFitError


class WeightAverage:
    """An exponential moving average of parameters and floating-point buffers.

    Early on, the decay is the smaller of ``decay`` and ``(1 + n) / (10 + n)`` after ``n``
    updates, so that the random start of the head is soon forgotten (as TensorFlow's
    ``ExponentialMovingAverage`` does). Tensors that never move keep their bits.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self._model, self._decay = model, decay
        self.tensors = {name: t.detach().clone() for name, t in model.state_dict().items()}

    @torch.no_grad()
    def update(self, updates: int) -> None:
        """Take in the model's present weights, after ``updates`` earlier calls."""
        decay = min(self._decay, (1 + updates) / (10 + updates))
        for name, now in self._model.state_dict().items():
            mean = self.tensors[name]
            if mean.is_floating_point():
                moved = mean + (now - mean) * (1 - decay)
                mean.copy_(torch.where(now == mean, mean, moved))  # keeps the bits of -inf, -0.0
            else:
                mean.copy_(now)

    @property
    def buffers(self) -> list[torch.Tensor]:
        """The averages of buffers, such as running means."""
        parameters = {name for name, _ in self._model.named_parameters()}
        return [tensor for name, tensor in self.tensors.items() if name not in parameters]

    @torch.no_grad()
    def load(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Put a saved average back.

        Raises:
            DoesNotFitError: it lacks a tensor, or has one of another shape; nothing was changed.
        """
        for name, mean in self.tensors.items():
            if name not in tensors or tensors[name].shape != mean.shape:
                raise DoesNotFitError(
                    f"the saved average has no {name} of shape {tuple(mean.shape)}",
                    cure="the model's code has changed since; start a new run",
                )
        for name, mean in self.tensors.items():
            put(mean, tensors[name])

    @contextlib.contextmanager
    def in_place_of_weights(self) -> Iterator[None]:
        """Let the model have the averaged weights inside, and its own again after."""
        own = {name: t.detach().clone() for name, t in self._model.state_dict().items()}
        self._put(self.tensors)
        try:
            yield
        finally:
            self._put(own)

    @torch.no_grad()
    def _put(self, tensors: Mapping[str, torch.Tensor]) -> None:
        for name, tensor in self._model.state_dict().items():
            tensor.copy_(tensors[name])
