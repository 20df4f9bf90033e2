"""A linear probe: multinomial logistic regression on stored features, to convergence.

Everything is computed in float64 on the CPU, block by block, so that features may lie in files that
are mapped, and are never all in memory at once. Nothing is random: the same blocks give the same
bits.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional as F

from luthier.keys import key

# Strengths of the pull on the weights to zero, strongest first: the precision of their normal
# prior, if each photo counts once. Wide enough for a handful of photos and for millions.
PENALTIES = tuple(10.0 ** (4 - step / 2) for step in range(17))
DEFAULT_PENALTY = 100.0  # where there is nothing to choose by
ALWAYS, NEVER = -1, -2  # folds of photos that are always learned from, and of those left out
_RISES = 2  # penalties in a row that are no better before weaker ones are given up
_ROUGH, _FINE = 1e-4, 1e-7  # largest gradient: to compare penalties, and at the end
_MOST_ITERATIONS = 1000
_HELD = 1 << 30  # bytes of standardised features that are kept instead of made again each time
_SMALL = 1 << 22  # features in all, for which a second thread costs more than it brings
_STEADY = 1e-6  # a feature whose deviation is a smaller part of its mean says nothing


@dataclass(frozen=True)
class Shown:
    """Some photos as the trunk shows them.

    Attributes:
        features: float32 ``[photos, features]``.
        labels: int64 ``[photos]``.
        folds: int64 ``[photos]``: the fold of each in the cross-validation, ``ALWAYS`` or
            ``NEVER``.
        weights: float64 ``[photos]``: how much each counts; the views of a photo share its weight.
    """

    features: torch.Tensor
    labels: torch.Tensor
    folds: torch.Tensor
    weights: torch.Tensor


@dataclass(frozen=True)
class Probe:
    """A fitted head, for features as they are: standardisation is folded into it.

    Attributes:
        weight: float32 ``[classes, features]``.
        bias: float32 ``[classes]``, or None.
        penalty: that it was fitted with.
        tried: each penalty that was tried, and its mean loss on photos that were held out; empty
            where nothing could be held out.
        iterations: of the last fit.
        converged: whether its gradient vanished.
    """

    weight: torch.Tensor
    bias: torch.Tensor | None
    penalty: float
    tried: tuple[tuple[float, float], ...]
    iterations: int
    converged: bool


def folds_of(
    labels: Sequence[int], content: Sequence[str], seed: int, folds: int = 5, most: int = 4000
) -> list[int]:
    """Divide photos into folds of equal size and mix, as a function of the seed.

    Copies of a photo are in one fold. Of a class with a single photo that one is always learned
    from. Pure.

    Args:
        labels: of the photos.
        content: equal for copies of one photo.
        seed: decides.
        folds: at most so many.
        most: photos that take part in the cross-validation; the others are left out of it.
    """
    photos = sorted({(label, what) for label, what in zip(labels, content, strict=True)})
    rank = np.random.Philox(key=key(seed, "folds")).random_raw(len(photos))
    shuffled = [photos[i] for i in np.argsort(rank, kind="stable")]
    by_class: dict[int, list[tuple[int, str]]] = {}
    for photo in shuffled:
        by_class.setdefault(photo[0], []).append(photo)
    fold: dict[tuple[int, str], int] = {}
    share, dealt = min(1.0, most / len(photos)) if photos else 1.0, 0
    for label in sorted(by_class):
        of_class = by_class[label]
        taken = of_class[: max(2, round(share * len(of_class)))]
        for photo in taken if len(of_class) > 1 else ():
            fold[photo] = dealt % folds
            dealt += 1
        left = dict.fromkeys(of_class[len(taken) :], NEVER)
        fold |= left if len(of_class) > 1 else {of_class[0]: ALWAYS}
    return [fold[photo] for photo in zip(labels, content, strict=True)]


def fit_probe(
    shown: Sequence[Shown],
    classes: int,
    *,
    bias: bool = True,
    penalties: Sequence[float] = PENALTIES,
    each: Callable[[], object] = lambda: None,
) -> Probe:
    """Fit the head that a penalised logistic regression gives, its penalty by cross-validation.

    The loss is the sum over photos of the cross-entropy, and half the penalty times the squared
    norm of the weights of standardised features; the bias is free. Weights that have been found
    for one penalty are where the search begins for the next.

    Args:
        shown: what is learned from; the order matters to the bits alone.
        classes: number of classes.
        bias: whether the head has one. Without it features are scaled and not centred.
        penalties: to choose from, strongest first.
        each: called before each evaluation of the loss; may raise, to stop.
    """
    with _few_threads(sum(piece.features.numel() for piece in shown)):
        return _fit_probe(shown, classes, bias, penalties, each)


@contextlib.contextmanager
def _few_threads(features: int) -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1 if features <= _SMALL else threads)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _fit_probe(
    shown: Sequence[Shown],
    classes: int,
    bias: bool,
    penalties: Sequence[float],
    each: Callable[[], object],
) -> Probe:
    mean, deviation = _moments(shown)
    if not bias:
        mean = torch.zeros_like(mean)
    rows = _Rows(shown, mean, deviation)
    some = _taking_part(shown)
    partly = rows if some is shown else _Rows(some, mean, deviation)
    tried: list[tuple[float, float]] = []
    if len(penalties) > 1:
        tried = _cross_validate(partly, classes, bias, penalties, each)
    default = DEFAULT_PENALTY if len(penalties) > 1 else penalties[0]
    penalty = min(tried, key=lambda pair: pair[1])[0] if tried else default
    fit = _Fit(rows, classes, bias, None, each)
    stronger = [p for p in penalties if p > penalty][-1:]
    for at in stronger:
        fit.solve(at, _ROUGH)
    fit.solve(penalty, _FINE)
    weight = fit.weight / deviation
    return Probe(
        weight.float(),
        (fit.bias - weight @ mean).float() if bias else None,
        penalty,
        tuple(tried),
        fit.iterations,
        fit.converged,
    )


def _taking_part(shown: Sequence[Shown]) -> Sequence[Shown]:
    """Return the photos that take part in the cross-validation."""
    masks = [piece.folds != NEVER for piece in shown]
    if all(bool(mask.all()) for mask in masks):
        return shown
    return [
        Shown(piece.features[mask], piece.labels[mask], piece.folds[mask], piece.weights[mask])
        for piece, mask in zip(shown, masks, strict=True)
    ]


def _cross_validate(
    rows: _Rows,
    classes: int,
    bias: bool,
    penalties: Sequence[float],
    each: Callable[[], object],
) -> list[tuple[float, float]]:
    folds = sorted(rows.folds() - {ALWAYS})
    if len(folds) < 2:
        return []
    fits = [_Fit(rows, classes, bias, fold, each) for fold in folds]
    tried: list[tuple[float, float]] = []
    for penalty in penalties:
        for fit in fits:
            fit.solve(penalty, _ROUGH)
        sums = [fit.held_out() for fit in fits]
        tried.append((penalty, sum(s for s, _ in sums) / sum(w for _, w in sums)))
        best = min(range(len(tried)), key=lambda i: tried[i][1])
        if len(tried) - 1 - best >= _RISES:
            break
    return tried


_Piece = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]


class _Rows:
    """Standardised features in float64, piece by piece: made when asked for, or held."""

    def __init__(self, shown: Sequence[Shown], mean: torch.Tensor, deviation: torch.Tensor) -> None:
        self._shown, self._mean, self._deviation = shown, mean, deviation
        self.features = len(mean)
        needed = 8 * self.features * sum(len(piece.labels) for piece in shown)
        self._held = list(self._made()) if needed <= _HELD else None

    def _made(self) -> Iterator[_Piece]:
        for piece in self._shown:
            wide = (piece.features.double() - self._mean) / self._deviation
            yield wide, piece.labels, piece.folds, piece.weights

    def pieces(self) -> Iterator[_Piece]:
        """Give features, labels, folds and weights, piece by piece."""
        return iter(self._held) if self._held is not None else self._made()

    def folds(self) -> set[int]:
        """Return the folds that there are."""
        return {fold for piece in self._shown for fold in piece.folds.tolist()}


def _moments(shown: Sequence[Shown]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return mean and deviation of each feature; the deviation is infinite where nothing varies."""
    count = sum(float(piece.weights.sum()) for piece in shown)
    mean = torch.zeros(shown[0].features.shape[1], dtype=torch.float64)
    for piece in shown:
        mean += piece.weights @ piece.features.double() / count
    spread = torch.zeros_like(mean)
    for piece in shown:
        spread += piece.weights @ (piece.features.double() - mean).square() / count
    deviation = spread.sqrt()
    steady = deviation <= _STEADY * mean.abs()
    return mean, torch.where(steady, torch.inf, deviation)


