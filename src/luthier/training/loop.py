"""The step loop: batches in, steps out. Logging, saving and stopping are the caller's."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from luthier.errors import DivergedError, is_out_of_memory
from luthier.keys import key
from luthier.randomness import seed_generators
from luthier.training.average import WeightAverage
from luthier.training.clock import Clock
from luthier.training.microbatch import MicroBatch
from luthier.training.nonfinite import NonFinite, first_nonfinite
from luthier.training.precision import Precision
from luthier.training.schedule import Rates
from luthier.training.team import Forward, Pair, Team, finite
from luthier.training.toward import TowardStart
from luthier.values import Position, Step

Criterion = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
Mix = Callable[[torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]
_Numbered = tuple[int, torch.Tensor, torch.Tensor]  # batch of the run, images, labels


@dataclass
class Learner:
    """What a step changes and what it needs.

    Attributes:
        model: in the modes that its policy asks for.
        optimizer: its groups carry ``rate``, their part of the head's learning rate.
        criterion: scores ``[batch, classes]`` and targets → mean loss over the batch.
        precision: where and how the model runs.
        schedule: optimizer step, from 0 → rates.
        lr: learning rate of the head before the schedule.
        seed: decides dropout, drop-path and mixing, with the batch's number.
        accumulate: batches whose gradients make one step.
        clip_norm: largest norm of the gradient, or None.
        mix: mixup or CutMix of a batch, or None; labels become class shares.
        average: the moving average of the weights, or None.
        toward: weight decay toward the start, or None where the optimizer's own is all.
        forward: images → scores, where a faster way than calling the model is known.
        forwards: of modules that compute in another way in a step than outside of it.
        micro: lets fewer images go through at once where memory runs out; None: that is an error.
        team: those who take the same steps on the rest of each batch.
        clock: is told of the time that is spent on what is not computing.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    criterion: Criterion
    precision: Precision
    schedule: Callable[[int], Rates]
    lr: float
    seed: int = 0
    accumulate: int = 1
    clip_norm: float | None = None
    mix: Mix | None = None
    average: WeightAverage | None = None
    toward: TowardStart | None = None
    forward: Callable[[torch.Tensor], torch.Tensor] | None = None
    forwards: Mapping[nn.Module, Callable[..., Any]] = field(default_factory=dict)
    micro: MicroBatch | None = None
    team: Team | None = None
    clock: Clock = field(default_factory=Clock)


def train_epoch(
    learner: Learner,
    batches: Iterable[tuple[torch.Tensor, torch.Tensor]],
    sizes: list[int],
    at: Position,
) -> Iterator[Step]:
    """Train on the rest of an epoch and yield a ``Step`` after each batch.

    Gradients of ``accumulate`` batches are weighted by their images, so that they make the
    gradient of one large batch; the last, shorter group of an epoch makes a step too. Where memory
    runs out, the step that was under way is begun anew in smaller pieces.

    Args:
        learner: is changed in place.
        batches: from batch ``at.batch`` on; ``at`` must be the start of a group.
        sizes: images in each batch of the whole epoch.
        at: where the run stands.

    Raises:
        DivergedError: the loss is not finite; the optimizer has not moved on it.
        OutOfMemoryError: memory does not hold one image's training.
    """
    step = at.step
    learner.optimizer.zero_grad()
    group: list[_Numbered] = []
    awaited = learner.clock.awaited("waiting for data", batches)
    for number, (images, labels) in enumerate(awaited, start=at.batch):
        rates = _set_rates(learner, step)
        start = number - number % learner.accumulate
        if number == start:
            group.clear()
        group.append((at.epoch * len(sizes) + number, images, labels))
        size = sum(sizes[start : start + learner.accumulate])
        stepped = (number + 1) % learner.accumulate == 0 or number + 1 == len(sizes)
        loss, correct = _learn(learner, group, size, step, stepped)
        if stepped:
            _step(learner, step)
            step += 1
        yield Step(
            epoch=at.epoch,
            batch=number + 1,
            step=step,
            loss=loss,
            correct=correct,
            images=sizes[number],
            lr=learner.lr * rates.factor,
            stepped=stepped,
        )


def check_finite(weights: Mapping[str, torch.Tensor]) -> None:
    """Look at every weight before it is kept.

    Raises:
        DivergedError: one is not finite, as after a gradient that was not; it is named.
    """
    for name, tensor in weights.items():
        if tensor.is_floating_point() and not _is_finite(tensor):
            raise DivergedError(
                f"the weights {name} are no longer finite and were not saved",
                cure="lower --lr, or give --clip-norm 1; the last checkpoint is still good",
            )


