"""How many bytes training will take, told before the first step."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from luthier.devices.live import LiveBytes, tensors
from luthier.devices.simulated import Criterion, simulated
from luthier.devices.unsimulated import explained
from luthier.errors import RecipeError
from luthier.machine.allowed import memory_allowed
from luthier.randomness import kept_randomness

PARTS = ("parameters", "buffers", "gradients", "optimizer", "batch", "activations")


@dataclass(frozen=True)
class MemoryReport:
    """What is alive at the moment of a step when most is; ``str`` gives a table.

    Attributes:
        parameters: bytes of the model's and the criterion's parameters.
        buffers: bytes of their buffers, and of tensors that they keep as plain attributes.
        gradients: bytes of the parameters' gradients at that moment: few of them exist where a
            step begins without any, and most is alive at the end of the forward.
        optimizer: bytes of the optimizer's state.
        batch: bytes of inputs and targets.
        activations: bytes of everything else: what the backward needs of the forward, gradients
            of activations, casts, and what operations take for a moment.
        device: where the model is.
        device_memory: bytes that training could take there, or None where the system does not
            say: of an accelerator all that it has; on a CPU what this process may still take and
            what model, optimizer and batch have taken already.
    """

    parameters: int
    buffers: int
    gradients: int
    optimizer: int
    batch: int
    activations: int
    device: str = "cpu"
    device_memory: int | None = None

    @property
    def peak(self) -> int:
        """The sum of the parts, in bytes."""
        return sum(getattr(self, part) for part in PARTS)

    def __str__(self) -> str:
        unit, bytes_ = ("GiB", 2**30) if self.peak >= 2**30 else ("MiB", 2**20)
        rows = [(part, f"{getattr(self, part) / bytes_:.2f} {unit}") for part in (*PARTS, "peak")]
        wide = max(len(amount) for _, amount in rows)
        table = "\n".join(f"{part:<11}  {amount:>{wide}}" for part, amount in rows)
        if not self.device_memory:
            return table
        share = 100 * self.peak / self.device_memory
        return f"{table}  {share:.1f} % of {self.device_memory / 2**30:.1f} GiB on {self.device}"


def memory_report(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    batch: Any,
    *,
    criterion: Criterion | None = None,
    precision: str = "fp32",
    set_to_none: bool = True,
) -> MemoryReport:
    """Return how many bytes training will take, without running a step or taking that memory.

    Two steps (``zero_grad``, forward, loss, backward, ``step``) are simulated on copies whose
    tensors have shapes and no content (``FakeTensorMode`` of torch), and every storage is followed
    from its making to its end: the second step has the optimizer's state and the gradients of the
    first. Model, optimizer, batch, random generators and ``.grad`` stay as they are. The model is
    in the modes, and the layers are frozen, as they are now.

    What torch's allocator gives out is counted, with the copies that oneDNN makes on a CPU inside
    of convolutions and batched products, as they were measured on x86-64 with AVX-512. Against the
    allocator's own record there the peak of two steps was within 4 % (torchvision models, an MLP,
    transformers; SGD, Adam; fp32, bf16; frozen trunks). Not counted:

    - what is beside tensors: the program and its libraries, the CUDA context (some hundred MiB),
      fragmentation, data that is read ahead, what MKL takes for itself;
    - on a CPU, what oneDNN keeps of an LSTM for the backward, of which torch tells no size: about
      16 times what comes out of each layer, so that the peak of a model that is mostly LSTM was
      2.5 times what is told; and scratch of products in bfloat16, some hundred KiB;
    - on CUDA, workspaces of cuDNN and cuBLAS. There nothing has been measured.

    Forward hooks of modules run on the copies: what they keep elsewhere has no content, and
    neither has what a cached function keeps. Hooks of parameters and of the optimizer do not run;
    gradient clipping, a moving average or accumulation in your loop are not seen.

    Args:
        model: on its device.
        optimizer: of the model's parameters; its state may exist already.
        batch: ``(inputs, targets)``, a tuple or list of two; anything else is inputs alone. Inputs
            go to the model as keywords where they are a mapping, as several arguments where they
            are a tuple, else as one. Any shapes; brought to the model's device.
        criterion: outputs, targets → a scalar loss; targets are None where there are none. By
            default: the outputs' ``loss`` where they have one (``transformers``); cross entropy
            for targets of integers, of scores ``[batch, classes, ...]`` or ``[..., classes]``;
            else the mean of the outputs that are floating-point.
        precision: "fp32", or "bf16" for autocast to bfloat16 of forward and loss.
        set_to_none: as in ``zero_grad``; False keeps the gradients' memory from step to step.

    Raises:
        RecipeError: another precision.
        ModelError: the step does not run, or what it does depends on what tensors contain
            (``.item()``, ``if tensor``, a mask as an index); the operation and layer are named.
    """
    if precision not in ("fp32", "bf16"):
        raise RecipeError(f"precision {precision!r}: expected 'fp32' or 'bf16'")
    first = next(iter([*model.parameters(), *model.buffers(), *tensors(batch)]), None)
    device = torch.device("cpu") if first is None else first.device
    live = LiveBytes(device)
    with _untouched(model):
        running = model
        try:
            step = simulated(live, model, optimizer, batch, criterion)
            running, held = step.model, live.now.total()
            for _ in range(2):
                step.run(live, bf16=precision == "bf16", set_to_none=set_to_none)
        except Exception as error:
            raise explained(error, running) from error
    parts = {part: live.peak[part] for part in PARTS}
    return MemoryReport(**parts, device=str(device), device_memory=_memory_of(device, held))


@contextmanager
def _untouched(model: nn.Module) -> Iterator[None]:
    """Put back what a simulated step could reach of the caller's."""
    grads = [(parameter, parameter.grad) for parameter in model.parameters()]
    log = logging.getLogger("torch._subclasses.fake_tensor")  # prints what is raised anyway
    silent = log.disabled
    with kept_randomness(), warnings.catch_warnings(), torch.enable_grad():
        warnings.simplefilter("ignore")
        log.disabled = True
        try:
            yield
        finally:
            log.disabled = silent
            # A function that holds the model itself, such as a lambda in a layer, is not copied.
            for parameter, grad in grads:
                if parameter.grad is not grad:
                    parameter.grad = grad


def _memory_of(device: torch.device, held: int) -> int | None:
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    free = memory_allowed() if device.type == "cpu" else None
    return None if free is None else free + held
