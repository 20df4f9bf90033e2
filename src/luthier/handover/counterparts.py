"""torchvision's models as the same networks of timm and transformers, their weights renamed."""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import nn

from luthier import adapt
from luthier.adapt import How, LoadPlan
from luthier.errors import DoesNotFitError, UnsupportedFileError
from luthier.exporting import Subject, hf, timm
from luthier.models import build_described
from luthier.models.described import TORCHVISION
from luthier.models.from_timm import PREFIX

_BY_NAME = How(order=False, adjust=False)  # a naming scheme accounts for every tensor, or nothing


@dataclass(frozen=True)
class Counterpart:
    """A subject whose model is another library's.

    Attributes:
        subject: to be written.
        note: what it is, in words; "" where it is the very model.
    """

    subject: Subject
    note: str = ""


def counterpart(subject: Subject, form: str) -> Counterpart:
    """Return the model that a folder of timm's ("timm") or transformers' ("hf") is to hold.

    Raises:
        UnsupportedFileError: the library has no such network that luthier knows of.
        DoesNotFitError: its network has other tensors.
        MissingExtraError: the library is not installed.
    """
    if form == "hf":
        hf.needed()
    if subject.architecture.startswith(PREFIX):
        name = subject.architecture.removeprefix(PREFIX)
        return Counterpart(replace(subject, architecture=name))
    name = subject.architecture.removeprefix(TORCHVISION)
    plain = subject.architecture.startswith(TORCHVISION) and not (
        subject.arguments.keys() - {"num_classes"}
    )
    if plain and form == "hf" and name in hf.NATIVE:
        model = hf.build(name, subject.classes, subject.preprocessing.image_size)
        return _filled(subject, model, type(model).__name__, {})
    if plain and name in timm.COUNTERPARTS:
        other, arguments = timm.COUNTERPARTS[name]
        known = {**arguments, "num_classes": len(subject.classes)}
        elements = sum(tensor.numel() for tensor in subject.state.values())
        model = build_described(f"{PREFIX}{other}", known, elements)
        return _filled(subject, model, other, known)
    raise UnsupportedFileError(
        f"{form} has no model that luthier knows to compute what"
        f" {subject.architecture or 'this model'} does",
        cure="use --to onnx, pt2 or safetensors; or train a timm/NAME model",
    )


def _filled(
    subject: Subject, model: nn.Module, name: str, arguments: dict[str, object]
) -> Counterpart:
    plan: LoadPlan = adapt.load(model.eval(), subject.state, how=_BY_NAME)
    if plan.unexpected:
        raise DoesNotFitError(f"{name} has no place for tensors of the model: {plan}")
    # What luthier writes of itself names the network that the tensors belong to.
    about = {**subject.about, "architecture": f"{PREFIX}{name}", "arguments": arguments}
    about.pop("head", None)
    made = replace(
        subject,
        model=model,
        state=dict(model.state_dict()),
        architecture=name,
        arguments=arguments,
        about=about,
    )
    return Counterpart(
        made, f"{subject.architecture} as {name}: {len(plan.loaded)} tensors renamed"
    )
