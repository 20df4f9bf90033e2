"""Errors of autograd, optimizers, schedules and mixed precision."""

from __future__ import annotations

import re

from luthier.explanations.checks.evidence import (
    at_work,
    file_of,
    innermost_in,
    is_result,
    largest_model,
    listed,
    models,
    named,
    of_torch,
    optimizer_of,
    own,
    shape_of,
)
from luthier.explanations.names import bind
from luthier.explanations.values import Case, Facts, TensorFacts

_CARRIED = re.compile(r"hidden|state|memory|cell|carry|total|running|prev|^(?:h|c|hx|cx|h0|c0)$")
_VIEWS = ("AsStrided", "T", "Transpose")  # of a Linear's weights
_IN_PLACE = ("ReLU", "ReLU6", "LeakyReLU", "SiLU", "Hardswish", "Hardsigmoid", "ELU", "Dropout")
_SCHEDULES = re.compile(
    r"\b((?:Step|MultiStep|Constant|Linear|Exponential|Polynomial|CosineAnnealing|Lambda|Cyclic"
    r"|Multiplicative|OneCycle|Sequential|SWA)LR|ReduceLROnPlateau|CosineAnnealingWarmRestarts)\b"
)
_ROOTS = ("Log", "Log2", "Log10", "Sqrt", "Rsqrt")  # without a finite gradient at 0


def under_no_grad(case: Case) -> Facts | None:
    """Return the function of the user that torch's decorator without gradients calls."""
    if of_torch(case) is None:
        return None
    frames = case.raised.frames
    for outer, inner in zip(reversed(frames[:-1]), reversed(frames[1:]), strict=True):
        if outer.function == "decorate_context" and not inner.is_library:
            return {"function": inner.function}
    return None


def without_gradient(case: Case) -> Facts | None:
    """Return what the model at hand and the results beside the loss say of why it has no graph."""
    if of_torch(case) is None:
        return None
    found = largest_model(case)
    results = [name for name, value in own(case) if is_result(value)]
    cut = {"result": results[0]} if results else {}
    if found is None:
        return cut
    name, model = found
    trainable = sum(tensor.requires_grad for tensor in model.parameters.values())
    known = {"model": name, "kind": model.kind, "all": len(model.parameters)}
    if trainable or cut:
        return known | cut | {"trainable": trainable}
    layer = [*model.parameters][-1].rpartition(".")[0] or None
    return known | {"frozen": str(len(model.parameters)), "layer": layer}


def not_scalar(case: Case) -> Facts | None:
    """Return the shape of what backward was to start at."""
    if of_torch(case) is None:
        return None
    loss = named(case, bind(["LOSS.backward()"], case.raised.frames)["loss"])
    return {} if loss is None else {"shape": shape_of(loss)}


def carried_over(case: Case) -> Facts | None:
    """Return a result that has a graph and a name of what is kept from step to step."""
    if of_torch(case) is None:
        return None
    loss = bind(["LOSS.backward()"], case.raised.frames)["loss"]
    for name, value in own(case):
        if name != loss and _CARRIED.search(name) and is_result(value):
            kept, _, part = name.partition("[")
            parts = {"parts": kept} if part else {}
            return {"carried": kept, "shape": shape_of(value), **parts}
    return {}


def weights_changed(case: Case) -> Facts | None:
    """Return the parameters that have the shape of what was changed: a view of weights."""
    if of_torch(case) is None or case.found.get("operation") not in _VIEWS:
        return None
    return _of_shape(case)


def changed_in_place(case: Case) -> Facts | None:
    """Return the modules at hand that may have worked in place, or the weights it may be."""
    if of_torch(case) is None:
        return None
    if "operation" not in case.found:
        return _of_shape(case)
    found = largest_model(case)
    if found is None:
        return {}
    names = [f"{kind} {name}" for name, kind in found[1].modules.items() if kind in _IN_PLACE]
    return {"kind": found[1].kind, "inplace": listed(names)} if names else {}


def _of_shape(case: Case) -> Facts:
    shape = tuple(int(size) for size in re.findall(r"\d+", case.found["shape"]))
    for _, model in models(case):
        same = [n for n, t in model.parameters.items() if t.shape in (shape, shape[::-1])]
        if same:
            return {"parameters": listed(same), "kind": model.kind}
    return {}


def inference_tensor(case: Case) -> Facts | None:
    """Return the module that was at work."""
    if of_torch(case) is None:
        return None
    module = case.innermost_module()
    return {} if module is None else {"path": module.path or None, "kind": module.kind}


def of_integers(case: Case) -> Facts | None:
    """Return the dtype of what was to require gradients."""
    if of_torch(case) is None:
        return None
    patterns = ["nn.Parameter(DATA)", "Parameter(DATA)", "DATA.requires_grad_()"]
    name = bind(patterns, case.raised.frames)["data"]
    value = named(case, name)
    if not isinstance(value, TensorFacts):
        return {}
    return {"tensor": name, "dtype": value.dtype}


def nan_in_backward(case: Case) -> Facts | None:
    """Return the function whose gradient became nan, where 0 is what does it."""
    if of_torch(case) is None:
        return None
    function = case.found["function"]
    return {"root": function.lower()} if function in _ROOTS else {}


