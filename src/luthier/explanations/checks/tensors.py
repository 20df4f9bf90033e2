"""Errors of shapes, dtypes, targets and arrays."""

from __future__ import annotations

import math
import re

from luthier.explanations.checks.places import by_torch, native, within
from luthier.explanations.names import bind
from luthier.explanations.values import Case, Facts, ModuleFacts, TensorFacts

__all__ = ["by_torch", "native"]  # entries name these as their checks

_CHANNELS = {1: "L", 3: "RGB", 4: "RGBA"}
_DTYPES = {
    "double": "float64",
    "float": "float32",
    "half": "float16",
    "long int": "int64",
    "long": "int64",
    "int": "int32",
    "short int": "int16",
    "short": "int16",
    "signed char": "int8",
    "char": "int8",
    "unsigned char": "uint8",
    "byte": "uint8",
}
_FLOATS = ("float16", "bfloat16", "float32", "float64")
_MIXED = (
    re.compile(r"mat1 and mat2 must have the same dtype, but got (\w+) and (\w+)"),
    re.compile(r"expected m1 and m2 to have the same dtype, but got: ([\w: ]+) != ([\w: ]+)"),
    re.compile(r"Input type \(([\w: .]+)\) and (?:bias|weight) type \(([\w: .]+)\)"),
    re.compile(r"RNN input dtype \((\S+)\) does not match weight dtype \((\S+)\)"),
)


# Layers, and what they are given.


def layer(case: Case) -> dict[str, str]:
    """Return the layer at work, and the user's call of the model.

    The layer is known live by its place in the model, else as the user's own forward has it.
    """
    own = case.raised.own
    found = bind(["MODEL(INPUT)"], [frame for frame in own if frame.function != "forward"])
    module = case.innermost_module()
    if module is not None:
        found["layer"] = f"{module.path} ({module.kind})" if module.path else module.kind
    if own and own[-1].function == "forward":
        inner = bind(["CALL(FEATURES)"], own[-1:])
        if inner["call"].startswith("self."):
            found = {"layer": inner["call"]} | found | inner
    return found


def of_layer(case: Case) -> Facts | None:
    """Return the layer at work, for what compiled code says."""
    return None if native(case) is None else layer(case)


def of_torch_layer(case: Case) -> Facts | None:
    """Return the layer at work, for what torch's own Python raised."""
    return None if by_torch(case) is None else layer(case)


def channels_last(case: Case) -> Facts | None:
    """Return the layer, where what it is given has the channels as its last dimension."""
    sizes, wanted = case.found["sizes"].split(", "), case.found["wanted"]
    is_last = sizes[-1] == wanted and sizes[1] != wanted and int(wanted) in _CHANNELS
    return of_layer(case) if is_last else None


def image_mode(case: Case) -> Facts | None:
    """Return Pillow's names of the modes that a first layer wants and is given."""
    wanted, given = int(case.found["wanted"]), int(case.found["given"])
    if wanted not in (1, 3) or given not in _CHANNELS or native(case) is None:
        return None
    return {"mode": _CHANNELS[wanted], "other": _CHANNELS[given]} | layer(case)


def lacks_batch(case: Case) -> Facts | None:
    """Return the layer, where one dimension is missing of what it is given."""
    wanted = int(case.found.get("wanted") or case.found["weights"])
    given = int(case.found.get("given") or case.found["dimensions"])
    return of_torch_layer(case) if wanted - given == 1 else None


def dimensions(case: Case) -> Facts | None:
    """Return the layer, and whether images were flattened or have a dimension more than a batch."""
    sizes = case.found.get("sizes")
    found = of_torch_layer(case) if sizes is None else of_layer(case)
    if found is None or sizes is None or case.found["function"] != "conv2d":
        return found
    count = len(sizes.split(", "))
    return {**found, "flat": sizes if count == 2 else None, "more": sizes if count == 5 else None}


def small_image(case: Case) -> Facts | None:
    """Return the size of the images that the model was given, where it still runs."""
    if native(case) is None:
        return None
    shapes = [t.shape for v in case.live for t in v.values() if isinstance(t, TensorFacts)]
    images = [shape for shape in shapes if len(shape) in (3, 4) and shape[-3] in _CHANNELS]
    size = {"image": f"{images[0][-2]} by {images[0][-1]}"} if images else {}
    return size | layer(case)


