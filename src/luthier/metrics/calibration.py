"""Temperature scaling (Guo et al. 2017, arXiv 1706.04599, section 4.2)."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from luthier.errors import DataError


def fit_temperature(scores: torch.Tensor, labels: torch.Tensor) -> float:
    """Return the temperature with which the cross-entropy of scores is the least.

    Args:
        scores: ``[images, classes]``.
        labels: int64 ``[images]``.

    Raises:
        DataError: it is the least at no temperature: the model has all images right, or labels no
            higher than other classes.
    """
    exact = scores.double()
    own = exact.gather(1, labels[:, None])[:, 0]
    if bool((own >= exact.max(1).values).all()):
        raise DataError(
            f"no temperature can be fitted to {len(labels)} images that the model has all right:"
            " the lower, the better",
            cure="calibrate on images of which it has some wrong, such as more of them",
        )
    if float(own.mean()) <= float(exact.mean()):
        raise DataError(
            "no temperature can be fitted to a model that scores the right class no higher than"
            " the others: the higher, the better",
            cure="see whether the labels are the right ones",
        )
    # The loss is convex in 1 / T; its logarithm keeps that above 0.
    sharpness = torch.zeros((), dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([sharpness], max_iter=200, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        found = F.cross_entropy(exact * sharpness.exp(), labels)
        found.backward()  # type: ignore[no-untyped-call]
        return found

    with torch.enable_grad():
        optimizer.step(loss)  # type: ignore[no-untyped-call]
    return float(torch.exp(-sharpness.detach()))
