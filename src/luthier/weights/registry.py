"""Architectures of the caller's own, by the name that a model file may have for them."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from luthier.errors import ModelError

Factory = Callable[..., nn.Module]
BUILT_IN = ("torchvision/", "timm/")  # built by name, without a word of the caller's
_known: dict[str, Factory] = {}


def register(name: str, factory: Factory) -> None:
    """Let ``load_model`` build models of an architecture of your own.

    A model file can only name its architecture: what is called for the name is said here.

    Args:
        name: as in the file, such as ``"mine/net"`` or ``"package.module:Net"``.
        factory: a class or function that returns the model; it gets the arguments in the file.

    Raises:
        ModelError: the name is that of a library, or belongs to another factory already.
    """
    if not name or name.startswith(BUILT_IN):
        raise ModelError(f"{name!r} cannot be registered: it is no name of your own")
    if not callable(factory) or isinstance(factory, nn.Module):
        raise ModelError(
            f"{name!r} was registered with a {type(factory).__name__}, expected a class or function"
        )
    if _known.setdefault(name, factory) is not factory:
        raise ModelError(f"{name!r} is registered already, with {_known[name]}")


def registered(name: str) -> Factory | None:
    """Return what was registered under a name."""
    return _known.get(name)


def names() -> tuple[str, ...]:
    """Return all names."""
    return tuple(_known)
