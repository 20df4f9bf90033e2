"""The parts of a training state: what each gives to a checkpoint and takes back from it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import torch
from torch import nn

from luthier.checkpoint.tree import pack, unpack
from luthier.distributed.pieces import put
from luthier.errors import DoesNotFitError
from luthier.files.tensors import spec

Tensors = Mapping[str, torch.Tensor]


@runtime_checkable
class Stateful(Protocol):
    """Anything that can say its state and take it back."""

    def state_dict(self) -> Any:
        """Return the state."""
        ...

    def load_state_dict(self, state: Any, /) -> Any:
        """Take a state back."""
        ...


@dataclass(frozen=True)
class Captured:
    """A part's state; the tensors are its own, not copies.

    Attributes:
        later: tensors that change in an optimizer's step alone, or never; they are copied while
            training goes on.
        now: tensors that may change at any time; they are copied at once.
        still: names of tensors that are not being trained, for a file of their own.
        buffers: names of buffers that belong to them, for another: a forward may change them all
            the same.
        plain: everything else, as plain JSON.
        check: looks at copied tensors, those that this process writes, and raises if they must not
            be kept.
    """

    later: Tensors = field(default_factory=dict)
    now: Tensors = field(default_factory=dict)
    still: frozenset[str] = frozenset()
    buffers: frozenset[str] = frozenset()
    plain: Any = None
    check: Callable[[Tensors], None] = lambda _tensors: None


@dataclass(frozen=True)
class Saved:
    """A part's state as it was read back from a checkpoint."""

    tensors: Tensors = field(default_factory=dict)
    plain: Any = None


def capture_module(module: nn.Module, learning: set[int]) -> Captured:
    """Return the state of a module: parameters change in a step, buffers in a forward.

    A parameter that asks for a gradient and is in no optimizer may be changed by hand, as the
    weights of an average are, and is copied at once.

    Args:
        module: its ``state_dict`` is taken.
        learning: ``id`` of the parameters that an optimizer holds.
    """
    state = module.state_dict(keep_vars=True)  # the parameters themselves
    tensors = {name: t for name, t in state.items() if isinstance(t, torch.Tensor)}
    packed, now = pack({k: v for k, v in state.items() if k not in tensors})
    later: dict[str, torch.Tensor] = {}
    for name, tensor in tensors.items():
        is_steady = id(tensor) in learning or (
            isinstance(tensor, nn.Parameter) and not tensor.requires_grad
        )
        (later if is_steady else now)[name] = tensor
    still = frozenset(
        name
        for name, tensor in tensors.items()
        if isinstance(tensor, nn.Parameter) and id(tensor) not in learning
    )
    buffers = _idle_buffers(tensors, still) if still else frozenset()
    return Captured(later, now, still, buffers, packed or None)


def _idle_buffers(state: Tensors, still: frozenset[str]) -> frozenset[str]:
    """Return the names of buffers, such as running means, in whose own module nothing learns."""
    parameters = [name for name, tensor in state.items() if isinstance(tensor, nn.Parameter)]
    learns = {name.rpartition(".")[0] for name in parameters if name not in still}
    return frozenset(
        name for name in state.keys() - set(parameters) if name.rpartition(".")[0] not in learns
    )


def fit_module(module: nn.Module, saved: Saved, name: str = "model") -> Callable[[], None]:
    """Compare a module with a saved state, and return what puts the state back.

    Raises:
        DoesNotFitError: names or shapes differ.
    """
    state = module.state_dict()
    own = {key: value for key, value in state.items() if isinstance(value, torch.Tensor)}
    extra = {key for key in state if key not in own}
    theirs = {key: t for key, t in saved.tensors.items() if key in own or not extra}
    plain = saved.plain if isinstance(saved.plain, dict) else {}
    differ = [
        f"{key} {_spec(theirs, key)} in the checkpoint, {_spec(own, key)} here"
        for key in sorted(own.keys() | theirs.keys())
        if _spec(own, key) != _spec(theirs, key)
    ]
    differ += [f"{key} missing in the checkpoint" for key in sorted(extra - plain.keys())]
    if differ:
        more = f"\n  and {len(differ) - 6} more" if len(differ) > 6 else ""
        raise DoesNotFitError(
            f"the checkpoint does not fit {name}:\n  " + "\n  ".join(differ[:6]) + more,
            cure="the classes or the model's code have changed since; start a new run",
        )
    rest = unpack(plain, saved.tensors)

    def put_back() -> None:
        with torch.no_grad():
            for key, tensor in own.items():
                put(tensor, theirs[key])
        if extra:
            module.load_state_dict(rest, strict=False)

    return put_back


def restore_module(module: nn.Module, saved: Saved, name: str = "model") -> None:
    """Put a module's state back.

    Raises:
        DoesNotFitError: names or shapes differ; nothing was changed.
    """
    fit_module(module, saved, name)()


def _spec(tensors: Tensors, key: str) -> str:
    return str(spec(tensors[key])) if key in tensors else "missing"


def capture_stateful(value: Stateful, name: str) -> Captured:
    """Return the state of any object with ``state_dict`` and ``load_state_dict``.

    Raises:
        UnsupportedStateError: it is neither tensors nor plain values; its place is named.
    """
    packed, tensors = pack(value.state_dict(), name)
    return Captured(now=tensors, plain=packed)


def fit_stateful(value: Stateful, saved: Saved) -> Callable[[], None]:
    """Return what puts back what ``capture_stateful`` returned; the object may still refuse it."""
    own = {name: tensor.clone() for name, tensor in saved.tensors.items()}
    state = unpack(saved.plain, own)

    def put_back() -> None:
        value.load_state_dict(state)

    return put_back


def restore_stateful(value: Stateful, saved: Saved) -> None:
    """Put back what ``capture_stateful`` returned."""
    fit_stateful(value, saved)()
