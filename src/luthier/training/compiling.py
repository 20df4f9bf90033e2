"""torch.compile, in place."""

from __future__ import annotations

from torch import nn


def compile_in_place(model: nn.Module) -> nn.Module:
    """Let a model compute through torch.compile from its next call on; return it.

    The module stays the one that it was, with its names, parameters and hooks, so that whatever
    saves, compares or freezes it sees no difference. Each size of batch is compiled for itself: an
    epoch has two at most, and code for any size is slower.
    """
    model.compile(dynamic=False)
    return model
