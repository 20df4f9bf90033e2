"""Errors of autograd, optimizers, schedules, mixed precision and several processes."""

from __future__ import annotations

from luthier.explanations.values import Case, Facts, ModuleFacts


def without_gradient(case: Case) -> Facts | None:
    """Return how many parameters of a model at hand are frozen."""
    models = [v for frame in case.live for v in frame.values() if isinstance(v, ModuleFacts)]
    largest = max(models, key=lambda model: len(model.parameters), default=None)
    if largest is None or not largest.parameters:
        return {}
    frozen = sum(not tensor.requires_grad for tensor in largest.parameters.values())
    return {"kind": largest.kind, "frozen": frozen, "all": len(largest.parameters)}
