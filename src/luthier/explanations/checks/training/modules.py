"""Errors of modules: how they are made, called, named and compiled."""

from __future__ import annotations

import difflib
import re

from luthier.explanations.checks.evidence import (
    innermost_in,
    models,
    named,
    of_torch,
)
from luthier.explanations.names import bind
from luthier.explanations.values import Case, Facts, ModuleFacts, TensorFacts

_MODULE = "module.py"  # of torch/nn/modules
# What torchvision and timm both call the head of a class.
_HEADS = {
    "ResNet": "fc",
    "GoogLeNet": "fc",
    "Inception3": "fc",
    "ShuffleNetV2": "fc",
    "MobileNetV2": "classifier",
    "EfficientNet": "classifier",
    "DenseNet": "classifier",
    "MNASNet": "classifier",
    "AlexNet": "classifier",
    "SqueezeNet": "classifier",
}
_HEAD_NAMES = frozenset(("fc", "classifier", "head", "heads", "last_linear", "output", "logits"))
_WITH_WEIGHTS = ("Linear", "Conv2d", "Conv1d", "LazyLinear")
_NEAR = 0.7  # of difflib: the names share most of their letters
_MODEL_NAMES = re.compile(r"model|net|encoder|decoder|backbone|module|ckpt|checkpoint", re.I)
_ONLY_MODELS = ("eval", "parameters", "named_parameters", "state_dict", "load_state_dict")


def before_init(case: Case) -> Facts | None:
    """Return the user's line, where torch's Module misses what its __init__ makes."""
    if case.raised.frames and innermost_in(case, "nn", _MODULE) is None:
        return None
    if not case.raised.frames and "what" not in case.found:
        return None
    return of_torch(case)


def forward_missing(case: Case) -> Facts | None:
    """Return the container that was called like a module."""
    known = of_torch(case)
    if known is None or case.found["class"] not in ("ModuleList", "ModuleDict"):
        return known
    container = bind(["MODEL(INPUTS)"], case.raised.frames)["model"]
    return {**known, "container": container}


def forward_arguments(case: Case) -> Facts | None:
    """Return what a forward was given beside self, and where in the model it is."""
    frames = case.raised.frames
    if frames and innermost_in(case, "nn", _MODULE) is None:
        return None
    if not frames and "class" not in case.found:
        return None
    module = case.innermost_module()
    known: dict[str, object] = {"line": case.raised.line}
    if any(frame.path.endswith("container.py") for frame in frames):
        known["sequential"] = "yes"
    if module is not None and module.kind == case.found.get("class", module.kind):
        known |= {"class": module.kind, "path": module.path or None}
    if "takes" in case.found:
        known |= {"most": int(case.found["takes"]) - 1, "got": int(case.found["given"]) - 1}
    return known | {"class": known.get("class") or case.found.get("class") or "Module"}


def of_module_attribute(case: Case) -> Facts | None:
    """Return the user's line, where a module of torch was asked for an attribute."""
    if case.raised.frames and innermost_in(case, "nn", _MODULE) is None:
        return None
    return of_torch(case)


def layer_not_there(case: Case) -> Facts | None:
    """Return the head of the model that was asked for another, or the nearest name."""
    frame = innermost_in(case, "nn", _MODULE)
    if frame is None or frame.function != "__getattr__":
        return None
    kind, attribute = case.found["class"], case.found["attribute"]
    known: dict[str, object] = {"line": case.raised.line}
    name, model = next((pair for pair in models(case) if pair[1].kind == kind), ("", None))
    if attribute in _HEAD_NAMES:
        asked = re.search(rf"([\w.]+)\.{attribute}\b", _told(case))
        known["model"] = name or (asked[1] if asked else "model")
        return known | _head(model, attribute) | _usual_head(kind, attribute)
    names = [] if model is None else [n.partition(".")[0] for n in model.modules if n]
    near = difflib.get_close_matches(attribute, names, 1, _NEAR)
    return known | ({"near": near[0]} if near else {})


