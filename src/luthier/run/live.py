"""The variables of a program that has raised an error, described as plain values.

Nothing of the program is kept or changed, and no code of its objects runs but torch's own. A
device is not waited for: after an assertion of a kernel it answers nothing more.
"""

from __future__ import annotations

import contextlib
import sys
import traceback
from collections.abc import Iterator, Mapping
from pathlib import PurePath
from types import FrameType
from typing import Any

from luthier.explanations import Fact, ModuleFacts, ObjectFacts, TensorFacts

_MOST_NAMES = 200  # variables of a call that are looked at
_MOST_PARTS = 4  # of a tuple or list
_MOST_VALUES = 10_000_000  # of a tensor that are looked at
_MOST_LABELS = 1_000_000
_LONGEST = 200  # characters of a text
_LABELS = ("targets", "labels", "_labels", "y")  # of torchvision's data sets, and of many others


def variables_of(error: BaseException) -> tuple[Mapping[str, Fact], ...]:
    """Return for each call of an error's traceback its variables, as far as they are known.

    Tensors, modules, optimizers, schedules, loaders, data sets and plain values are; a module says
    where it is in the outermost module that any of the calls has. A short tuple or list of tensors
    is known by its parts: "state[0]".
    """
    if "torch" not in sys.modules:
        return ()
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    paths = _paths(frames)
    return tuple(_variables(frame, paths) for frame in frames)


def _variables(frame: FrameType, paths: Mapping[int, str]) -> dict[str, Fact]:
    found: dict[str, Fact] = {}
    for name, value in list(frame.f_locals.items())[:_MOST_NAMES]:
        with contextlib.suppress(Exception):  # an object whose attributes raise is not described
            for part, inside in _parts(name, value):
                fact = _fact(inside, paths)
                if fact is not None:
                    found[part] = fact
    return found


def _parts(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    """Yield the tensors of a short tuple or list, as an LSTM's state is; else the value itself."""
    import torch  # noqa: PLC0415 - only where the program has torch

    is_short = isinstance(value, tuple | list) and len(value) <= _MOST_PARTS
    if is_short and all(isinstance(part, torch.Tensor) for part in value):
        yield from ((f"{name}[{number}]", part) for number, part in enumerate(value))
    else:
        yield name, value


def _paths(frames: list[FrameType]) -> dict[int, str]:
    """Return the path of each module in the outermost one that the frames have, by its id."""
    from torch import nn  # noqa: PLC0415 - only where the program has torch

    roots = [
        value
        for frame in frames
        for value in [frame.f_locals.get("self"), *frame.f_locals.values()]
        if isinstance(value, nn.Module)
    ]
    found: dict[int, str] = {}
    for root in roots:
        with contextlib.suppress(AttributeError):  # one whose __init__ has not run
            for path, module in root.named_modules():
                found.setdefault(id(module), path)
    return found


def _fact(value: Any, paths: Mapping[int, str]) -> Fact | None:
    import torch  # noqa: PLC0415 - see above

    if isinstance(value, torch.Tensor):
        return tensor_facts(value)
    if isinstance(value, torch.nn.Module):
        return _module(value, paths)
    if isinstance(value, str | PurePath):
        return str(value)[:_LONGEST]
    if isinstance(value, bool | int | float):
        return value
    fields = dict(_fields(value))
    return ObjectFacts(type(value).__name__, fields) if fields else None


def tensor_facts(tensor: Any, *, values: bool = True) -> TensorFacts:
    """Return what a tensor is; of its values only what costs little.

    Args:
        tensor: of torch.
        values: look at the values of what is at hand.
    """
    low = high = is_finite = None
    at_hand = tensor.device.type == "cpu" and 0 < tensor.numel() <= _MOST_VALUES
    if values and at_hand and not tensor.is_sparse:
        with contextlib.suppress(RuntimeError):  # a dtype without order
            if tensor.is_floating_point():
                is_finite = bool(tensor.detach().isfinite().all())
            else:
                ends = tensor.detach().aminmax()
                low, high = int(ends.min), int(ends.max)
    return TensorFacts(
        tuple(tensor.shape),
        str(tensor.dtype).removeprefix("torch."),
        str(tensor.device),
        tensor.requires_grad,
        tensor.is_leaf,
        low,
        high,
        is_finite,
    )


def _module(module: Any, paths: Mapping[int, str]) -> ModuleFacts:
    return ModuleFacts(
        type(module).__name__,
        paths.get(id(module), ""),
        module.training,
        {name: tensor_facts(t) for name, t in module.named_parameters()},
        {name: tensor_facts(t) for name, t in module.named_buffers()},
        {name: type(m).__name__ for name, m in module.named_modules()},
    )


def _fields(value: Any) -> Iterator[tuple[str, object]]:
    """Yield what is known of an object of a known kind.

    An optimizer: ``rates`` and ``initial_rates`` (None where there are none) of its groups,
    ``tensors``: how many it has, ``states``: of how many it has state, ``devices`` of that.
    A schedule: ``last_epoch``, ``total_steps``. A loader: ``workers``, ``batch_size``,
    ``dataset``: its kind. A data set and a loader of one: ``low``, ``high``: of its labels.
    """
    from torch import optim  # noqa: PLC0415 - see above
    from torch.utils.data import DataLoader, Dataset  # noqa: PLC0415

    if isinstance(value, optim.Optimizer):
        groups, state = value.param_groups, value.state
        yield "rates", tuple(float(group["lr"]) for group in groups)
        yield "initial_rates", tuple(group.get("initial_lr") for group in groups)
        yield "tensors", sum(len(group["params"]) for group in groups)
        yield "states", len(state)
        tensors = [t for own in state.values() for t in own.values() if hasattr(t, "device")]
        yield "devices", tuple(sorted({str(t.device) for t in tensors}))
    elif isinstance(value, optim.lr_scheduler.LRScheduler):
        yield "last_epoch", value.last_epoch
        yield "total_steps", getattr(value, "total_steps", None)
    elif isinstance(value, DataLoader):
        yield "workers", value.num_workers
        yield "batch_size", value.batch_size
        yield "dataset", type(value.dataset).__name__
        yield from _labels(value.dataset)
    elif isinstance(value, Dataset):
        yield "dataset", type(value).__name__
        yield from _labels(value)


def _labels(dataset: Any) -> Iterator[tuple[str, object]]:
    """Yield the least and the greatest label of a data set that has them as a list."""
    for name in _LABELS:
        labels = vars(dataset).get(name)
        if isinstance(labels, list | tuple) and 0 < len(labels) <= _MOST_LABELS:
            if all(isinstance(label, int) for label in labels):
                yield "low", min(labels)
                yield "high", max(labels)
            return
