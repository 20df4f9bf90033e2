"""What a model file says of itself: how to build its model again, what its classes are called."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from luthier.errors import DamagedError, ModelError, UnsupportedFileError
from luthier.files.entries import Archive
from luthier.files.opening import open_archive
from luthier.values import Preprocessing
from luthier.version import __version__
from luthier.weights.registry import registered

_FORMAT = 1
INTERPOLATIONS = ("bilinear", "bicubic")


@dataclass(frozen=True)
class Description:
    """What goes into a model file so that it needs nothing else. All of it may be unknown.

    Attributes:
        architecture: ``torchvision/NAME``, ``timm/NAME``, a registered name, or
            ``package.module:callable``; "" where it is not known.
        arguments: of the constructor; plain JSON values.
        head: dotted name of the last layer.
        classes: names in index order.
        preprocessing: what happens to an image before the model sees it.
        training: how it was trained; plain JSON values.
        start: what the weights started from; plain JSON values.
        temperature: what scores are divided by for probabilities; None is 1.
    """

    architecture: str = ""
    arguments: Mapping[str, Any] = field(default_factory=dict)
    head: str = ""
    classes: tuple[str, ...] = ()
    preprocessing: Preprocessing | None = None
    training: Mapping[str, Any] = field(default_factory=dict)
    start: Mapping[str, Any] = field(default_factory=dict)
    temperature: float | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return the metadata of a model file: plain JSON values, without what is not known."""
        known = {f.name: getattr(self, f.name) for f in fields(self) if getattr(self, f.name)}
        if self.preprocessing is not None:
            known["preprocessing"] = self.preprocessing.as_dict()
        if self.classes:
            known["classes"] = list(self.classes)
        return {"format": _FORMAT, "luthier": __version__, **known} if known else {}

    @classmethod
    def of(cls, archive: Archive) -> Description:
        """Return the description in a file; an empty one if it has none.

        Raises:
            UnsupportedFileError: it has one that a later luthier has written.
            DamagedError: it has one that is not as luthier writes it.
        """
        found = archive.metadata
        if "luthier" not in found:
            return cls()
        version = found.get("format", _FORMAT)
        if version != _FORMAT:
            raise UnsupportedFileError(
                f"{archive.path}: its description is of format {version!r:.40}, and luthier"
                f" {__version__} knows {_FORMAT}",
                cure="update luthier",
            )
        known = {f.name: found[f.name] for f in fields(cls) if f.name in found}
        try:
            return _checked(known)
        except (TypeError, ValueError) as error:
            raise DamagedError(
                f"{archive.path}: the description in its metadata is damaged: {error}"
            ) from error


def _checked(known: Mapping[str, Any]) -> Description:
    kinds: dict[str, type] = {
        "architecture": str,
        "head": str,
        "classes": list,
        "temperature": float,
    }
    for name, value in known.items():
        kind = kinds.get(name, dict)
        if not isinstance(value, kind):
            raise ValueError(f"{name} is a {type(value).__name__}, expected a {kind.__name__}")
    changed: dict[str, Any] = {}
    if "classes" in known:
        changed["classes"] = classes_of(known["classes"])
    if "preprocessing" in known:
        changed["preprocessing"] = preprocessing_of(known["preprocessing"])
    if not 0 < known.get("temperature", 1.0) < math.inf:
        raise ValueError(f"temperature is {known['temperature']}, expected a number above 0")
    return Description(**{**known, **changed})


def classes_of(given: Sequence[str]) -> tuple[str, ...]:
    """Return class names as they go into a file.

    Raises:
        ValueError: they are no list of texts.
    """
    if isinstance(given, str) or not all(isinstance(name, str) for name in given):
        raise ValueError(f"classes are {given!r:.80}, expected a list of texts")
    return tuple(given)


def arguments_of(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return a constructor's arguments as they go into a file.

    Raises:
        ValueError: one is no plain JSON value; it is named.
    """
    for name, value in given.items():
        try:
            if not isinstance(name, str) or not name.isidentifier():
                raise ValueError("that is no name of an argument")
            json.dumps(value, allow_nan=False)
        except (TypeError, ValueError, RecursionError) as error:
            raise ValueError(f"argument {name!r} cannot be written to a file: {error}") from error
    return dict(given)


def preprocessing_of(given: Mapping[str, Any]) -> Preprocessing:
    """Return the preprocessing that plain values describe.

    Raises:
        ValueError: they describe none.
    """
    expected = {f.name for f in fields(Preprocessing)}
    if given.keys() != expected:
        raise ValueError(
            f"preprocessing has {', '.join(sorted(given)) or 'nothing'},"
            f" expected {', '.join(sorted(expected))}"
        )
    try:
        found = Preprocessing(
            resize=int(given["resize"]),
            image_size=int(given["image_size"]),
            interpolation=given["interpolation"],
            mean=_rgb(given["mean"]),
            std=_rgb(given["std"]),
        )
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"preprocessing: {error}") from error
    _check(found)
    return found


def _rgb(values: Any) -> tuple[float, float, float]:
    red, green, blue = map(float, values)
    return red, green, blue


def _check(found: Preprocessing) -> None:
    if found.interpolation not in INTERPOLATIONS:
        known = " or ".join(INTERPOLATIONS)
        raise ValueError(f"preprocessing: interpolation is {found.interpolation!r}, not {known}")
    if min(found.resize, found.image_size) < 1:
        raise ValueError("preprocessing: resize and image_size are numbers of pixels")
    if not all(map(math.isfinite, (*found.mean, *found.std))) or min(found.std) <= 0:
        raise ValueError("preprocessing: means are numbers, and deviations are above 0")


def full_name(model: str) -> str:
    """Return a model's name with where it comes from: ``torchvision/resnet18``."""
    own = ":" in model or "/" in model or registered(model) is not None
    return model if own else f"torchvision/{model}"


def describe(path: str | Path) -> Description:
    """Return what a model file says of itself: architecture, classes, preprocessing.

    Args:
        path: a model file that luthier wrote, or the index or folder of a sharded one.

    Raises:
        ModelError: it says nothing of itself.
        UnsupportedFileError, DamagedError: see ``luthier.files.opening.open_archive``.
    """
    found = Description.of(open_archive(Path(path)))
    if not found.as_dict():
        raise ModelError(
            f"{path} does not say what its model is",
            cure="write it with luthier.save(model, path, architecture=…, classes=…)",
        )
    return found