class _Fit:
    """A regression on all photos that take part, or on those outside of a fold.

    Attributes:
        weight: ``[classes, features]``, from zero on.
        bias: ``[classes]``.
        iterations: of the last ``solve``.
        converged: whether that reached its tolerance.
    """

    def __init__(
        self,
        rows: _Rows,
        classes: int,
        bias: bool,
        fold: int | None,
        each: Callable[[], object],
    ) -> None:
        self._rows, self._fold, self._each, self._has_bias = rows, fold, each, bias
        self.weight = torch.zeros(classes, rows.features, dtype=torch.float64)
        self.bias = torch.zeros(classes, dtype=torch.float64)
        self.iterations, self.converged = 0, False

    def solve(self, penalty: float, tolerance: float) -> None:
        """Find the weights of least loss, from those at hand."""
        parameters = [self.weight, self.bias] if self._has_bias else [self.weight]
        optimizer = torch.optim.LBFGS(
            parameters,
            max_iter=_MOST_ITERATIONS,
            max_eval=2 * _MOST_ITERATIONS,
            tolerance_grad=tolerance,
            tolerance_change=1e-20,  # until the loss, to its last bit, falls no more
            history_size=20,
            line_search_fn="strong_wolfe",
        )
        optimizer.step(lambda: self._evaluate(penalty))  # type: ignore[no-untyped-call]
        self.iterations = optimizer.state[self.weight]["n_iter"]
        self._evaluate(penalty)
        gradients = [p.grad for p in parameters if p.grad is not None]
        self.converged = all(float(g.abs().max()) <= 10 * tolerance for g in gradients)

    def _evaluate(self, penalty: float) -> float:
        """Return the mean loss and set the gradients."""
        self._each()
        loss, count = 0.0, 0.0
        by_weight, by_bias = torch.zeros_like(self.weight), torch.zeros_like(self.bias)
        for features, labels, weights in self._taken(held_out=False):
            scores = torch.addmm(self.bias, features, self.weight.T)
            logs = F.log_softmax(scores, 1)
            loss -= float(weights @ logs.gather(1, labels[:, None])[:, 0])
            slopes = logs.exp_()
            slopes[torch.arange(len(labels)), labels] -= 1.0
            slopes *= weights[:, None]
            by_weight.addmm_(slopes.T, features)
            by_bias += slopes.sum(0)
            count += float(weights.sum())
        loss += penalty / 2 * float(self.weight.square().sum())
        self.weight.grad = by_weight.add_(self.weight, alpha=penalty).div_(count)
        self.bias.grad = by_bias.div_(count)
        return loss / count

    def held_out(self) -> tuple[float, float]:
        """Return the sum of the losses over the photos of the fold, and of their weights."""
        loss, count = 0.0, 0.0
        for features, labels, weights in self._taken(held_out=True):
            scores = torch.addmm(self.bias, features, self.weight.T)
            loss += float(weights @ F.cross_entropy(scores, labels, reduction="none"))
            count += float(weights.sum())
        return loss, count

    def _taken(self, *, held_out: bool) -> Iterator[tuple[torch.Tensor, ...]]:
        for features, labels, folds, weights in self._rows.pieces():
            if held_out:
                yield features, labels, weights * (folds == self._fold)
            elif self._fold is None:
                yield features, labels, weights
            else:  # a weight of 0 costs less than a copy of the others
                yield features, labels, weights * (folds != self._fold)
