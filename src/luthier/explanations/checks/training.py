"""Errors of autograd, optimizers, schedules, mixed precision and several processes."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TypeGuard

from luthier.explanations.names import bind
from luthier.explanations.values import (
    Case,
    Fact,
    Facts,
    Frame,
    ModuleFacts,
    ObjectFacts,
    TensorFacts,
)

_CARRIED = re.compile(r"hidden|state|memory|cell|carry|total|running|prev|^(?:h|c|hx|cx|h0|c0)$")
_VIEWS = ("AsStrided", "T", "Transpose")  # of a Linear's weights
_IN_PLACE = ("ReLU", "ReLU6", "LeakyReLU", "SiLU", "Hardswish", "Hardsigmoid", "ELU", "Dropout")
_SCHEDULES = frozenset(
    (
        "StepLR MultiStepLR ConstantLR LinearLR ExponentialLR PolynomialLR CosineAnnealingLR "
        "CosineAnnealingWarmRestarts LambdaLR MultiplicativeLR CyclicLR OneCycleLR SequentialLR "
        "ReduceLROnPlateau ChainedScheduler LRScheduler SWALR"
    ).split()
)
_ROOTS = ("Log", "Log2", "Log10", "Sqrt", "Rsqrt")  # without a finite gradient at 0


def of_torch(case: Case) -> Facts | None:
    """Return the user's line, or None where somebody else raised the error in torch's words."""
    frames = case.raised.frames
    if frames and not _is_torchs(frames[-1]) and _is_raise(frames[-1]):
        return None
    return {"line": _line(case)}


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
    found = _model(case)
    results = [name for name, value in _own(case) if _is_result(value)]
    cut = {"result": results[0]} if results else {}
    if found is None:
        return cut
    name, model = found
    trainable = sum(tensor.requires_grad for tensor in model.parameters.values())
    known = {"model": name, "kind": model.kind, "all": len(model.parameters)}
    if trainable or cut:
        return known | cut | {"trainable": trainable}
    layer = [*model.parameters][-1].rpartition(".")[0]
    return known | {"frozen": len(model.parameters), "layer": layer}


def not_scalar(case: Case) -> Facts | None:
    """Return the shape of what backward was to start at."""
    if of_torch(case) is None:
        return None
    loss = _named(case, bind(["LOSS.backward()"], case.raised.frames)["loss"])
    return {} if loss is None else {"shape": _shape(loss)}


def carried_over(case: Case) -> Facts | None:
    """Return a result that has a graph and a name of what is kept from step to step."""
    if of_torch(case) is None:
        return None
    loss = bind(["LOSS.backward()"], case.raised.frames)["loss"]
    for name, value in _own(case):
        if name != loss and _CARRIED.search(name) and _is_result(value):
            return {"carried": name, "shape": _shape(value)}
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
    found = _model(case)
    if found is None:
        return {}
    names = [name for name, kind in found[1].modules.items() if kind in _IN_PLACE]
    return {"kind": found[1].kind, "inplace": _listed(names)} if names else {}


def _of_shape(case: Case) -> Facts:
    shape = tuple(int(size) for size in re.findall(r"\d+", case.found["shape"]))
    for _, model in _models(case):
        same = [n for n, t in model.parameters.items() if t.shape in (shape, shape[::-1])]
        if same:
            return {"parameters": _listed(same), "kind": model.kind}
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
    value = _named(case, name)
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
    """Return the first parameter that is not finite, or how many are."""
    if of_torch(case) is None:
        return None
    for name, value in _own(case):
        if isinstance(value, ModuleFacts) and value.parameters:
            known: dict[str, object] = {"kind": value.kind, "all": len(value.parameters)}
            bad = [n for n, t in value.parameters.items() if t.is_finite is False]
            return known | ({"parameter": bad[0]} if bad else {})
        if isinstance(value, TensorFacts) and value.is_finite is False and not value.shape:
            return {"loss": name}
    return {}


def without_parameters(case: Case) -> Facts | None:
    """Return how many parameters of the model at hand could have been given."""
    if of_torch(case) is None:
        return None
    found = _model(case)
    if found is None:
        return {}
    name, model = found
    trainable = sum(tensor.requires_grad for tensor in model.parameters.values())
    count = {"trainable": trainable} if trainable else {"frozen": len(model.parameters)}
    return {"model": name, "kind": model.kind, **count}


def of_optimizer(case: Case) -> Facts | None:
    """Return how many groups and tensors the optimizer at hand has."""
    if of_torch(case) is None:
        return None
    return _optimizer(case)


def of_modules(case: Case) -> Facts | None:
    """Return the user's line, where the optimizer could not read what it was given."""
    frame = _within(case, "optim", "optimizer.py")
    if frame is None or frame.function not in ("__init__", "add_param_group"):
        return None
    return {"line": _line(case)}


def state_of_another_shape(case: Case) -> Facts | None:
    """Return the function in which a step put state and parameter together."""
    frame = _within(case, "optim")
    if frame is None or not any(f.function == "step" for f in case.raised.frames):
        return None
    return {"function": frame.function}


def in_optimizer(case: Case) -> Facts | None:
    """Return where an optimizer raised it, and its kind."""
    frame = _within(case, "optim")
    if frame is None or frame.path.endswith(("lr_scheduler.py", "swa_utils.py")):
        return None
    return {"file": _file(frame), "function": frame.function, **_optimizer(case)}


