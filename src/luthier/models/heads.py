"""The head of a classifier: the last layer, which says the class."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from luthier.errors import ModelError, nearest

_ADVICE = "name it with --head-module, such as --head-module classifier.1"


@dataclass(frozen=True)
class Head:
    """Where the head of a model is.

    Attributes:
        name: its dotted name, such as ``"fc"`` or ``"classifier.1"``.
        outputs: its number of outputs.
    """

    name: str
    outputs: int


def find_head(model: nn.Module, name: str | None = None) -> Head:
    """Find the layer that gives the class scores.

    Without a name it is the layer that the model itself names (timm's ``get_classifier``),
    else the last ``Linear`` or ``Conv2d`` in the order in which the model registers them.
    ``check_head`` shows whether that was right.

    Raises:
        ModelError: there is none, or the named module is none.
    """
    layers = {n: m for n, m in model.named_modules() if isinstance(m, nn.Linear | nn.Conv2d)}
    if name is not None:
        if name not in layers:
            known = dict(model.named_modules())
            what = f"a {type(known[name]).__name__}" if name in known else "not in the model"
            raise ModelError(
                f"head {name!r} is {what}, expected a Linear or Conv2d{nearest(name, layers)}"
            )
        return Head(name, _outputs(layers[name]))
    own = getattr(model, "get_classifier", None)
    classifier = own() if callable(own) else None
    for candidate, layer in layers.items():
        if layer is classifier:
            return Head(candidate, _outputs(layer))
    if not layers:
        raise ModelError(f"{type(model).__name__} has no Linear or Conv2d that could be its head")
    last = list(layers)[-1]
    return Head(last, _outputs(layers[last]))


def _outputs(layer: nn.Linear | nn.Conv2d) -> int:
    return layer.out_features if isinstance(layer, nn.Linear) else layer.out_channels


def replace_head(model: nn.Module, head: Head, classes: int) -> Head:
    """Put a new layer with ``classes`` outputs in the head's place and return its description.

    The new layer has torch's own initialisation, drawn from torch's global generator.
    """
    old = model.get_submodule(head.name)
    bias = old.bias is not None
    if isinstance(old, nn.Conv2d):
        kernel, stride, padding = old.kernel_size, old.stride, old.padding
        new: nn.Module = nn.Conv2d(old.in_channels, classes, kernel, stride, padding, bias=bias)  # type: ignore[arg-type]
    else:
        assert isinstance(old, nn.Linear)  # noqa: S101 - find_head gives nothing else
        new = nn.Linear(old.in_features, classes, bias=bias)
    parent, _, leaf = head.name.rpartition(".")
    setattr(model.get_submodule(parent), leaf, new)
    if isinstance(getattr(model, "num_classes", None), int):
        model.num_classes = classes  # type: ignore[assignment]  # some models reshape by it
    return Head(head.name, classes)


def check_head(model: nn.Module, head: Head, image_size: int) -> None:
    """Send two grey images through the model and check that one score a class comes out.

    Raises:
        ModelError: the output has another shape or does not depend on the head, or the model
            refuses the image.
    """
    was_training = model.training
    model.eval()
    try:
        with torch.enable_grad():
            output = model(torch.zeros(2, 3, image_size, image_size))
    except Exception as error:
        raise ModelError(
            f"{type(model).__name__} fails on a {image_size} x {image_size} RGB image:"
            f" {type(error).__name__}: {error}",
            cure=f"choose another --image-size if the model wants one, or, if {head.name!r} is not"
            f" its head, {_ADVICE}",
        ) from error
    finally:
        model.train(was_training)
    found = tuple(output.shape) if isinstance(output, torch.Tensor) else type(output).__name__
    if found != (2, head.outputs):
        raise ModelError(
            f"{head.name!r} was taken for the head of {type(model).__name__}, but with"
            f" {head.outputs} classes two images give {found}, expected (2, {head.outputs})",
            cure=_ADVICE,
        )
    weight = model.get_parameter(f"{head.name}.weight")
    if torch.autograd.grad(output.sum(), weight, allow_unused=True)[0] is None:
        raise ModelError(
            f"{head.name!r} was taken for the head of {type(model).__name__}, but its scores do not"
            " depend on it",
            cure=_ADVICE,
        )