def _is_finite(tensor: torch.Tensor) -> bool:
    # A sum takes a twentieth of the time, and is not finite where an element is not.
    return bool(torch.isfinite(tensor.sum())) or bool(torch.isfinite(tensor).all())


def _set_rates(learner: Learner, step: int) -> Rates:
    rates = learner.schedule(step)
    for group in learner.optimizer.param_groups:
        group["lr"] = learner.lr * group["rate"] * rates.factor
        if rates.momentum is not None and "momentum" in group:
            group["momentum"] = rates.momentum
        elif rates.momentum is not None:
            group["betas"] = (rates.momentum, group["betas"][1])
    return rates


def _learn(
    learner: Learner, group: Sequence[_Numbered], size: int, step: int, last: bool
) -> tuple[float, int]:
    """Add the gradient of the last batch of a group; return its loss and the images it got right.

    Args:
        learner: has the gradients of the batches before.
        group: the batches of this step so far.
        size: images in the whole group.
        step: that the group makes.
        last: the group is complete.
    """
    micro, todo = learner.micro, group[-1:]
    if micro is not None and len(group) == 1:
        micro.keep()
    while True:
        try:
            with _computed_by(learner.forwards):
                return [_backward(learner, batch, size, last) for batch in todo][-1]
        except (RuntimeError, MemoryError) as error:
            if micro is None or not is_out_of_memory(error):
                raise
            met = error.with_traceback(None)
        learner.optimizer.zero_grad()
        micro.put_back()
        micro.shrink(max(len(labels) for _, _, labels in group), f"step {step + 1}", met)
        todo = group


@contextlib.contextmanager
def _computed_by(forwards: Mapping[nn.Module, Callable[..., Any]]) -> Iterator[None]:
    """Let modules have these forwards inside, and their own again after."""
    own = {module: vars(module).get("forward") for module in forwards}
    for module, forward in forwards.items():
        module.forward = forward
    try:
        yield
    finally:
        for module, before in own.items():
            if before is None:
                del module.forward
            else:
                module.forward = before


def _backward(learner: Learner, batch: _Numbered, size: int, last: bool) -> tuple[float, int]:
    number, images, labels = batch
    work = _Work(learner, number)
    if learner.team is not None:
        return learner.team.learn(work, images, labels, size, last=last)
    inputs, targets = work.ready(images, labels, 0)
    pieces = [(inputs, targets)] if learner.micro is None else learner.micro.cut(inputs, targets)
    total, correct = 0.0, 0
    for shown, answers in pieces:
        loss, right = work.loss(shown, answers)
        value = finite(loss.item(), number, lambda: work.nonfinite(shown))  # noqa: B023 - called at once
        (loss * (len(answers) / size)).backward()  # type: ignore[no-untyped-call]
        total += value * (len(answers) / len(labels))
        correct += right
    return total, correct


class _Work:
    """One batch's work; see ``team.Work``."""

    def __init__(self, learner: Learner, number: int) -> None:
        self._learner, self.number = learner, number

    def ready(self, images: torch.Tensor, labels: torch.Tensor, rank: int) -> Pair:
        learner = self._learner
        seed_generators(key(learner.seed, "model", self.number, rank))
        with learner.clock.on("copying"):
            inputs, targets = learner.precision.place(images), learner.precision.place(labels)
        return (inputs, targets) if learner.mix is None else learner.mix(inputs, targets)

    def loss(
        self, images: torch.Tensor, targets: torch.Tensor, forward: Forward | None = None
    ) -> tuple[torch.Tensor, int]:
        learner = self._learner
        with learner.precision.autocast():
            scores = (forward or learner.forward or learner.model)(images)
        scores = scores.float()
        main = targets.argmax(1) if targets.ndim == 2 else targets
        return learner.criterion(scores, targets), int((scores.detach().argmax(1) == main).sum())

    def nonfinite(self, images: torch.Tensor) -> NonFinite | None:
        """Return what is not finite of a pass, where that can be found out."""
        with contextlib.suppress(RuntimeError), self._learner.precision.autocast():
            return first_nonfinite(self._learner.model, images)
        return None


def _step(learner: Learner, step: int) -> None:
    if learner.clip_norm is not None:
        # What stands still at rate 0 has gradients too, and must not shorten the others'.
        groups = learner.optimizer.param_groups
        params = [p for group in groups if group["rate"] for p in group["params"]]
        nn.utils.clip_grad_norm_(params, learner.clip_norm)
    if learner.toward is not None:
        learner.toward.pull_gradients(learner.optimizer)
    learner.optimizer.step()
    if learner.toward is not None:
        learner.toward.pull_weights(learner.optimizer)
    learner.optimizer.zero_grad()
    if learner.average is not None:
        learner.average.update(step)
