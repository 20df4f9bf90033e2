"""The objects of a loop whose state is kept: modules, optimizers, schedulers and whatever else."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.optim.lr_scheduler import LRScheduler

from luthier import checkpoint
from luthier.checkpoint import Captured, Checkpoint, OptimizerReport, Saved, Saver, Stateful
from luthier.errors import (
    DoesNotFitError,
    RecipeError,
    RunFolderError,
    UnsupportedStateError,
    nearest,
)

GRADIENTS, DATA = "gradients", "data"  # parts that are luthier's own


class _Tracking(NamedTuple):
    """Objects by kind and name."""

    modules: dict[str, nn.Module]
    optimizers: dict[str, torch.optim.Optimizer]
    others: dict[str, Any]

    def names(self) -> dict[torch.Tensor, str]:
        """Return the name of every parameter."""
        own = {v: n for n, v in self.others.items() if isinstance(v, torch.Tensor)}
        return checkpoint.names_of(self.modules) | own

    def and_also(self, more: _Tracking) -> _Tracking:
        """Return these and more."""
        return _Tracking(
            self.modules | more.modules,
            self.optimizers | more.optimizers,
            self.others | more.others,
        )


PutBack = tuple[str, Callable[[], object]]  # an object's name, and what gives it its state


class Tracked:
    """Named objects, and their way into a checkpoint and back.

    Args:
        saver: the optimizers' steps wait for its copies.
    """

    def __init__(self, saver: Saver) -> None:
        self._saver = saver
        self._all = _Tracking({}, {}, {})
        self._stepped: set[int] = set()
        self._notices: list[str] = []

    def add(self, objects: Mapping[str, Any], found: Checkpoint | None) -> None:
        """Track objects, and give them the state that a checkpoint has for them.

        Raises:
            DoesNotFitError: it does not fit. UnsupportedStateError: an object without a state.
                Nothing was changed, and none is tracked.
        """
        for name in objects:
            self._check_name(name)
        new = _sorted_out(objects)
        together = self._all.and_also(new)
        names = together.names()
        for optimizer in together.optimizers.values():
            checkpoint.check_named(optimizer, names)
        plan = _fit(together, objects, found) if found is not None else []
        # Nothing was changed so far, and luthier refuses nothing from here on.
        self._all = together
        for optimizer in new.optimizers.values():
            self._saver.watch(optimizer)
            optimizer.register_step_post_hook(self._note_step)
        if found is not None:
            self._put_back(objects, found, plan)

    def _put_back(
        self, objects: Mapping[str, Any], found: Checkpoint, plan: Iterable[PutBack]
    ) -> None:
        self._notices += [
            f"{name} is not in the checkpoint and starts as it is"
            for name in objects
            if name not in found.parts
        ]
        for name, put_back in plan:
            report = put_back()
            if isinstance(report, OptimizerReport) and not report.complete:
                self._notices.append(f"{name}: {report}")

    def _check_name(self, name: str) -> None:
        if name in (GRADIENTS, DATA):
            raise RunFolderError(f"the name {name!r} is luthier's own; take another")
        if not name.isidentifier():
            raise RunFolderError(f"{name!r} names no file; take a name of letters, digits and _")
        if any(name in kind for kind in self._all):
            raise RunFolderError(f"{name!r} is tracked already")

    def _note_step(self, optimizer: torch.optim.Optimizer, *_facts: object) -> None:
        self._stepped.add(id(optimizer))

    def names(self) -> dict[torch.Tensor, str]:
        """Return the name of every parameter."""
        return self._all.names()

    def has(self, value: object) -> bool:
        """Tell whether an object is tracked."""
        return any(value is one for kind in self._all for one in kind.values())

    def weights(self) -> dict[str, torch.Tensor]:
        """Return the state of every module, by the module's name and the tensor's."""
        return {
            f"{name}.{key}": value
            for name, module in self._all.modules.items()
            for key, value in module.state_dict().items()
        }

    def boundary(self) -> None:
        """Begin to take note of the optimizers that step."""
        self._stepped.clear()

    # --- out --------------------------------------------------------------------------------

    def capture(self) -> dict[str, Captured]:
        """Return the state of each object, and gradients that no step has used yet."""
        modules, optimizers, others = self._all
        names = self.names()
        learning = checkpoint.learning_in(optimizers.values())
        parts = {n: checkpoint.capture_module(m, learning) for n, m in modules.items()}
        for name, optimizer in optimizers.items():
            parts[name] = checkpoint.capture_optimizer(optimizer, names)
        for name, value in others.items():
            if isinstance(value, torch.Tensor):
                at_any_time = id(value) not in learning
                tensors = {name: value}
                parts[name] = Captured(now=tensors) if at_any_time else Captured(later=tensors)
            else:
                parts[name] = checkpoint.capture_stateful(value, name)
        gradients = self._gradients(names)
        return parts | ({GRADIENTS: Captured(now=gradients)} if gradients else {})

    def _gradients(self, names: Mapping[torch.Tensor, str]) -> dict[str, torch.Tensor]:
        # While gradients accumulate, they are state too. After an optimizer's step they are done
        # with.
        return {
            names[parameter]: parameter.grad.detach()
            for optimizer in self._all.optimizers.values()
            if id(optimizer) not in self._stepped
            for group in optimizer.param_groups
            for parameter in group["params"]
            if parameter.grad is not None
        }

    # --- in ---------------------------------------------------------------------------------

    def check_complete(self, found: Checkpoint) -> None:
        """Compare what is tracked with what a checkpoint holds.

        Raises:
            DoesNotFitError: it holds the state of something that is not tracked.
        """
        own = set().union(*self._all)
        for name in found.parts:
            if name not in own and name not in (GRADIENTS, DATA):
                raise DoesNotFitError(
                    f"the checkpoint {found.path} has the state of {name!r}, which is not tracked"
                    f"{nearest(name, own)}",
                    cure=f"give it to Run, or call run.track({name}=…) before the loop",
                )

    def notices(self) -> list[str]:
        """Return what a reader should know of the restored state, once."""
        said, self._notices = self._notices, []
        return said


def unwrapped(module: nn.Module) -> nn.Module:
    """Return the module itself, without torch.compile's, DataParallel's or Fabric's wrapper."""
    while True:
        inner = getattr(module, "_orig_mod", None)
        if inner is None and type(module).__name__ in _WRAPPERS:
            inner = module.module
        if not isinstance(inner, nn.Module):
            return module
        module = inner