def _usual_head(kind: str, attribute: str) -> dict[str, object]:
    last = _HEADS.get(kind)
    return {} if last in (None, attribute) else {"last": last}


def _head(model: ModuleFacts | None, attribute: str) -> dict[str, object]:
    """Return the last layer of a model, unless it is the one that was not found."""
    if model is None:
        return {}
    layers = [name for name, kind in model.modules.items() if kind in _WITH_WEIGHTS]
    if not layers:
        return {}
    head = layers[-1]
    weight = model.parameters.get(f"{head}.weight")
    if weight is None or model.modules[head] != "Linear" or head.startswith(attribute):
        return {}
    parent, _, name = head.rpartition(".")
    sizes = f"Linear, {weight.shape[1]} → {weight.shape[0]}"
    plain: dict[str, object] = {} if parent else {"plain": head}
    return plain | {"head": head, "parent": parent, "own": name, "described": sizes}


def weights_instead(case: Case) -> Facts | None:
    """Return the user's line, where a dict is asked for what only a model has."""
    attribute = case.found["attribute"]
    if not case.raised.frames:
        return {} if attribute in _ONLY_MODELS else None
    called = re.search(rf"([\w.\[\]'\"]+)\.{attribute}\(", _told(case))
    if called is None or of_torch(case) is None or case.raised.frames[-1].is_library:
        return None
    if attribute not in _ONLY_MODELS and not _MODEL_NAMES.search(called[1]):
        return None
    return {"line": case.raised.line}


def gradient_is_none(case: Case) -> Facts | None:
    """Return the tensor whose gradient was used, and why it has none."""
    asked = re.search(rf"([A-Za-z_][\w.\[\]]*)\.grad\.{case.found['attribute']}\b", _told(case))
    if asked is None or case.raised.frames[-1].is_library:
        return None
    tensor = named(case, asked[1])
    known: dict[str, object] = {"tensor": asked[1], "line": _told(case)}
    if isinstance(tensor, TensorFacts):
        known |= {"leaf": tensor.is_leaf, "requires": tensor.requires_grad}
        if not tensor.requires_grad:
            known["frozen"] = asked[1]
        elif not tensor.is_leaf:
            known["result"] = asked[1]
    return known


def output_is_none(case: Case) -> Facts | None:
    """Return the module that was given None, or that it was a loss."""
    known = of_torch(case)
    if known is None or not case.raised.frames:
        return None
    if "function" not in case.found:
        named_so = re.search(
            r"(?:loss|cost|objective|criterion)\w*(?:\(.*\))?\.backward\(", _told(case)
        )
        return known if named_so else None
    if innermost_in(case, "nn") is None:
        return None
    module = case.innermost_module()
    if module is None or not module.path:
        return known
    return {**known, "path": module.path, "kind": module.kind}


def output_is_several(case: Case) -> Facts | None:
    """Return what several things an output holds, and the user's name of it."""
    if innermost_in(case, "nn") is None:
        return None
    given, name = case.found["given"], "outputs"
    if case.found["function"].endswith(("loss", "_nd", "logits")):
        calls = ["cross_entropy(OUTPUTS)", "CRITERION(OUTPUTS, TARGETS)"]
        name = bind(calls, case.raised.frames)["outputs"]
    known: dict[str, object] = {"line": case.raised.line, "outputs": name}
    if given in ("InceptionOutputs", "GoogLeNetOutputs"):
        names = "aux_logits" if given[0] == "I" else "aux_logits1, aux_logits2"
        return known | {"auxiliary": names}
    if given in ("OrderedDict", "dict"):
        return known | {"key": '"out"'}
    return known | ({"field": "logits"} if "Output" in given else {})


def compile_failed(case: Case) -> Facts | None:
    """Return nothing more, where it was torch.compile that failed."""
    frames = case.raised.frames
    name = case.raised.name
    if name != "RuntimeError" or not frames:
        return {}
    paths = [frame.file for frame in frames]
    return {} if any("/triton/" in p or "/torch/_inductor/" in p for p in paths) else None


def _told(case: Case) -> str:
    return case.raised.line or ""
