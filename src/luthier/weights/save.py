"""``save``: a model's weights in a file of their own, with what is known of the model."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from luthier.errors import CannotWriteError, ModelError, RecipeError, UnsupportedStateError
from luthier.files import durable, writing
from luthier.files.opening import open_archive
from luthier.files.writing import Stored
from luthier.models import find_head
from luthier.values import Preprocessing
from luthier.weights.description import (
    Description,
    arguments_of,
    classes_of,
    full_name,
    preprocessing_of,
)
from luthier.weights.registry import BUILT_IN
from luthier.weights.unwrapping import Unwrapped, bare, unwrapped


@dataclass(frozen=True)
class Saved:
    """What was written; ``str(saved)`` says it.

    Attributes:
        path: the file.
        tensors: the number of names.
        nbytes: of the tensors that are stored.
        ties: names of tied weights that are stored under another name, and that name.
        taken: what was taken off the names.
        left_out: tensors of wrappers that were not written.
        described: whether the file says what its model is.
    """

    path: Path
    tensors: int
    nbytes: int
    ties: Mapping[str, str]
    taken: tuple[str, ...]
    left_out: tuple[str, ...]
    described: bool

    def __str__(self) -> str:
        lines = [f"{self.path}: {self.tensors} tensors, {self.nbytes / 1e6:.1f} MB"]
        lines += [f"  {name} is {kept}, stored once" for name, kept in self.ties.items()]
        if self.taken:
            lines.append(f"  taken off the names: {', '.join(self.taken)}")
        if self.left_out:
            lines.append(f"  left out, of the wrapper: {', '.join(self.left_out)}")
        return "\n".join(lines)


def save(
    model: nn.Module | Mapping[str, torch.Tensor],
    path: str | Path,
    *,
    architecture: str | Callable[..., nn.Module] | None = None,
    arguments: Mapping[str, Any] | None = None,
    classes: Sequence[str] | None = None,
    preprocessing: Preprocessing | Mapping[str, Any] | None = None,
    head: str | None = None,
    like: str | Path | Description | None = None,
) -> Saved:
    """Write a model's weights, whole or not at all; a file that is there is replaced in one step.

    The suffix says the kind: ``.safetensors``, or ``.pt``, ``.pth`` or ``.bin`` for a plain
    state_dict that ``torch.load(weights_only=True)`` reads. Prefixes of wrappers
    (``DataParallel``, ``DistributedDataParallel``, ``torch.compile``) are taken off. Tied weights
    are stored once, and are tied again when luthier reads them. What is known of the model goes
    into a ``.safetensors`` file, and ``load_model`` builds it again from that.

    Args:
        model: a model, or its state_dict, on any device.
        path: the file.
        architecture: ``"torchvision/resnet18"``, ``"timm/vit_tiny_patch16_224"``, the name or the
            class itself of a model of your own.
        arguments: of the constructor; plain JSON values.
        classes: names in index order.
        preprocessing: what happens to an image before the model sees it.
        head: dotted name of the last layer; found by itself where there are classes.
        like: a model file of luthier, or its description, for what is not given here.

    Raises:
        UnsupportedFileError: another suffix.
        UnsupportedStateError: something that is no plain tensor, or of a dtype that the format
            lacks; it is named.
        RecipeError: a description, and a file that cannot hold one.
        ModelError: the description does not agree with the model.
        CannotWriteError: the disk is full or refuses; what was there is as it was.
    """
    path = Path(path)
    kind = writing.kind_of(path)
    given: dict[str, Any] = {
        "architecture": _name_of(architecture),
        "arguments": _plain(arguments_of, arguments),
        "classes": _plain(classes_of, classes),
        "preprocessing": _plain(preprocessing_of, preprocessing),
        "head": head,
    }
    about = replace(_like(like), **{k: v for k, v in given.items() if v is not None})
    found = unwrapped(model)
    if isinstance(model, nn.Module):
        about = _completed(about, model)
    if kind != "safetensors" and about.as_dict():
        raise RecipeError(
            f"{path} cannot say what its model is: a {path.suffix} file holds tensors and no more",
            cure="name it .safetensors, or leave out architecture, classes, preprocessing and like",
        )
    stored = stored_of(found.state)
    with refusals(path, stored.nbytes):
        writing.write(path, stored, about.as_dict() or None)
    return _said(path, stored, found, bool(about.as_dict()))


def stored_of(state: Mapping[str, Any]) -> Stored:
    """Return what is to be written of a state.

    Raises:
        UnsupportedStateError: something in it is no plain tensor; it is named.
    """
    for name, value in state.items():
        if not isinstance(value, torch.Tensor):
            raise UnsupportedStateError(
                f"{name!r} is a {type(value).__name__}, expected a tensor",
                cure="give the model, or its state_dict() alone",
            )
    return writing.stored({n: writing.source_of(n, t) for n, t in state.items()})


def _said(path: Path, stored: Stored, found: Unwrapped, described: bool) -> Saved:
    return Saved(
        path,
        len(stored.names),
        stored.nbytes,
        stored.ties,
        found.taken,
        found.left_out,
        described,
    )


@contextlib.contextmanager
def refusals(path: Path, nbytes: int) -> Iterator[None]:
    """Turn what a disk refuses inside into an error that names the file.

    Args:
        path: what is being written.
        nbytes: what it takes; too little room is found before anything is written.

    Raises:
        CannotWriteError: it is refused.
    """
    try:
        free = durable.free_bytes(path.parent)
        if free < nbytes:
            raise CannotWriteError(
                f"{path} takes {nbytes / 1e6:,.1f} MB, and {free / 1e6:,.1f} MB are free",
                cure="make room, or write it elsewhere",
            )
        yield
    except OSError as error:
        raise CannotWriteError(
            f"{path} cannot be written: {error.strerror or error}; nothing is there by half",
            cure="make room or mend the disk, or write it elsewhere",
        ) from error


# --- the description --------------------------------------------------------------------------


def _like(given: str | Path | Description | None) -> Description:
    if isinstance(given, Description):
        return given
    return Description() if given is None else Description.of(open_archive(Path(given)))


def _plain(read: Callable[[Any], Any], given: Any) -> Any:
    """Return what was given of a description as it goes into a file."""
    if given is None or isinstance(given, Preprocessing):
        return given
    try:
        return read(given)
    except (TypeError, ValueError) as error:
        raise ModelError(str(error)) from error


def _name_of(architecture: str | Callable[..., nn.Module] | None) -> str | None:
    if architecture is None:
        return None
    if not isinstance(architecture, str):
        name = f"{architecture.__module__}:{getattr(architecture, '__qualname__', '')}"
        if isinstance(architecture, nn.Module) or "<" in name:
            raise ModelError(
                f"{architecture!r:.80} has no name that a file could give it",
                cure="give a class or function of a module, or a name that is registered",
            )
        return name
    return full_name(architecture)


def _completed(about: Description, model: nn.Module) -> Description:
    """Add what follows from the model, and compare the description with it."""
    count = len(about.classes)
    if not count and not about.head:
        return about
    head = find_head(bare(model), about.head or None)
    if count and head.outputs != count:
        raise ModelError(
            f"{count} classes are named, and the head {head.name!r} gives {head.outputs} scores",
            cure="name the head where it is another layer: head=…",
        )
    arguments = about.arguments
    if not arguments and about.architecture.startswith(BUILT_IN):
        arguments = {"num_classes": head.outputs}
    return replace(about, head=head.name, arguments=arguments)