def linear(case: Case) -> Facts | None:
    """Return what a Linear has wrong: its size, or that its input is not flattened."""
    if not within(case, "torch/nn/modules/linear.py") or native(case) is None:
        return None
    given, wanted = int(case.found["given"]), int(case.found["wanted"])
    tensor = case.variable("input")
    found: dict[str, object] = {**layer(case)}
    if isinstance(tensor, TensorFacts):
        shape = tensor.shape
        found["shape"] = str(list(shape))
        if len(shape) > 2 and math.prod(shape[1:]) == wanted:
            found["unflattened"] = math.prod(shape[1:])
        elif len(shape) == 1 and given > wanted and given % wanted == 0:
            found["samples"] = given // wanted
        elif len(shape) == 2:
            found["flat"] = found["shape"]
    return found


def by_vision_transformer(case: Case) -> Facts | None:
    """Say no more, but only of what a vision transformer of a known library asserts."""
    frames = case.raised.frames
    known = ("torchvision/models/", "timm/", "transformers/")
    of_library = not frames or frames[-1].is_library
    inside = not frames or any(within(case, part) for part in known)
    return {} if of_library and inside else None


# Dtypes.


def dtypes(case: Case) -> Facts | None:
    """Return the dtypes of a layer's input and weights, and which mistake that is."""
    frames = case.raised.frames
    if native(case) is None and (not frames or "torch/nn/modules/" not in frames[-1].file):
        return None
    given, weights = _dtypes(case)
    found = layer(case) | {"given": given, "weights": weights}
    if given is None or weights is None:
        return found
    if given == "float64":
        mistake: dict[str, str | None] = {"double": given}
    elif given not in _FLOATS:
        mistake = {"integers": given, "pixels": given if given == "uint8" else None}
    else:
        mistake = {"low": weights if weights in _FLOATS[:2] else None}
    return None if given == weights else {**found, **mistake}


def _dtypes(case: Case) -> tuple[str | None, str | None]:
    """Return the dtypes of the input and of the weights, as the message or the layer has them."""
    for pattern in _MIXED:
        said = pattern.search(case.raised.message)
        if said:
            return _dtype(said[1]), _dtype(said[2])
    module, tensor = case.innermost_module(), case.variable("input")
    if module is not None and module.parameters and isinstance(tensor, TensorFacts):
        return tensor.dtype, next(iter(module.parameters.values())).dtype
    return None, None


def _dtype(said: str) -> str:
    """Return torch's name of a dtype that a message names in one of its other ways."""
    bare = re.sub(r"^(?:torch\.(?:cuda\.)?|c10::)|Tensor$", "", said.strip())
    return _DTYPES.get(bare.lower(), bare.lower())


def scalar_types(case: Case) -> Facts | None:
    """Return the dtypes of a product, of a matrix or within a layer, that are not the same."""
    if native(case) is None:
        return None
    given, wanted = _dtype(case.found["given"]), _dtype(case.found["wanted"])
    if {given, wanted} == {"float64", "float32"}:
        return {"double": "float64", "other": "float32"}
    return {"first": wanted, "second": given}


def said_dtype(case: Case) -> Facts | None:
    """Return torch's name of the dtype that a message names."""
    return None if native(case) is None else {"dtype": _dtype(case.found["said"])}


def half_kernel(case: Case) -> Facts | None:
    """Return the dtype, in torch's name, that an operation does not know."""
    return None if native(case) is None else {"dtype": _dtype(case.found["said"])} | layer(case)


def in_place(case: Case) -> Facts | None:
    """Return the dtypes of a result and of the tensor that it was to be written to."""
    if native(case) is None:
        return None
    return {"result": _dtype(case.found["said"]), "dtype": _dtype(case.found["wanted"])}


def numpy_type(case: Case) -> Facts | None:
    """Return whether an array holds Python objects, or numbers that torch has no dtype for."""
    if native(case) is None:
        return None
    kind = case.found["kind"].rstrip("_")
    known = {"object": "objects", "str": "text", "bytes": "text"}
    return {"kind": None, known.get(kind, "kind"): kind}


# Losses.

_CLASS_LOSSES = ("cross_entropy", "nll_loss", "nll_loss_nd", "nll_loss2d")
_BINARY_LOSSES = ("binary_cross_entropy", "binary_cross_entropy_with_logits")


