"""The objects of a loop whose state is kept: modules, optimizers, schedulers and whatever else."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.optim.lr_scheduler import LRScheduler

from luthier import checkpoint
from luthier.checkpoint import Captured, Checkpoint, Saved, Saver, Stateful
from luthier.errors import DoesNotFitError, RunFolderError, UnsupportedStateError, nearest

GRADIENTS, DATA = "gradients", "data"  # parts that are luthier's own


class Tracked:
    """Named objects, and their way into a checkpoint and back.

    Args:
        saver: the optimizers' steps wait for its copies.
    """

    def __init__(self, saver: Saver) -> None:
        self._saver = saver
        self.modules: dict[str, nn.Module] = {}
        self.optimizers: dict[str, torch.optim.Optimizer] = {}
        self.others: dict[str, Any] = {}
        self._stepped: set[int] = set()
        self._notices: list[str] = []

    def add(self, objects: Mapping[str, Any], found: Checkpoint | None) -> None:
        """Track objects, and give them the state that a checkpoint has for them.

        Raises:
            DoesNotFitError: it does not fit. UnsupportedStateError: an object without a state.
        """
        for name, value in objects.items():
            self._check_name(name)
            if isinstance(value, nn.Module):
                self.modules[name] = unwrapped(value)
            elif isinstance(value, torch.optim.Optimizer):
                self.optimizers[name] = value
                self._saver.watch(value)
                value.register_step_post_hook(self._note_step)
            elif isinstance(value, torch.Tensor | Stateful):
                self.others[name] = value
            else:
                raise UnsupportedStateError(
                    f"{name} is a {type(value).__qualname__}, which has no state_dict and"
                    " load_state_dict",
                    cure="track the object that has them, or give it these two methods",
                )
        for optimizer in self.optimizers.values():
            checkpoint.check_named(optimizer, self.names())
        if found is not None:
            self._restore(objects, found)

    def _check_name(self, name: str) -> None:
        if name in (GRADIENTS, DATA):
            raise RunFolderError(f"the name {name!r} is luthier's own; take another")
        if not name.isidentifier():
            raise RunFolderError(f"{name!r} names no file; take a name of letters, digits and _")
        if name in (*self.modules, *self.optimizers, *self.others):
            raise RunFolderError(f"{name!r} is tracked already")

    def _note_step(self, optimizer: torch.optim.Optimizer, *_facts: object) -> None:
        self._stepped.add(id(optimizer))

    def names(self) -> dict[torch.Tensor, str]:
        """Return the name of every parameter."""
        own = {v: n for n, v in self.others.items() if isinstance(v, torch.Tensor)}
        return checkpoint.names_of(self.modules) | own

    def weights(self) -> dict[str, torch.Tensor]:
        """Return the state of every module, by the module's name and the tensor's."""
        return {
            f"{name}.{key}": value
            for name, module in self.modules.items()
            for key, value in module.state_dict().items()
        }

    def boundary(self) -> None:
        """Begin to take note of the optimizers that step."""
        self._stepped.clear()

    # --- out --------------------------------------------------------------------------------

    def capture(self) -> dict[str, Captured]:
        """Return the state of each object, and gradients that no step has used yet."""
        names = self.names()
        learning = checkpoint.learning_in(self.optimizers.values())
        parts = {n: checkpoint.capture_module(m, learning) for n, m in self.modules.items()}
        for name, optimizer in self.optimizers.items():
            parts[name] = checkpoint.capture_optimizer(optimizer, names)
        for name, value in self.others.items():
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
            for optimizer in self.optimizers.values()
            if id(optimizer) not in self._stepped
            for group in optimizer.param_groups
            for parameter in group["params"]
            if parameter.grad is not None
        }

    # --- in ---------------------------------------------------------------------------------

    def _restore(self, objects: Mapping[str, Any], found: Checkpoint) -> None:
        names = self.names()
        given = {name: found.parts[name] for name in objects if name in found.parts}
        self._notices += [
            f"{name} is not in the checkpoint and starts as it is"
            for name in objects
            if name not in given
        ]
        for name in given.keys() & self.modules.keys():
            checkpoint.restore_module(self.modules[name], given[name], name)
        for name in given.keys() & self.optimizers.keys():
            report = checkpoint.restore_optimizer(self.optimizers[name], names, given[name])
            if not report.complete:
                self._notices.append(f"{name}: {report}")
        for name in given.keys() & self.others.keys():
            _restore_other(self.others[name], given[name], name)
        # A scheduler that was built on a restored optimizer has set its rates anew.
        for name in self.optimizers.keys() & found.parts.keys():
            checkpoint.restore_options(self.optimizers[name], names, found.parts[name])
        if GRADIENTS in found.parts:
            _restore_gradients(names, found.parts[GRADIENTS])

    def check_complete(self, found: Checkpoint) -> None:
        """Compare what is tracked with what a checkpoint holds.

        Raises:
            DoesNotFitError: it holds the state of something that is not tracked.
        """
        own = {*self.modules, *self.optimizers, *self.others}
        for name in found.parts:
            if name not in own and name != GRADIENTS and not name.startswith(f"{DATA}-"):
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


_WRAPPERS = ("DataParallel", "DistributedDataParallel", "_FabricModule")


def _restore_other(value: Any, saved: Saved, name: str) -> None:
    if isinstance(value, LRScheduler):
        _check_groups(value, saved, name)
    if not isinstance(value, torch.Tensor):
        checkpoint.restore_stateful(value, saved)
        return
    theirs = saved.tensors[name]
    if theirs.shape != value.shape or theirs.dtype != value.dtype:
        raise DoesNotFitError(
            f"{name} is {theirs.dtype} of shape {tuple(theirs.shape)} in the checkpoint,"
            f" {value.dtype} of shape {tuple(value.shape)} here"
        )
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


def _restore_gradients(names: Mapping[torch.Tensor, str], saved: Saved) -> None:
    for parameter, name in names.items():
        if name in saved.tensors:
            theirs = saved.tensors[name]
            parameter.grad = torch.empty_like(parameter, dtype=theirs.dtype).copy_(theirs).detach()
