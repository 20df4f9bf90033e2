"""Build a model from its name, with its weights at their random start."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Mapping
from typing import Any

from torch import nn

from luthier import named, vision
from luthier.errors import ModelError, nearest
from luthier.models import from_timm


def build(name: str, classes: int) -> nn.Module:
    """Build the model that a name stands for.

    Args:
        name: a torchvision classification model (``resnet18``), a timm model
            (``timm/resnet18``), or ``package.module:callable``, a function or class of the
            caller's own that returns an ``nn.Module``. Modules in the working directory are
            found. The callable gets ``num_classes`` if it has such a parameter.
        classes: number of classes, for callables that ask for it; the head of every other
            model is that of its published weights.

    Raises:
        ModelError: no such model, or it cannot be built; near names are given.
        MissingExtraError: timm is not installed.
    """
    if ":" in name:
        return _own(name, classes)
    if name.startswith(from_timm.PREFIX):
        return from_timm.build(name.removeprefix(from_timm.PREFIX))
    return from_torchvision(name)


def from_torchvision(name: str, arguments: Mapping[str, Any] | None = None) -> nn.Module:
    """Build a torchvision classification model with random weights.

    Args:
        name: torchvision's.
        arguments: of its constructor.

    Raises:
        ModelError: there is no such model, or it refuses the arguments.
    """
    models = vision.load("torchvision.models")
    known = models.list_models(module=models)
    if name not in known:
        raise ModelError(
            f"unknown model {name!r}{nearest(name, known)}",
            cure="give a torchvision model, timm/NAME, or package.module:callable",
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of default initialisations
        try:
            model: nn.Module = models.get_model(name, weights=None, **(arguments or {}))
        except (TypeError, ValueError) as error:
            raise ModelError(f"model {name!r} could not be built: {error}") from error
    return _without_auxiliary_heads(model)


def _without_auxiliary_heads(model: nn.Module) -> nn.Module:
    # GoogLeNet and Inception v3 train extra classifiers in the middle; torchvision takes them
    # off its pretrained models in the same way.
    if getattr(model, "aux_logits", False):
        model.aux_logits = False  # type: ignore[assignment]
        for name in ("aux1", "aux2", "AuxLogits"):
            if hasattr(model, name):
                setattr(model, name, None)
    return model


def _own(name: str, classes: int) -> nn.Module:
    factory = named.find(name, "model", ModelError)
    try:
        takes_classes = "num_classes" in inspect.signature(factory).parameters
        model = factory(**({"num_classes": classes} if takes_classes else {}))
    except Exception as error:
        raise ModelError(f"{name} could not be called: {type(error).__name__}: {error}") from error
    if not isinstance(model, nn.Module):
        raise ModelError(f"{name} returned a {type(model).__name__}, expected a torch.nn.Module")
    return model
