"""A model of which each process holds a part (PyTorch's FSDP2)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import nn

from luthier.distributed import World
from luthier.errors import ModelError
from luthier.modes import kept_modes
from luthier.training.buckets import as_the_first
from luthier.training.precision import Precision
from luthier.training.synced_norms import SyncedNorms
from luthier.training.team import DUMMIES, Part, Work

_LARGE, _SMALL = 0.1, 0.01  # parts of the model's parameters


class Sharded:
    """A model cut among processes, and the gradients of all of them.

    Each parameter is cut along its first dimension, and so are its gradient and what an optimizer
    keeps of it. A unit of the model (``units_of``) is put together where it is computed, forward
    and backward, and let go of again. What is summed in which order depends on nothing but the
    model, what of it learns and the number of processes.

    Args:
        model: on the host, the same in all processes; it is changed in place and brought to its
            device, unit by unit.
        parts: dotted names of the modules to cut, from the input to the head.
        precision: of the run; bfloat16 is what the units compute and travel in, but for batch
            normalisation; gradients are summed in fp32.
        world: the processes; more than one.
        shape: of an image: ``(channels, height, width)``.
        norms: what takes its statistics from the whole batch.

    Raises:
        ModelError: it has a parameter that cannot be cut, or another value in another process.
    """

    def __init__(
        self,
        model: nn.Module,
        parts: Sequence[str],
        precision: Precision,
        world: World,
        shape: tuple[int, int, int],
        norms: SyncedNorms | None = None,
    ) -> None:
        self._model, self._precision, self._shape = model, precision, shape
        self._world = world
        self._part = Part(world, self.scores, norms=norms)
        _check(model)
        _check_alike(model, world)
        self.units = _cut(model, units_of(model, parts, shape), precision, world)
        for unit in self.units:  # before FSDP's own, which waits for the unit's weights
            unit.register_forward_pre_hook(world.come_so_far, prepend=True)

    def enter(self) -> None:
        """Take note that other parts of the model learn from now on."""
        for unit in self.units:  # FSDP looks at what learns when it begins to put a unit together
            with self._world.exchanging():
                unit.unshard()
            unit.reshard()

    def learn(
        self, work: Work, images: torch.Tensor, labels: torch.Tensor, size: int, *, last: bool
    ) -> tuple[float, int]:
        """Add the gradient of a batch; see ``Team``."""
        self.units[-1].set_requires_gradient_sync(last)
        found = self._part.learn(work, images, labels, size)
        if last:
            self.settle()
        return found

    def scores(self, images: torch.Tensor) -> torch.Tensor:
        """Return what the model says of images; to be called by all processes."""
        with self._world.exchanging():
            scores: torch.Tensor = self._model(images)
        return scores

    def evenly(
        self, batches: Iterable[tuple[torch.Tensor, torch.Tensor]], rounds: int
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Give batches to one who calls ``scores`` with each, and call it as often as the others.

        Args:
            batches: ``rounds`` of them, or fewer.
            rounds: the most that a process has.
        """
        seen = 0
        for seen, batch in enumerate(batches, start=1):  # noqa: B007 - how many is what is asked
            yield batch
        for _ in range(rounds - seen):
            with self._precision.autocast():
                self.scores(self._precision.place(torch.zeros((1, *self._shape))))

    def close(self) -> None:
        """Let go of the process group; scores and gradients can be asked for no more.

        What FSDP and DTensor's caches keep of it would keep Gloo's threads alive after it was
        destroyed. One that drops a tensor while the interpreter ends waits for Python's lock, is
        ended there, and takes the process with it: "terminate called without an active exception".
        """
        for unit in self.units:
            for group in unit._get_fsdp_state()._fsdp_param_groups:
                group.mesh_info.shard_process_group = None
                group.mesh_info.mesh._pg_registry.clear()

    @torch.no_grad()
    def settle(self, more: Iterable[torch.Tensor] = ()) -> None:
        """Let every process have the buffers of the first; see ``Replicas.settle``."""
        with self._world.exchanging():
            as_the_first([*self._model.buffers(), *more])


def _check(model: nn.Module) -> None:
    seen: dict[nn.Parameter, str] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        if parameter in seen:
            raise ModelError(
                f"--shard: {name} and {seen[parameter]} are one parameter, which cannot be cut",
                cure="leave --shard out",
            )
        if not parameter.ndim:
            raise ModelError(
                f"--shard: the parameter {name} is a single number, which cannot be cut",
                cure="leave --shard out, or give it the shape (1,)",
            )
        seen[parameter] = name


