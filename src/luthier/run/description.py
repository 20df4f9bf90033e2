"""What a model file says of itself: how to build its model again, what its classes are called."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from luthier.errors import DamagedError, ModelError
from luthier.files.entries import Archive
from luthier.files.opening import open_archive
from luthier.run.registry import registered
from luthier.values import Preprocessing
from luthier.version import __version__

_FORMAT = 1


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
    """

    architecture: str = ""
    arguments: Mapping[str, Any] = field(default_factory=dict)
    head: str = ""
    classes: tuple[str, ...] = ()
    preprocessing: Preprocessing | None = None
    training: Mapping[str, Any] = field(default_factory=dict)
    start: Mapping[str, Any] = field(default_factory=dict)

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
            DamagedError: it has one that is not as luthier writes it.
        """
        found = archive.metadata
        if "luthier" not in found:
            return cls()
        known = {f.name: found[f.name] for f in fields(cls) if f.name in found}
        try:
            return _checked(known)
        except (TypeError, ValueError) as error:
            raise DamagedError(
                f"{archive.path}: the description in its metadata is damaged: {error}"
            ) from error


def _checked(known: Mapping[str, Any]) -> Description:
    kinds: dict[str, type] = {"architecture": str, "head": str, "classes": list}
    for name, value in known.items():
        kind = kinds.get(name, dict)
        if not isinstance(value, kind):
            raise ValueError(f"{name} is a {type(value).__name__}, expected a {kind.__name__}")
    changed: dict[str, Any] = {}
    if "classes" in known:
        if not all(isinstance(name, str) for name in known["classes"]):
            raise ValueError("classes are no texts")
        changed["classes"] = tuple(known["classes"])
    if "preprocessing" in known:
        changed["preprocessing"] = preprocessing_of(known["preprocessing"])
    return Description(**{**known, **changed})


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
    resize, size = int(given["resize"]), int(given["image_size"])
    return Preprocessing(
        resize, size, str(given["interpolation"]), _rgb(given["mean"]), _rgb(given["std"])
    )


def _rgb(values: Any) -> tuple[float, float, float]:
    red, green, blue = map(float, values)
    return red, green, blue


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