def as_text(case: Case) -> Facts | None:
    """Return where an optimizer or a schedule compared a text with a number."""
    frame = _within(case, "optim")
    if frame is None or frame.function != "__init__":
        return None
    if "str" not in (case.found["left"], case.found["right"]):
        return None
    return {"file": _file(frame), "function": frame.function, "given": "str"}


def at_its_end(case: Case) -> Facts | None:
    """Return where the schedule at hand is, and how many steps it was planned for."""
    if of_torch(case) is None:
        return None
    for _, value in _own(case):
        if isinstance(value, ObjectFacts) and value.fields.get("total_steps"):
            return {"last": value.fields["last_epoch"], "planned": value.fields["total_steps"]}
    return {}


def in_schedule(case: Case) -> Facts | None:
    """Return where a schedule raised it, and its kind."""
    frame = _within(case, "optim", "lr_scheduler.py")
    if frame is None:
        return None
    kinds = [v.kind for _, v in _own(case) if _is_object(v, "last_epoch")]
    kind = {"kind": kinds[0]} if kinds else {}
    return {"file": _file(frame), "function": frame.function, "line": _line(case), **kind}


def verbose(case: Case) -> Facts | None:
    """Return the schedule that was given the argument; of the old message, from the line."""
    schedule = case.found.get("schedule") or ""
    named = schedule or _line(case) or ""
    found = re.search(r"\b(\w+LR|ReduceLROnPlateau|LRScheduler|\w+Scheduler)\b", named)
    if found is None or of_torch(case) is None:
        return None
    return {"schedule": found[1]} if found[1] in _SCHEDULES else None


def without_closure(case: Case) -> Facts | None:
    """Return the user's line, where the optimizer is one of torch's."""
    if "kind" not in case.found and _within(case, "(?:optim|utils)") is None:
        return None
    return of_torch(case)


def without_metric(case: Case) -> Facts | None:
    """Return the user's line, where the schedule is torch's, or is named as one."""
    line = _line(case) or ""
    if "kind" not in case.found and not re.search("sched|plateau", line, re.IGNORECASE):
        return None
    return of_torch(case)


def half_parameters(case: Case) -> Facts | None:
    """Return the parameters of a model at hand that are in half precision."""
    if of_torch(case) is None:
        return None
    for name, model in _models(case):
        half = [n for n, t in model.parameters.items() if t.dtype == "float16"]
        if half:
            return {"model": name, "kind": model.kind, "count": len(half), "parameter": half[0]}
    return {}


def _line(case: Case) -> str | None:
    """Return the user's innermost line."""
    own = [frame for frame in case.raised.frames if not frame.is_library and frame.source]
    return own[-1].source if own else None


def _is_torchs(frame: Frame) -> bool:
    return frame.is_library and bool(re.search(r"[/\\]torch[/\\]", frame.path))


def _is_raise(frame: Frame) -> bool:
    return frame.source.startswith(("raise ", "assert "))


def _own(case: Case) -> Iterator[tuple[str, Fact]]:
    """Yield the variables of the user's own calls, of the innermost first."""
    for frame, variables in reversed([*zip(case.raised.frames, case.live, strict=False)]):
        if not frame.is_library:
            yield from variables.items()


def _named(case: Case, name: str) -> Fact | None:
    return next((value for own, value in _own(case) if own == name), None)


def _models(case: Case) -> list[tuple[str, ModuleFacts]]:
    """Return the user's modules with parameters, the largest first."""
    found = [(n, v) for n, v in _own(case) if isinstance(v, ModuleFacts) and v.parameters]
    return sorted(found, key=lambda named: -len(named[1].parameters))


def _model(case: Case) -> tuple[str, ModuleFacts] | None:
    return next(iter(_models(case)), None)


def _is_result(value: Fact) -> bool:
    return isinstance(value, TensorFacts) and value.requires_grad and not value.is_leaf


def _shape(value: Fact) -> str | None:
    return str(list(value.shape)) if isinstance(value, TensorFacts) else None


def _listed(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _within(case: Case, package: str, file: str = "") -> Frame | None:
    """Return the innermost frame, if it is in a package of torch, and in a file of it."""
    if not case.raised.frames:
        return None
    frame = case.raised.frames[-1]
    path = frame.path.replace("\\", "/")
    return frame if re.search(rf"/torch/{package}/(?:.*/)?{file}", path) else None


def _file(frame: Frame) -> str | None:
    """Return the path of a file as an import has it: torch/optim/adam.py."""
    path = frame.path.replace("\\", "/")
    return path[path.rindex("/torch/") + 1 :] if "/torch/" in path else None


def _optimizer(case: Case) -> Facts:
    for _, value in _own(case):
        if isinstance(value, ObjectFacts) and "rates" in value.fields:
            rates = value.fields["rates"]
            assert isinstance(rates, tuple)  # noqa: S101 - see luthier.run.live
            tensors = value.fields["tensors"]
            return {"kind": value.kind, "groups": len(rates), "tensors": tensors}
    return {}


def _is_object(value: Fact, field: str) -> TypeGuard[ObjectFacts]:
    return isinstance(value, ObjectFacts) and field in value.fields
