"""Optimizer state by parameter name: it cannot land on another parameter."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from luthier.checkpoint.parts import Captured, Saved
from luthier.checkpoint.tree import pack, unpack
from luthier.distributed.pieces import put
from luthier.errors import DoesNotFitError, UnsupportedStateError

Names = Mapping[torch.Tensor, str]
Tensors = dict[str, torch.Tensor]
_NESTED, _GROUP = "nested", "group"  # begin the names of tensors inside of lists and of options
_OF_OPTIMIZERS = {"type", "groups", "shapes", "state"}
_OF_THE_HOST = ("step", "mu_product", "eta", "mu")  # single numbers that torch keeps there


@dataclass(frozen=True)
class OptimizerReport:
    """What became of an optimizer's saved state.

    Attributes:
        restored: parameters whose state was put back.
        empty: parameters that the saved optimizer did not hold, or held in another shape; their
            state starts empty.
        left_out: parameters whose saved state has no place here: frozen, gone or of another shape.
        regrouped: parameters whose group is another than when saved, and whose learning rate and
            other options are therefore those of the present group.
    """

    restored: tuple[str, ...] = ()
    empty: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()
    regrouped: tuple[str, ...] = ()

    def __str__(self) -> str:
        lines = [f"optimizer state of {len(self.restored)} parameters restored by name"]
        for what, names in (
            ("starts empty", self.empty),
            ("left out", self.left_out),
            ("in another group, whose options hold", self.regrouped),
        ):
            if names:
                more = f" and {len(names) - 6} more" if len(names) > 6 else ""
                lines.append(f"{what}: {', '.join(names[:6])}{more}")
        return "; ".join(lines)

    @property
    def complete(self) -> bool:
        """Whether everything is as it was when saved."""
        return not (self.empty or self.left_out or self.regrouped)


def names_of(modules: Mapping[str, torch.nn.Module]) -> dict[torch.Tensor, str]:
    """Return the name of every parameter, after the name of its module: ``"model.fc.weight"``."""
    found: dict[torch.Tensor, str] = {}
    for prefix, module in modules.items():
        for name, parameter in module.named_parameters():
            # Also with one module: others may join it later, which is to rename nothing.
            found.setdefault(parameter, f"{prefix}.{name}")
    return found


def learning_in(optimizers: Iterable[torch.optim.Optimizer]) -> set[int]:
    """Return the ``id`` of every parameter that an optimizer holds."""
    groups = (group for optimizer in optimizers for group in optimizer.param_groups)
    return {id(parameter) for group in groups for parameter in group["params"]}


def named_groups(
    optimizer: torch.optim.Optimizer, names: Names
) -> Iterator[tuple[dict[str, Any], dict[str, torch.Tensor]]]:
    """Yield each group with its parameters by name, in order.

    Raises:
        DoesNotFitError: a parameter has no name; its place and shape are given.
    """
    for number, group in enumerate(optimizer.param_groups):
        named = {}
        for position, parameter in enumerate(group["params"]):
            if parameter not in names:
                raise DoesNotFitError(
                    f"parameter {position} of group {number} of {type(optimizer).__name__}, of"
                    f" shape {tuple(parameter.shape)}, belongs to no module that is tracked",
                    cure="track the module it belongs to, so that its state is kept by name",
                )
            named[names[parameter]] = parameter
        yield group, named


def check_named(optimizer: torch.optim.Optimizer, names: Names) -> None:
    """Make sure that every parameter of an optimizer has a name.

    Raises:
        DoesNotFitError: one has none; its place and shape are given.
    """
    for _group in named_groups(optimizer, names):
        pass


def capture_optimizer(optimizer: torch.optim.Optimizer, names: Names) -> Captured:
    """Return an optimizer's state; its tensors are the optimizer's own, not copies.

    Args:
        optimizer: of any kind.
        names: of all its parameters; see ``names_of``.

    Raises:
        DoesNotFitError: a parameter without a name.
        UnsupportedStateError: a value that is neither a tensor nor plain.
    """
    moments: Tensors = {}  # only a step changes them
    options: Tensors = {}  # a scheduler may change them at any time
    strange = [key for key in optimizer.state if not isinstance(key, torch.Tensor)]
    if strange:
        kind = type(optimizer).__name__
        raise UnsupportedStateError(f"{kind} keeps state of no parameter: {strange[0]!r}")
    groups: list[dict[str, Any]] = []
    shapes: dict[str, list[int]] = {}
    values: dict[str, dict[str, Any]] = {}  # what is no tensor by itself, such as L-BFGS's lists
    for number, (group, named) in enumerate(named_groups(optimizer, names)):
        own = {k: v for k, v in group.items() if k not in ("params", "names")}
        packed, tensors = pack(own, f"{_GROUP}/{number}")
        options.update(tensors)
        groups.append({"names": list(named), "options": packed})
        for name, parameter in named.items():
            shapes[name] = list(parameter.shape)
            for kind, value in optimizer.state.get(parameter, {}).items():
                if isinstance(value, torch.Tensor) and kind not in (_NESTED, _GROUP):
                    moments[f"{kind}/{name}"] = value
                else:
                    packed, found = pack(value, f"{_NESTED}/{kind}/{name}")
                    values.setdefault(name, {})[kind] = packed
                    moments.update(found)
    plain = {"type": type(optimizer).__name__, "groups": groups, "shapes": shapes, "state": values}
    return Captured(later=moments, now=options, plain=plain)


def restore_optimizer(
    optimizer: torch.optim.Optimizer, names: Names, saved: Saved
) -> OptimizerReport:
    """Put captured state back, parameter by parameter, each by its name.

    Learning rate, momentum and the other options come back for every group that holds the same
    parameters as when saved; another group keeps its own.

    Args:
        optimizer: its state is replaced.
        names: of all its parameters.
        saved: what ``capture_optimizer`` returned, read back; its tensors are copied.

    Raises:
        DoesNotFitError: it is the state of another kind of optimizer; nothing was changed.
    """
    return fit_optimizer(optimizer, names, saved)()


def fit_optimizer(
    optimizer: torch.optim.Optimizer, names: Names, saved: Saved
) -> Callable[[], OptimizerReport]:
    """Compare an optimizer with a saved state, and return what ``restore_optimizer`` then does.

    Raises:
        DoesNotFitError: see there.
    """
    kind = type(optimizer).__name__
    if not (isinstance(saved.plain, dict) and saved.plain.keys() >= _OF_OPTIMIZERS):
        raise DoesNotFitError(
            f"the optimizer is {kind}, and what the checkpoint has under its name is no optimizer's"
            " state",
            cure="give each object the name that it had when it was saved",
        )
    if saved.plain["type"] != kind:
        raise DoesNotFitError(
            f"the checkpoint has the state of {saved.plain['type']}, and the optimizer is {kind}",
            cure=f"go on with {saved.plain['type']}, or start a new run from the saved model",
        )
    check_named(optimizer, names)
    return functools.partial(_put_back, optimizer, names, saved, _by_name(saved))


def _put_back(
    optimizer: torch.optim.Optimizer,
    names: Names,
    saved: Saved,
    of_name: Mapping[str, Mapping[str, Any]],
) -> OptimizerReport:
    groups = list(named_groups(optimizer, names))
    held = {name: (group, p) for group, named in groups for name, p in named.items()}
    fits = not isinstance(optimizer, torch.optim.LBFGS) or _same_vector(held, saved)
    restored, empty = [], []
    for name, (group, parameter) in held.items():
        optimizer.state.pop(parameter, None)
        if not fits or saved.plain["shapes"].get(name) != list(parameter.shape):
            empty.append(name)
            continue
        restored.append(name)
        for kind, value in of_name.get(name, {}).items():
            optimizer.state[parameter][kind] = _place(value, parameter, kind, group)
    regrouped = restore_options(optimizer, names, saved)
    left = [name for name in of_name if name not in restored]
    return OptimizerReport(tuple(restored), tuple(empty), tuple(left), regrouped)


def _same_vector(held: Mapping[str, tuple[Any, torch.Tensor]], saved: Saved) -> bool:
    # L-BFGS sees all parameters as one long vector, and keeps one state of it.
    shapes = [(name, list(parameter.shape)) for name, (_, parameter) in held.items()]
    return shapes == list(saved.plain["shapes"].items())


def _by_name(saved: Saved) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for full, tensor in saved.tensors.items():
        kind, _, name = full.partition("/")
        if name in saved.plain["shapes"] and kind not in (_NESTED, _GROUP):
            found.setdefault(name, {})[kind] = tensor
    for name, kinds in saved.plain["state"].items():
        for kind, packed in kinds.items():
            found.setdefault(name, {})[kind] = unpack(packed, saved.tensors)
    return found


def restore_options(
    optimizer: torch.optim.Optimizer, names: Names, saved: Saved
) -> tuple[str, ...]:
    """Put back the options of the groups alone, as after a scheduler was built on top of them.

    Returns:
        names of the parameters whose group is another than when saved.
    """
    known = {frozenset(group["names"]): group["options"] for group in saved.plain["groups"]}
    regrouped: list[str] = []
    for group, named in named_groups(optimizer, names):
        packed = known.get(frozenset(named))
        if packed is None:
            regrouped += named
            continue
        for option, value in unpack(packed, saved.tensors).items():
            if isinstance(value, torch.Tensor) and isinstance(group.get(option), torch.Tensor):
                group[option].copy_(value)
            else:
                group[option] = value.clone() if isinstance(value, torch.Tensor) else value
    return tuple(regrouped)


def _place(value: Any, parameter: torch.Tensor, kind: str, group: Mapping[str, Any]) -> Any:
    if isinstance(value, list | tuple):
        return type(value)(_place(item, parameter, kind, group) for item in value)
    if not isinstance(value, torch.Tensor):
        return value
    if kind in _OF_THE_HOST and not (group.get("capturable") or group.get("fused")):
        return value.clone()
    if value.shape == parameter.shape:  # in the parameter's memory format
        held = torch.empty_like(parameter, dtype=value.dtype).detach()
        put(held, value)
        return held
    return value.to(parameter.device, copy=True)