def _check_parallel(name: str, module: nn.Module) -> None:
    """Raise RecipeError where a module is spread over devices by one process."""
    count = len(module.device_ids) if isinstance(module, nn.DataParallel) else 0
    if count > 1:
        raise RecipeError(
            f"{name} is an nn.DataParallel on {count} devices: one process copies the model to each"
            " of them in every step, computes in turn where Python is, and keeps the first copy's"
            " batch normalisation alone",
            cure="take its .module, let each process have one device, and start as many:"
            f" torchrun --nproc-per-node {count} {Path(sys.argv[0]).name or 'train.py'}",
        )


_WRAPPERS = ("DataParallel", "DistributedDataParallel", "_FabricModule")


def _sorted_out(objects: Mapping[str, Any]) -> _Tracking:
    found = _Tracking({}, {}, {})
    for name, value in objects.items():
        if isinstance(value, nn.Module):
            _check_parallel(name, value)
            found.modules[name] = unwrapped(value)
        elif isinstance(value, torch.optim.Optimizer):
            found.optimizers[name] = value
        elif isinstance(value, torch.Tensor | Stateful):
            found.others[name] = value
        else:
            raise UnsupportedStateError(
                f"{name} is a {type(value).__qualname__}, which has no state_dict and"
                " load_state_dict",
                cure="track the object that has them, or give it these two methods",
            )
    return found


def _fit(everything: _Tracking, objects: Mapping[str, Any], found: Checkpoint) -> list[PutBack]:
    """Compare objects with a checkpoint, and return what puts their state back, in order.

    Raises:
        DoesNotFitError: one does not fit; nothing was changed.
    """
    (modules, optimizers, others), names = everything, everything.names()
    parts = found.parts
    given = [name for name in objects if name in parts]
    plan: list[PutBack] = [
        *((n, checkpoint.fit_module(modules[n], parts[n], n)) for n in given if n in modules),
        *(
            (n, checkpoint.fit_optimizer(optimizers[n], names, parts[n]))
            for n in given
            if n in optimizers
        ),
        *((n, _fit_other(others[n], parts[n], n)) for n in given if n in others),
    ]
    # A scheduler that was built on a restored optimizer has set its rates anew.
    for name in optimizers.keys() & parts.keys():
        again = functools.partial(checkpoint.restore_options, optimizers[name], names, parts[name])
        plan.append((name, again))
    if GRADIENTS in parts:
        plan.append((GRADIENTS, _fit_gradients(names, parts[GRADIENTS])))
    return plan


def _fit_other(value: Any, saved: Saved, name: str) -> Callable[[], object]:
    if isinstance(value, LRScheduler):
        _check_groups(value, saved, name)
    if not isinstance(value, torch.Tensor):
        return checkpoint.fit_stateful(value, saved)
    theirs = saved.tensors.get(name)
    if theirs is None:
        raise DoesNotFitError(
            f"{name} is a tensor here, and the checkpoint has none under this name",
            cure="give each object the name that it had when it was saved",
        )
    if theirs.shape != value.shape or theirs.dtype != value.dtype:
        raise DoesNotFitError(
            f"{name} is {theirs.dtype} of shape {tuple(theirs.shape)} in the checkpoint,"
            f" {value.dtype} of shape {tuple(value.shape)} here"
        )
    return functools.partial(_copy, value, theirs)


def _copy(value: torch.Tensor, theirs: torch.Tensor) -> None:
    with torch.no_grad():
        value.copy_(theirs)


def _check_groups(scheduler: LRScheduler, saved: Saved, name: str) -> None:
    plain = saved.plain if isinstance(saved.plain, dict) else {}
    groups, known = len(scheduler.optimizer.param_groups), plain.get("base_lrs")
    if isinstance(known, list) and len(known) != groups:
        raise DoesNotFitError(
            f"{name} had {len(known)} parameter groups when it was saved, and has {groups} now",
            cure="build the optimizer's groups as before, or track the scheduler by another name",
        )


def _fit_gradients(names: Mapping[torch.Tensor, str], saved: Saved) -> Callable[[], object]:
    pairs = [(p, saved.tensors[name]) for p, name in names.items() if name in saved.tensors]
    for parameter, theirs in pairs:
        if theirs.shape != parameter.shape:
            raise DoesNotFitError(
                f"the gradient of {names[parameter]} has the shape {tuple(theirs.shape)} in the"
                f" checkpoint, {tuple(parameter.shape)} here"
            )

    def put_back() -> None:
        for parameter, theirs in pairs:
            parameter.grad = torch.empty_like(parameter, dtype=theirs.dtype).copy_(theirs).detach()

    return put_back