def not_finite(case: Case) -> Facts | None:
    """Return the first parameter that is not finite, or the loss that is not."""
    if of_torch(case) is None:
        return None
    for _, model in models(case):
        bad = [name for name, t in model.parameters.items() if t.is_finite is False]
        if bad:
            return {"parameter": bad[0], "kind": model.kind, "all": len(model.parameters)}
    for name, value in own(case):
        if isinstance(value, TensorFacts) and value.is_finite is False and not value.shape:
            return {"loss": name}
    found = largest_model(case)
    return {} if found is None else {"kind": found[1].kind, "all": len(found[1].parameters)}


def loss_diverged(case: Case) -> Facts | None:
    """Return what luthier found not to be finite: a layer's output, the inputs, or weights."""
    told = case.raised.message
    layer = re.search(r"of the run: (.+ \(\w+\)) is the first whose output", told)
    if layer is not None:
        return {"layer": layer[1]}
    if "of the run: the inputs are not finite" in told:
        return {"inputs": "the inputs"}
    weights = re.search(r"of the run: the (?:parameter|buffer) (\S+) is not finite", told)
    return {} if weights is None else {"weights": weights[1]}


def flag_of_result(case: Case) -> Facts | None:
    """Return the tensor whose flag was to be changed."""
    line = case.raised.line or ""
    changed = re.search(r"([\w.\[\]]+)\.(?:requires_grad\s*=|requires_grad_\()", line)
    known = of_torch(case)
    return known and {**known, "tensor": changed[1] if changed else "tensor"}


def without_parameters(case: Case) -> Facts | None:
    """Return how many parameters of the model at hand could have been given."""
    if of_torch(case) is None:
        return None
    found = largest_model(case)
    if found is None:
        return {}
    name, model = found
    trainable = sum(tensor.requires_grad for tensor in model.parameters.values())
    count = {"trainable": trainable} if trainable else {"frozen": str(len(model.parameters))}
    return {"model": name, "kind": model.kind, **count}


def of_optimizer(case: Case) -> Facts | None:
    """Return how many groups and tensors the optimizer at hand has."""
    if of_torch(case) is None:
        return None
    return optimizer_of(case)


def of_modules(case: Case) -> Facts | None:
    """Return the user's line, where the optimizer could not read what it was given."""
    frame = innermost_in(case, "optim", "optimizer.py")
    if frame is None or frame.function not in ("__init__", "add_param_group"):
        return None
    return {"line": case.raised.line}


def state_of_another_shape(case: Case) -> Facts | None:
    """Return the function in which a step put state and parameter together."""
    frame = innermost_in(case, "optim")
    if frame is None or not any(f.function == "step" for f in case.raised.frames):
        return None
    return {"function": frame.function}


def in_optimizer(case: Case) -> Facts | None:
    """Return where an optimizer raised it, and its kind."""
    frame = innermost_in(case, "optim")
    if frame is None or frame.path.endswith(("lr_scheduler.py", "swa_utils.py")):
        return None
    return {"file": file_of(frame), "line": case.raised.line, **optimizer_of(case)}


def as_text(case: Case) -> Facts | None:
    """Return where an optimizer or a schedule compared a text with a number."""
    frame = innermost_in(case, "optim")
    if frame is None or frame.function != "__init__":
        return None
    if "str" not in (case.found["left"], case.found["right"]):
        return None
    return {"file": file_of(frame), "given": "str"}


def at_its_end(case: Case) -> Facts | None:
    """Return where the schedule at hand is, and how many steps it was planned for."""
    if of_torch(case) is None:
        return None
    schedule = at_work(case, "total_steps")
    if schedule is None:
        return {}
    return {"last": schedule.fields["last_epoch"], "planned": schedule.fields["total_steps"]}


def in_schedule(case: Case) -> Facts | None:
    """Return where a schedule raised it, and its kind."""
    frame = innermost_in(case, "optim", "lr_scheduler.py")
    if frame is None:
        return None
    schedule = at_work(case, "last_epoch")
    kind = {} if schedule is None else {"kind": schedule.kind}
    return {"file": file_of(frame), "function": frame.function, "line": case.raised.line, **kind}


def verbose(case: Case) -> Facts | None:
    """Return the schedule that was given the argument; of the old message, from the line."""
    found = _SCHEDULES.search(case.found.get("schedule") or case.raised.line or "")
    return None if found is None or of_torch(case) is None else {"schedule": found[1]}


def without_closure(case: Case) -> Facts | None:
    """Return the user's line, where the optimizer is one of torch's."""
    if "kind" not in case.found and innermost_in(case, "(?:optim|utils)") is None:
        return None
    return of_torch(case)


def without_metric(case: Case) -> Facts | None:
    """Return the user's line, where the schedule is torch's, or is named as one."""
    line = case.raised.line or ""
    if "kind" not in case.found and not re.search("sched|plateau", line, re.IGNORECASE):
        return None
    return of_torch(case)


def half_parameters(case: Case) -> Facts | None:
    """Return the parameters of a model at hand that are in half precision."""
    if of_torch(case) is None:
        return None
    for name, model in models(case):
        half = [n for n, t in model.parameters.items() if t.dtype == "float16"]
        if half:
            return {"model": name, "kind": model.kind, "count": len(half), "parameter": half[0]}
    return {}
