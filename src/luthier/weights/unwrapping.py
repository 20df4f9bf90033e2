"""The state of a model without what wrappers put into its names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn
from torch.optim.swa_utils import AveragedModel

from luthier.errors import UnsupportedStateError

# Components that no model has of its own.
_NEVER_OWN = frozenset({"_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"})
_HOLDERS = (nn.DataParallel, nn.parallel.DistributedDataParallel, AveragedModel)


@dataclass(frozen=True)
class Unwrapped:
    """A state_dict under the names that the bare model has.

    Attributes:
        state: by name.
        taken: what was taken off the names, such as ``"module."``.
        left_out: names of the wrappers' own tensors.
    """

    state: Mapping[str, Any]
    taken: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()


def unwrapped(model: nn.Module | Mapping[str, Any]) -> Unwrapped:
    """Return the state of a model, or a state_dict, without the prefixes of wrappers.

    Of a model it is known which modules are wrappers (``DataParallel``,
    ``DistributedDataParallel``, ``AveragedModel``, ``torch.compile``). Of a state_dict ``module.``
    is taken off where all names begin with it, and what is never a module's own name everywhere.

    Raises:
        UnsupportedStateError: two names would become one, or it is neither.
    """
    if isinstance(model, nn.Module):
        return _of_module(model)
    if not isinstance(model, Mapping):
        raise UnsupportedStateError(
            f"a {type(model).__name__} was given, expected a torch.nn.Module or its state_dict()"
        )
    return _of_state(model)


def bare(model: nn.Module) -> nn.Module:
    """Return the model inside of wrappers."""
    while True:
        inner = model.module if isinstance(model, _HOLDERS) else getattr(model, "_orig_mod", None)
        if not isinstance(inner, nn.Module):
            return model
        model = inner


def _of_module(model: nn.Module) -> Unwrapped:
    wrappers, own = set(), set()
    for path, module in model.named_modules(remove_duplicate=False):
        prefix = f"{path}." if path else ""
        wrappers |= {f"{prefix}{name}" for name, _ in module.named_children() if name in _NEVER_OWN}
        if isinstance(module, _HOLDERS):
            wrappers.add(f"{prefix}module")
            own |= {f"{prefix}{name}" for name in module._buffers}
    state = model.state_dict()
    names = {name: _without(name, wrappers) for name in state if name not in own}
    return _renamed(state, names, tuple(name for name in state if name in own))


def _without(name: str, wrappers: set[str]) -> str:
    kept, path = [], ""
    for part in name.split("."):
        path = f"{path}.{part}" if path else part
        if path not in wrappers:
            kept.append(part)
    return ".".join(kept)


def _of_state(state: Mapping[str, Any]) -> Unwrapped:
    names = {}
    for name in state:
        if not isinstance(name, str):
            raise UnsupportedStateError(f"a name is {name!r}, expected a text")
        *before, leaf = name.split(".")
        names[name] = ".".join([*(part for part in before if part not in _NEVER_OWN), leaf])
    while names and all(short.startswith("module.") for short in names.values()):
        names = {name: short.removeprefix("module.") for name, short in names.items()}
    return _renamed(state, names)


def _renamed(
    state: Mapping[str, Any], names: Mapping[str, str], left_out: tuple[str, ...] = ()
) -> Unwrapped:
    found: dict[str, Any] = {}
    taken: dict[str, None] = {}
    for name, short in names.items():
        if short in found:
            raise UnsupportedStateError(
                f"without its wrappers {name!r} would be a second {short!r}"
            )
        found[short] = state[name]
        parts = name.split(".")
        for part in short.split("."):
            parts.remove(part)
        taken |= dict.fromkeys(f"{part}." for part in parts)
    return Unwrapped(found, tuple(taken), left_out)
