"""Why a step does not run on tensors without content, in words."""

from __future__ import annotations

from torch import nn
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    UnsupportedOperatorException,
)

from luthier.errors import ModelError

_MEASURE = "or run two steps under torch.profiler with profile_memory=True"
_READS = {"aten._local_scalar_dense.default": " (.item(), or bool, int or float of a tensor)"}


def explained(error: Exception, model: nn.Module) -> ModelError:
    """Return the error that names the operation, the layer and the cure.

    Args:
        error: that was raised in a simulated step.
        model: that was simulated, whose layers are named.
    """
    operation = str(getattr(error, "func", ""))
    where = _layer(error, model)
    if isinstance(error, DataDependentOutputException | DynamicOutputShapeException):
        return ModelError(
            "memory cannot be estimated without running the model: "
            f"{operation}{_READS.get(operation, '')}{where} depends on what a tensor contains",
            cure="write it so that shapes and branches follow from shapes alone, such as with "
            f"torch.where, {_MEASURE}",
        )
    if isinstance(error, UnsupportedOperatorException):
        return ModelError(
            "memory cannot be estimated without running the model: "
            f"{operation}{where} does not say which shapes it returns",
            cure=f"register that with torch.library.register_fake, {_MEASURE}",
        )
    return ModelError(
        f"a step of training cannot be simulated{where}: {type(error).__name__}: {error}",
        cure="check that a step runs with this model, optimizer, batch and criterion; if it does, "
        f"leave out what needs a tensor's content or cannot be copied by copy.deepcopy, {_MEASURE}",
    )


def _layer(error: Exception, model: nn.Module) -> str:
    """Return the innermost layer in whose forward an error was raised, in words."""
    names = {module: name for name, module in model.named_modules()}
    found = ""
    trace = error.__traceback__
    while trace is not None:
        module = trace.tb_frame.f_locals.get("self")
        if isinstance(module, nn.Module) and names.get(module):
            found = f" in {names[module]} ({type(module).__name__})"
        trace = trace.tb_next
    return found
