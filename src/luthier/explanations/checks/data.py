"""Errors of data sets, loaders, shapes, dtypes and targets."""

from __future__ import annotations

from luthier.explanations.values import Case, Facts


def unequal(case: Case) -> Facts | None:
    """Return the sizes of the samples that make no batch; only within a loader's collation."""
    frames = case.raised.frames
    if not any(frame.function.endswith(("collate", "collate_tensor_fn")) for frame in frames):
        return None
    return {"first": case.found["first"], "other": case.found["other"]}
