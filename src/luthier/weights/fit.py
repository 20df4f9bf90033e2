"""``match`` and ``load``: a foreign file and a model, and what becomes of the head."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

import torch
from torch import nn

from luthier import adapt, vision
from luthier.adapt import HeadFit, How, LoadPlan
from luthier.adapt.classes import check_some, match_classes
from luthier.adapt.rules import read_rules
from luthier.adapt.sources import File, Model
from luthier.errors import DoesNotFitError, RecipeError, nearest
from luthier.files.entries import Archive
from luthier.files.opening import open_archive
from luthier.models import build, find_head, labels, replace_head

CHOICES = ("keep", "replace", "by-name")
HeadChoice = str | Collection[str]
_OF_IMAGENET = 1000  # outputs of a model of the caller's own, where nobody says how many


def match(
    model: Model,
    file: File,
    *,
    head: HeadChoice = "keep",
    where: str | None = None,
    rules: Sequence[str | Path] = (),
    classes: Sequence[str] = (),
    file_classes: Sequence[str] = (),
) -> LoadPlan:
    """Return what ``load`` would do with a file; nothing is changed. ``print`` shows it.

    Args:
        model: the model, or ``TensorSpec`` by name in the order of its ``state_dict``.
        file: a file or folder of weights, what ``open_archive`` gave, or tensors by name.
        head: "keep": the file's head is loaded like everything else. "replace": the model's own
            keeps its values. "by-name": it takes the rows of the classes that it shares with the
            file. Or names of tensors or modules that keep their values.
        where: the place of the weights in the file, as ``luthier inspect`` names it, or one and
            the beginning of names in it; by default the place that covers most.
        rules: files with naming schemes, which come before luthier's own; see ``docs/fit.md``.
        classes: class names of the model's head in order, for "by-name".
        file_classes: those of the file's head, where it is not known which they are.

    Raises:
        RecipeError: the choice of the head makes no sense, or a rule file cannot be read.
        ModelError: the head cannot be found.
        DoesNotFitError: "by-name", and no class is shared.
        UnsupportedFileError, DamagedError: see ``luthier.files.opening.open_archive``.
    """
    opened = _opened(file)
    fit = _head(model, opened, head, classes, file_classes)
    return adapt.match(model, opened, fit, where, _how(rules))


def load(
    model: nn.Module,
    file: File,
    *,
    head: HeadChoice = "keep",
    coverage: float = 1.0,
    where: str | None = None,
    rules: Sequence[str | Path] = (),
    classes: Sequence[str] = (),
    file_classes: Sequence[str] = (),
) -> LoadPlan:
    """Put a file's weights into a model, all or nothing, and return what was done.

    Args:
        model: is changed in place, and not at all if anything is raised.
        file: see ``match``.
        head: see ``match``.
        coverage: least part of the model's tensors, those that keep their values on purpose
            aside, that must be loaded, in (0, 1].
        where: see ``match``.
        rules: see ``match``.
        classes: see ``match``.
        file_classes: see ``match``.

    Raises:
        DoesNotFitError: less is covered, or nothing; the message lists missing, unexpected and
            misshapen tensors.
        LuthierError: see ``match``.
    """
    opened = _opened(file)
    fit = _head(model, opened, head, classes, file_classes)
    return adapt.load(model, opened, fit, coverage, where, _how(rules))


def _opened(file: File) -> File:
    return open_archive(Path(file)) if isinstance(file, str | Path) else file


def _how(rules: Sequence[str | Path]) -> How:
    given = [rules] if isinstance(rules, str | Path) else rules
    return How(rules=tuple(read_rules(Path(path)) for path in given))


def _head(
    model: Model,
    file: File,
    head: HeadChoice,
    classes: Sequence[str],
    file_classes: Sequence[str],
) -> HeadFit:
    if isinstance(head, str) and head not in CHOICES:
        raise RecipeError(
            f"head {head!r} is none of {', '.join(CHOICES)}{nearest(head, CHOICES)}",
            cure="or give a list of the names that keep their values",
        )
    if head != "by-name" and (classes or file_classes):
        raise RecipeError("class names have no effect without head='by-name'")
    if not isinstance(head, str):
        return HeadFit(_tensors_of(model, head), "replace") if head else HeadFit()
    if head == "keep":
        return HeadFit()
    if not isinstance(model, nn.Module):
        raise RecipeError(
            f"head={head!r} needs the model itself",
            cure="or give the names of the head's tensors: head=['fc.weight', 'fc.bias']",
        )
    tensors = _tensors_of(model, [find_head(model).name])
    if head == "replace":
        return HeadFit(tensors, "replace")
    return _by_name(model, file, tensors, classes, file_classes)


def _tensors_of(model: Model, names: Collection[str]) -> tuple[str, ...]:
    """Return the tensors that these names are, or that are in the modules of these names."""
    known = list(model.state_dict() if isinstance(model, nn.Module) else model)
    for name in names:
        if not any(tensor == name or tensor.startswith(f"{name}.") for tensor in known):
            raise RecipeError(f"the model has no tensor or module {name!r}{nearest(name, known)}")
    return tuple(t for t in known if any(t == n or t.startswith(f"{n}.") for n in names))


def _by_name(
    model: nn.Module,
    file: File,
    tensors: tuple[str, ...],
    classes: Sequence[str],
    file_classes: Sequence[str],
) -> HeadFit:
    rows = find_head(model).outputs
    for given in (classes, file_classes):
        if isinstance(given, str) or not all(isinstance(name, str) for name in given):
            raise RecipeError(f"class names are {given!r:.80}, expected a list of texts")
    if len(classes) != rows:
        raise RecipeError(
            f"{len(classes)} class names for a head of {rows} outputs",
            cure="give classes=[…], the names of the model's classes in order",
        )
    theirs = tuple(file_classes) or _classes_of(file)
    source = str(file.path) if isinstance(file, Archive) else "the tensors"
    if not theirs:
        raise DoesNotFitError(
            f"the class names of {source} are not known",
            cure="give file_classes=[…], the names of the rows of its head in order",
        )
    found = match_classes(classes, theirs)
    check_some(found, theirs, source)
    return HeadFit(tensors, "rows", found.rows, of=len(theirs), note=str(found))


def _classes_of(file: File) -> tuple[str, ...]:
    """Return the class names of a file: its own, those beside it, those of a published one."""
    if not isinstance(file, Archive):
        return ()
    own = labels.names(file.metadata.get("classes")) or labels.beside(file.path)
    return own or _published(file.path.name)


def _published(name: str) -> tuple[str, ...]:
    models = vision.load("torchvision.models")
    for model in models.list_models(module=models):
        for entry in models.get_model_weights(model):
            if entry.url.rpartition("/")[2] == name:
                return labels.of_entry(entry)
    return ()


def match_named(
    file: str | Path,
    name: str,
    *,
    classes: int | None = None,
    where: str | None = None,
    rules: Sequence[str | Path] = (),
) -> LoadPlan:
    """Match a file to a model by its name, as ``luthier match`` does.

    Args:
        file: a file or folder of weights.
        name: as for ``luthier finetune --model``.
        classes: outputs of a new head, which keeps its initial values; None keeps the file's.
        where: see ``match``.
        rules: see ``match``.

    Raises:
        ModelError: the model cannot be built, or its head cannot be found.
        LuthierError: see ``match``.
    """
    opened = open_archive(Path(file))
    if classes is not None and classes < 1:
        raise RecipeError(f"--classes is {classes}, expected 1 or more")
    with torch.random.fork_rng(devices=[]):  # nobody else's random numbers move
        model = build(name, classes or _OF_IMAGENET)
        if classes is not None:
            replace_head(model, find_head(model), classes)
    head = "keep" if classes is None else "replace"
    return match(model, opened, head=head, where=where, rules=rules)