def _check_alike(model: nn.Module, world: World) -> None:
    # Rows of different models would make one that nobody has built.
    state = {n: t.detach() for n, t in model.state_dict().items() if isinstance(t, torch.Tensor)}
    flat = {name: tensor.cpu().reshape(-1).view(torch.uint8) for name, tensor in state.items()}
    rows = world.gather([float(octets.sum()) for octets in flat.values()])
    for rank, row in enumerate(rows):
        other = [name for name, a, b in zip(state, rows[0], row, strict=True) if a != b]
        if other:
            raise ModelError(
                f"--shard: {other[0]} starts with other values in rank {rank} than in rank 0",
                cure="let the model draw from torch's generator alone, which luthier has seeded",
            )


def units_of(
    model: nn.Module, parts: Sequence[str], shape: tuple[int, int, int]
) -> list[nn.Module]:
    """Return the modules to be put together one at a time, in the model's order.

    They are the parts. A part with more than a tenth of the model's parameters is opened up, and so
    on down, where its children have nearly all of them; what has less than a hundredth stays with
    the model. A module that is not called exactly once by a forward pass is no unit: its parameters
    are used by whoever holds it, or more than once.

    Args:
        model: on the host, whole.
        parts: dotted names of modules.
        shape: of an image.
    """
    total = _count(model)
    called = _calls(model, shape)

    def opened(module: nn.Module) -> list[nn.Module]:
        inner = [child for child in module.children() if called[child] == 1]
        held = sum(_count(child) for child in inner)
        size, once = _count(module), called[module] == 1
        large = size > _LARGE * total and held > (1 - _LARGE) * size
        if inner and (large or not once):
            return [unit for child in inner for unit in opened(child)]
        return [module] if once and size >= _SMALL * total else []

    return [unit for part in parts for unit in opened(model.get_submodule(part))]


def _count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def _calls(model: nn.Module, shape: tuple[int, int, int]) -> Counter[nn.Module]:
    """Return how often a pass calls each module."""
    found: Counter[nn.Module] = Counter()
    hooks = [
        module.register_forward_hook(lambda called, *_facts: found.update([called]))
        for module in model.modules()
    ]
    try:
        with kept_modes(model), torch.no_grad():
            model.eval()
            model(torch.zeros((DUMMIES, *shape)))
    finally:
        for hook in hooks:
            hook.remove()
    return found


def _cut(
    model: nn.Module, units: Sequence[nn.Module], precision: Precision, world: World
) -> list[Any]:
    """Let FSDP have the units and then the model; return them, the model last."""
    from torch.distributed.device_mesh import init_device_mesh  # noqa: PLC0415 - takes a second
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard  # noqa: PLC0415 - likewise

    device = torch.device(precision.device)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    mesh = init_device_mesh(device.type, (world.size,))
    exact = MixedPrecisionPolicy()
    policy = exact
    if precision.name != "fp32":
        policy = MixedPrecisionPolicy(param_dtype=precision.dtype, reduce_dtype=torch.float32)
    for parameter in model.parameters():
        if not parameter.is_contiguous():  # which FSDP refuses
            parameter.data = parameter.data.contiguous()
    made: list[Any] = []
    taken: set[nn.Module] = set()

    def cut(what: Any, how: Any) -> None:
        # The model, too, lets go after a forward pass: its parameters are the cut ones then.
        fully_shard(what, mesh=mesh, reshard_after_forward=True, mp_policy=how)
        one = what[0] if isinstance(what, list) else what
        one.set_gradient_divide_factor(1.0)  # pieces weigh by their images: a sum
        one.set_force_sum_reduction_for_comms(True)
        made.append(one)

    for unit in [*units, model]:
        if policy is not exact:  # whose statistics are kept, and compared, in fp32
            norms = [m for m in unit.modules() if _keeps_statistics(m) and m not in taken]
            taken.update(norms)
            if norms and unit not in norms:
                cut(norms, exact)
            cut(unit, exact if unit in norms else policy)
        else:
            cut(unit, exact)
    return made


def _keeps_statistics(module: nn.Module) -> bool:
    buffers: Callable[..., Any] = module.named_buffers
    return any(name == "running_mean" for name, _ in buffers(recurse=False))
