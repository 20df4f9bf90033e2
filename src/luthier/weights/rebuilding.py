"""``load_model``: a model built again from what its file says of it, with its weights."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import torch
from torch import nn

from luthier import adapt
from luthier.adapt import How
from luthier.errors import DoesNotFitError, ModelError, nearest
from luthier.files.contents.candidates import Candidate, contents
from luthier.files.entries import Archive, TensorEntry
from luthier.files.opening import open_archive
from luthier.models import build_described, check_arguments, find_head, replace_head
from luthier.weights import registry
from luthier.weights.description import Description

_EXACTLY = How(order=False, adjust=False)  # the file says which model it is: nothing is guessed


def load_model(path: str | Path, *, model: Callable[..., nn.Module] | None = None) -> nn.Module:
    """Build the model of a file again and give it the file's weights, all of them or none.

    This is what saving a whole module promises, and no code of the file runs: a model of
    torchvision or timm is built by its name; any other only where its class is passed as ``model``
    or was registered with ``luthier.register``. What the file says of its classes and
    preprocessing is given by ``luthier.describe``.

    Args:
        path: a model file of luthier, or any file of weights if ``model`` is passed.
        model: a class or function that returns the model; it gets the arguments in the file.

    Returns:
        the model on the CPU, in evaluation mode, each tensor with the file's dtype.

    Raises:
        ModelError: the file does not say what its model is, or it cannot be built.
        DoesNotFitError: the weights do not fit it to the last tensor.
        UnsupportedFileError, DamagedError: see ``luthier.files.opening.open_archive``.
    """
    archive = open_archive(Path(path))
    about = Description.of(archive)
    elements = _elements(contents(archive).candidates)
    built = _build(archive, about, model, elements)
    if about.head and about.classes:
        head = find_head(built, about.head)
        if head.outputs != len(about.classes):
            replace_head(built, head, len(about.classes))
    _give_dtypes(built, adapt.match(built, archive, how=_EXACTLY).cast)
    plan = adapt.load(built, archive, how=_EXACTLY)
    if plan.unexpected:
        raise DoesNotFitError(
            f"{path} holds tensors that {type(built).__name__} has no place for: {plan}",
            cure="give the class that the file belongs to, or use luthier.load for a part of it",
        )
    return built.eval()


def _elements(candidates: tuple[Candidate, ...]) -> int:
    entries = candidates[0].entries.values() if candidates else ()
    return sum(entry.count for entry in entries if isinstance(entry, TensorEntry))


def _build(
    archive: Archive,
    about: Description,
    model: Callable[..., nn.Module] | None,
    elements: int,
) -> nn.Module:
    if isinstance(model, nn.Module):
        raise ModelError(
            "model= is a module already, expected the class or function that makes one",
            cure="to put the weights of a file into it: luthier.load(model, file)",
        )
    factory = model or registry.registered(about.architecture)
    if factory is not None:
        check_arguments(about.arguments, elements)
        return _called(factory, about)
    if about.architecture.startswith(registry.BUILT_IN):
        return build_described(about.architecture, about.arguments, elements)
    raise _unknown(archive, about)


def _called(factory: Callable[..., nn.Module], about: Description) -> nn.Module:
    name = getattr(factory, "__qualname__", repr(factory))
    given = ", ".join(f"{key}={value!r:.40}" for key, value in about.arguments.items())
    try:
        with torch.random.fork_rng(devices=[]):
            built = factory(**about.arguments)
    except Exception as error:
        raise ModelError(
            f"{name}({given}) could not be called: {type(error).__name__}: {error}",
            cure=f"pass a function with the right arguments: model=lambda **_: {name}(…)",
        ) from error
    if not isinstance(built, nn.Module):
        raise ModelError(f"{name} returned a {type(built).__name__}, expected a torch.nn.Module")
    return built


def _unknown(archive: Archive, about: Description) -> ModelError:
    """Say why there is no model, and how to give one."""
    whole = contents(archive).whole
    if about.architecture:
        hint = nearest(about.architecture, registry.names())
        cure = "luthier imports nothing because a file names it. Pass the class itself:"
        what = f"the model of {archive.path} is {about.architecture!r}, which is not known{hint}"
    elif whole:
        cure = "luthier imports no class for a file. Pass it, or a function that makes the model:"
        what = f"{archive.path} is a module that was pickled whole, a {whole[0][1].made_by}"
    else:
        cure = "Pass the class, or a function that makes the model:"
        what = f"{archive.path} does not say what its model is"
    name = about.architecture or (str(whole[0][1].made_by) if whole else "Net")
    short = name.replace(":", ".").rpartition(".")[2]
    return ModelError(what, cure=f"{cure} luthier.load_model(path, model={short})")


def _give_dtypes(model: nn.Module, casts: Iterable[tuple[str, str, str]]) -> None:
    """Let the model's tensors have the dtypes of the file's, so that no bit is lost."""
    named = dict(model.named_parameters(remove_duplicate=False))
    held = named | dict(model.named_buffers(remove_duplicate=False))
    for name, of_file, _ in casts:
        held[name].data = held[name].data.to(getattr(torch, of_file))