def _in_loss(case: Case, losses: tuple[str, ...] = (*_CLASS_LOSSES, *_BINARY_LOSSES)) -> bool:
    return any(f.function in losses and f.is_library for f in case.raised.frames)


def _targets(case: Case) -> tuple[TensorFacts | None, TensorFacts | None]:
    """Return what a loss was given, where the program still runs: scores and targets."""
    scores, targets = case.variable("input"), case.variable("target")
    return (
        scores if isinstance(scores, TensorFacts) else None,
        targets if isinstance(targets, TensorFacts) else None,
    )


def of_loss(case: Case) -> Facts | None:
    """Return the shapes of scores and targets, for what a loss raised."""
    frames = case.raised.frames
    if frames and not _in_loss(case):
        return None
    scores, targets = _targets(case)
    return {
        "scores": str(list(scores.shape)) if scores else None,
        "targets": str(list(targets.shape)) if targets else None,
    }


def label_range(case: Case) -> Facts | None:
    """Return how many classes there are, the range of the labels, and which mistake that is."""
    if of_loss(case) is None or native(case) is None:
        return None
    label = int(case.found["label"])
    scores, targets = _targets(case)
    found: dict[str, object] = {"negative": label if label < 0 else None}
    found["mask"] = label if label in (255, -1) and targets and len(targets.shape) > 1 else None
    if scores is None or targets is None or targets.low is None or targets.high is None:
        return found
    classes = scores.shape[1] if len(scores.shape) > 1 else scores.shape[0]
    found |= {"classes": classes, "last": classes - 1, "low": targets.low, "high": targets.high}
    if label == classes and targets.low >= 1 and classes > 1:
        found["one_based"] = targets.low
    elif classes == 1:
        found["binary"] = classes
    if label >= 0:
        found["enough"] = targets.high + 1
    return found


def two_dimensions(case: Case) -> Facts | None:
    """Return whether targets of two dimensions are a column or one row a class."""
    found = of_loss(case)
    if found is None or native(case) is None:
        return None
    targets = _targets(case)[1]
    if targets is None or len(targets.shape) != 2:
        return found
    return {**found, "column" if targets.shape[1] == 1 else "one_hot": found["targets"]}


def class_dtype(case: Case) -> Facts | None:
    """Return the dtype of the targets of a loss of classes."""
    if native(case) is None or (case.raised.frames and not _in_loss(case, _CLASS_LOSSES)):
        return None
    return {**(of_loss(case) or {}), "dtype": _dtype(case.found["said"])}


def binary_dtype(case: Case) -> Facts | None:
    """Return the dtypes of targets and scores of a loss of yes and no."""
    if native(case) is None or not _in_loss(case, _BINARY_LOSSES):
        return None
    targets = _targets(case)[1]
    said = targets.dtype if targets else case.found.get("said") or case.found["other"]
    return {"dtype": _dtype(said)}


def sizes_differ(case: Case) -> Facts | None:
    """Return whether scores have one dimension of 1 more than targets."""
    first, second = case.found["scores"].split(", "), case.found["targets"].split(", ")
    if case.raised.frames and not within(case, "/torch/"):
        return None
    return {"column": "[N, 1]" if first[:-1] == second and first[-1] == "1" else None}


def out_of_unit(case: Case) -> Facts | None:
    """Return no facts, for a binary cross entropy; live, whether the scores are finite."""
    if native(case) is None or (case.raised.frames and not _in_loss(case, _BINARY_LOSSES)):
        return None
    scores = _targets(case)[0]
    return {"nan": "nan" if scores is not None and scores.is_finite is False else None}


def embedding(case: Case) -> Facts | None:
    """Return the size of an embedding and the range of the indices that it was given."""
    if not within(case, "torch/nn/") or native(case) is None:
        return None
    module, tensor = case.innermost_module(), case.variable("input")
    found: dict[str, object] = {**layer(case)}
    if isinstance(module, ModuleFacts) and "weight" in module.parameters:
        found["rows"], found["dimensions"] = module.parameters["weight"].shape
    if isinstance(tensor, TensorFacts) and tensor.low is not None:
        found |= {"low": tensor.low, "high": tensor.high}
        found["negative"] = tensor.low if tensor.low < 0 else None
    if isinstance(tensor, TensorFacts) and tensor.high is not None:
        found["enough"] = tensor.high + 1
    return found
