"""Tensors that are on different devices, and what they belong to."""

from __future__ import annotations

import re
from itertools import pairwise

from luthier.explanations.checks.devices.common import (
    called_last,
    live_values,
    plain_names,
    unless_by_others,
)
from luthier.explanations.values import Case, Facts, ModuleFacts, ObjectFacts, TensorFacts

_LOSSES = re.compile(r"cross_entropy|_loss$|^loss$|^kl_div$|^gaussian_nll")

# Of each form of the message: the device of one tensor, of the others, and what it is called.
_APART = [
    re.compile(form)
    for form in (
        r"but got (?P<name>\w+) is on (?P<its>[\w:]+), different from other tensors on "
        r"(?P<others>[\w:]+)",
        r"found at least two devices, (?P<others>[\w:]+) and (?P<its>[\w:]+)! "
        r"\(when checking argument for argument (?P<name>\w+)",
        r"(?P<name>Input) type \((?P<its>[\w.]+)\) and \w+ type \((?P<others>[\w.]+)\)",
        r"found (?P<name>input) tensor at (?P<its>[\w:]+) and \w+ tensor at (?P<others>[\w:]+)",
        r"(?P<name>input)\(device='?(?P<its>[\w:]+)'?\) and weight\(device='?(?P<others>[\w:]+)",
        r"tensor for (?:argument #\d+ )?'(?P<name>\w+)' to have the same device as .*; but device "
        r"(?P<its>[\w:]+) does not equal (?P<others>[\w:]+)",
        r"query\.device: (?P<its>[\w:]+) key\.device: (?P<others>[\w:]+)",
        r"(?P<name>Placeholder) storage has not been allocated on MPS device",
        r"found (?:at least )?two (?:different )?devices,? (?P<its>[\w:]+)(?: and|,) "
        r"(?P<others>[\w:]+)",
        r"Tensor on device (?P<its>[\w:]+) is not on the expected device (?P<others>[\w:]+)!",
    )
]
_WEIGHTS = {"weight", "mat2", "bias", "running_mean", "running_var"}
_OPERANDS = {"mat1", "index", "indices"}  # of a layer's input, where a layer calls
_INPUTS = {"input", "Input", "Placeholder", *_OPERANDS}


@unless_by_others
def apart(case: Case) -> Facts | None:
    """Return the devices of tensors that are on several."""
    found = _apart(case)
    return found if found is not None and found["its"] != found["others"] else None


@unless_by_others
def apart_in_loss(case: Case) -> Facts | None:
    """Return which argument of a loss is on another device."""
    found = _apart(case)
    frames = called_last(case)
    inside = any(_LOSSES.search(f.function) or "nn/modules/loss" in f.file for f in frames)
    if found is None or not inside:
        return None
    tensors = {name: case.variable(name) for name in ("input", "target", "weight")}
    at = {name: t.device for name, t in tensors.items() if isinstance(t, TensorFacts)}
    output = at.get("input")
    odd = next((name for name in ("weight", "target") if at.get(name) not in (None, output)), None)
    if odd is None or output is None:
        odd, output, at = found.get("name"), found["others"], {str(found.get("name")): found["its"]}
    kinds = {"weight": "weights_at", "target": "labels_at", "self": "outputs_at"}
    own = {kinds[odd]: at[odd]} if odd in kinds else {}
    names = plain_names(("CRITERION(OUTPUTS, LABELS)",), case.raised.frames)
    return {**found, **names, **own, "rest_at": output}


@unless_by_others
def apart_in_optimizer(case: Case) -> Facts | None:
    """Return the devices where an optimizer's state is away from its parameters."""
    if not any("torch/optim/" in frame.file for frame in called_last(case)):
        return None
    found = _apart(case)
    for fact in live_values(case):
        devices = fact.fields.get("devices") if isinstance(fact, ObjectFacts) else None
        if found is not None and isinstance(devices, tuple) and devices:
            return {**found, "optimizer_kind": fact.kind, "state_at": ", ".join(devices)}  # type: ignore[union-attr]
    return found


@unless_by_others
def apart_on_meta(case: Case) -> Facts | None:
    """Return which layer's weights have no values."""
    found = _apart(case)
    if found is None or "meta" not in (found["its"], found["others"]):
        return None
    return {**found, **_called(case), **_layer(case), **_on_meta(case)}


@unless_by_others
def without_values(case: Case) -> Facts:
    """Return which of a model's tensors are on the meta device."""
    calls = ("MODEL.to(DEVICE)", "MODEL.cpu()", "MODEL.cuda()")
    return {**plain_names(calls, case.raised.frames), **_on_meta(case)}


@unless_by_others
def apart_in_layer(case: Case) -> Facts | None:
    """Return on which device a layer's input is, and on which its weights."""
    found = _apart(case)
    name = "" if found is None else found.get("name", "")
    if found is None or name not in _INPUTS | _WEIGHTS:
        return None
    if name in _OPERANDS and not any("torch/nn/" in f.file for f in called_last(case)):
        return None
    ends = (found["its"], found["others"])
    input_at, weights_at = ends[::-1] if name in _WEIGHTS else ends
    if input_at == weights_at:
        return None
    return {
        "input_at": input_at,
        "weights_at": weights_at,
        "moves_to": input_at if weights_at == "cpu" else None,
        **_called(case),
        **_layer(case),
    }


def _apart(case: Case) -> dict[str, str] | None:
    for form in _APART:
        found = form.search(case.raised.message)
        if found is not None:
            parts = {"its": "cpu", "others": "mps:0", **found.groupdict()}
            return {name: _device(part) for name, part in parts.items()}
    return None


def _device(told: str) -> str:
    """Return a device as torch writes it, of a type such as ``torch.cuda.FloatTensor``."""
    if told.isdecimal():
        return f"cuda:{told}"
    if not told.endswith(("Tensor", "Type")):
        return told
    found = re.match(r"(MPS|CUDA|XPU|HPU)|torch\.(\w+)\.", told)
    return (found[1] or found[2]).lower() if found else "cpu"


def _layer(case: Case) -> Facts:
    """Return the layer at work, and whether ``.to`` does not reach it from the model."""
    inner = case.innermost_module()
    if inner is None:
        return {}
    outer = next(f for v in case.live if isinstance(f := v.get("self"), ModuleFacts))
    is_stray = not inner.path and inner != outer and bool(inner.parameters)
    given = case.variable("input")
    return {
        "layer": f"{inner.path} ({inner.kind})" if inner.path else inner.kind,
        "shape": list(given.shape) if isinstance(given, TensorFacts) else None,
        "stray": inner.kind if is_stray else None,
        "outer": outer.kind,
    }


def _called(case: Case) -> Facts:
    """Return what the user calls the model and its input, where the line says it plainly."""
    for frame, inner in pairwise(case.raised.frames):
        if not frame.is_library and inner.is_library:
            return plain_names(("MODEL(INPUTS)",), [frame])
    return plain_names(("MODEL(INPUTS)",), [])


def _on_meta(case: Case) -> Facts:
    models = [fact for fact in live_values(case) if isinstance(fact, ModuleFacts)]
    model = max(models, key=lambda model: len(model.parameters), default=None)
    if model is None:
        return {}
    tensors = {**model.parameters, **model.buffers}
    empty = [name for name, tensor in tensors.items() if tensor.device == "meta"]
    if not empty:
        return {}
    return {"kind": model.kind, "empty": len(empty), "all": len(tensors), "first": empty[0]}
