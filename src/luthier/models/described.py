"""A model from the description in a file. What a file says is never imported, fetched or opened."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import nn
from torch.nn.modules.module import register_module_module_registration_hook

from luthier.errors import DoesNotFitError, ModelError
from luthier.models import from_timm
from luthier.models.build import from_torchvision

TORCHVISION = "torchvision/"
# With these torchvision and timm fetch or open files, or give something else than a model.
_REACHING_OUT = ("pretrained", "weights", "checkpoint", "cache", "progress", "hf_", "url", "file")
_OTHER_FORMS = ("scriptable", "exportable", "no_jit", "features_only", "jit", "model_name", "name")
_DEEPEST = 3
_MODULES = 20_000  # layers that a model may have; those that are published have some thousands
_ROOM = 64 << 20  # elements that a model may have beside those in the file: index tables, masks


def build_described(architecture: str, arguments: Mapping[str, Any], elements: int) -> nn.Module:
    """Build a model of torchvision or timm as a file describes it, with random weights.

    Args:
        architecture: ``torchvision/NAME`` or ``timm/NAME``.
        arguments: of the constructor.
        elements: of all tensors in the file: a description of a larger model is refused before
            anything of that size is allocated.

    Raises:
        ModelError: there is no such model, or it refuses the arguments.
        DoesNotFitError: it would be larger than what the file holds.
        MissingExtraError: timm is not installed.
    """
    check_arguments(arguments, elements)
    refused = [n for n in arguments if n.startswith(_REACHING_OUT) or n in _OTHER_FORMS]
    if refused:
        raise ModelError(
            f"the file describes {architecture} with {refused[0]}="
            f"{arguments[refused[0]]!r:.80}, which a file may not decide"
        )
    _check_size(architecture, arguments, elements)
    with _own_generator():
        try:
            return _build(architecture, arguments)
        except RuntimeError as error:  # such as of sizes that are negative
            raise ModelError(f"{architecture} could not be built: {error}") from error


def check_arguments(arguments: Mapping[str, Any], elements: int) -> None:
    """Check that arguments in a file are plain, and that no number is larger than the file allows.

    Raises:
        ModelError: one is not.
    """
    for name, value in arguments.items():
        if not name.isidentifier() or not _is_plain(value, max(elements, 1 << 20), _DEEPEST):
            raise ModelError(
                f"the file describes its model with {name[:80]}={value!r:.80}, expected a plain"
                " value, and no number that is larger than its tensors are"
            )


def _is_plain(value: Any, largest: int, depth: int) -> bool:
    if isinstance(value, list):
        return depth > 0 and all(_is_plain(item, largest, depth - 1) for item in value)
    if isinstance(value, dict):
        return depth > 0 and all(_is_plain(item, largest, depth - 1) for item in value.values())
    if isinstance(value, int):
        return abs(value) <= largest
    return value is None or isinstance(value, float | str)


def _build(architecture: str, arguments: Mapping[str, Any]) -> nn.Module:
    if architecture.startswith(from_timm.PREFIX):
        return from_timm.build(architecture.removeprefix(from_timm.PREFIX), arguments)
    return from_torchvision(architecture.removeprefix(TORCHVISION), arguments)


def _check_size(architecture: str, arguments: Mapping[str, Any], elements: int) -> None:
    try:
        # Shapes alone.
        with torch.device("meta"), _at_most(_MODULES):
            model = _build(architecture, arguments)
    except _TooManyError:
        raise DoesNotFitError(
            f"{architecture} as the file describes it has more than {_MODULES:,} layers"
        ) from None
    except (NotImplementedError, RuntimeError) as error:
        # Some constructors compute with tensors; their models are published in fixed sizes.
        if arguments.keys() <= {"num_classes"}:
            return
        raise ModelError(f"the size of {architecture} cannot be known: {error}") from error
    count = sum(t.numel() for t in (*model.parameters(), *model.buffers()))
    if count > 2 * elements + _ROOM:
        raise DoesNotFitError(
            f"{architecture} as the file describes it has {count:,} elements, and the file"
            f" {elements:,}"
        )


class _TooManyError(BaseException):
    """More modules than allowed; timm's builders make no other error of it."""


@contextlib.contextmanager
def _at_most(modules: int) -> Iterator[None]:
    """Let only so many modules be put into others, in this thread."""
    left, thread = modules, threading.get_ident()

    def count(*_: object) -> None:
        nonlocal left
        left -= threading.get_ident() == thread
        if left < 0:
            raise _TooManyError

    with register_module_module_registration_hook(count):
        yield


@contextlib.contextmanager
def _own_generator() -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        yield
