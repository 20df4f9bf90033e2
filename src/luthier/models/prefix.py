"""The part of a model that cannot change in an epoch, cut off and made fast.

``torch.fx`` writes a model's forward down as a graph. A node of it *stands still* where its value
depends on the images and on nothing that learns, draws or gathers statistics. Those nodes are the
prefix. It runs without autograd, in its own copies of the weights, with batch normalisation
folded into the convolutions before it (Jacob et al. 2018, section 3.2). The rest is the model's
own modules and parameters. A model that cannot be written down as a graph is cut at its head or
not at all; ``check_split`` compares the two parts with the model before they are trusted.
"""

from __future__ import annotations

import copy
import functools
import inspect
import itertools
import math
import random
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import fx, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd
from torch.nn.modules.instancenorm import _InstanceNorm
from torch.nn.utils.fusion import fuse_conv_bn_weights

from luthier.randomness import kept_randomness, seed_everything

# Functions and methods that draw, by name, whatever their arguments.
_DRAWING = frozenset(
    """bernoulli bernoulli_ binomial cauchy_ dropout_ exponential_ fractional_max_pool2d
    fractional_max_pool3d geometric_ gumbel_softmax log_normal_ multinomial normal normal_ poisson
    rand rand_like randint randint_like randn randn_like random_ randperm rrelu_ uniform_""".split()  # noqa: SIM905
)
_PASSING = (nn.functional.dropout, torch.flatten, "flatten")
_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


@dataclass(frozen=True)
class Split:
    """A model in two parts: ``rest(*features(images))`` are its scores.

    The prefix has the weights, modes and ``requires_grad`` of the time of the cut: cut again
    when a frozen part is loaded, thawed or frozen. The rest follows the model.

    Attributes:
        dtype: of the prefix's weights and features.
        whole: one layer has all the weights behind the cut, and the features are one tensor: its
            input, but for dropout and flattening.
        copied: bytes of weights that the prefix holds beside the model's own.
    """

    dtype: torch.dtype
    whole: bool
    copied: int
    _model: nn.Module = field(repr=False)
    _prefix: Callable[[torch.Tensor], tuple[torch.Tensor, ...]] = field(repr=False)
    _learning: nn.Module = field(repr=False)
    _evaluating: nn.Module = field(repr=False)

    @torch.no_grad()
    def features(self, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Return what the rest asks for, of images ``[batch, 3, height, width]``.

        They are ordinary tensors without a gradient, the batch first: autograd would refuse to
        keep those of inference mode for a backward. Autocast is off inside.
        """
        with torch.autocast(images.device.type, enabled=False):
            return self._prefix(images.to(self.dtype, memory_format=torch.channels_last))

    def rest(self, *features: torch.Tensor) -> torch.Tensor:
        """Return the model's scores from features, which keep their values.

        Autocast is the caller's; without it the rest computes in float32.
        """
        scores: torch.Tensor = self._rest_now(*map(_own, features))
        return scores

    @property
    def _rest_now(self) -> nn.Module:
        return self._learning if self._model.training else self._evaluating


def _own(feature: Any) -> Any:
    # A copy, since many a head begins with dropout in place.
    if not isinstance(feature, torch.Tensor):
        return feature
    if feature.is_floating_point() and not torch.is_autocast_enabled(feature.device.type):
        return feature.to(torch.float32, copy=True)
    return feature.clone()


def split_frozen(model: nn.Module, dtype: torch.dtype = torch.float32) -> Split | None:
    """Cut off the part of a model that stands still, as it is frozen and in its modes now.

    Nothing of the model is changed. Tracing patches ``nn.Module`` for its time: no other thread
    may call a module meanwhile.

    Args:
        model: with its weights, on its device, in the modes of the epoch.
        dtype: in which the prefix computes. The rest takes bfloat16 features under autocast.

    Returns:
        None where there is nothing to cut off, or no way to tell where.
    """
    if _is_hooked(model) or not any(p.requires_grad for p in model.parameters()):
        return None
    try:
        return _cut_graph(model, dtype)
    except Exception:  # the model's own code fails on what is no tensor in its own ways
        return _cut_at_head(model, dtype)


# --- what stands still ------------------------------------------------------------------------


def _is_hooked(module: nn.Module) -> bool:
    return bool(
        module._forward_hooks
        or module._forward_pre_hooks
        or module._backward_hooks
        or module._backward_pre_hooks
    )


def _is_unsteady(module: nn.Module) -> bool:
    """Tell whether a module of torch's (its children aside) draws, or uses batch statistics."""
    if isinstance(module, _BatchNorm):
        return module.training or module.running_mean is None
    if isinstance(module, nn.FractionalMaxPool2d | nn.FractionalMaxPool3d):
        return True
    if not module.training:
        return False
    if isinstance(module, _DropoutNd):
        return module.p > 0
    if isinstance(module, nn.MultiheadAttention | nn.RNNBase):
        return module.dropout > 0
    return isinstance(module, nn.RReLU) or (
        isinstance(module, _InstanceNorm) and module.track_running_stats
    )


def _module_moves(module: nn.Module) -> bool:
    """Tell whether a module that stays closed may give another value for the same input."""
    if any(p.requires_grad for p in module.parameters()):
        return True
    return any(
        _is_hooked(part)
        or _is_unsteady(part)
        or (part.training and not type(part).__module__.startswith("torch.nn."))
        for part in module.modules()
    )


def _call_moves(node: fx.Node) -> bool:
    name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
    given = _arguments(node)
    if name in _DRAWING:
        return True
    if name == "scaled_dot_product_attention":
        return bool(given.get("dropout_p", node.args[4] if len(node.args) > 4 else 0.0) != 0.0)
    trains = given.get("training", "dropout" in name)
    return trains is not False and bool(given.get("p", given.get("dropout_p", 1.0)) != 0.0)


def _arguments(node: fx.Node) -> Mapping[str, Any]:
    if not callable(node.target):
        return node.kwargs
    try:
        bound = inspect.signature(node.target).bind(*node.args, **node.kwargs)
    except (TypeError, ValueError):  # torch's compiled functions tell no signature
        return node.kwargs
    bound.apply_defaults()
    return bound.arguments


# --- tracing ----------------------------------------------------------------------------------


class _Tracer(fx.Tracer):
    """Opens modules as far as there may be something to cut off; the untraceable stay closed.

    A module stays closed that learns wholly, while something else learns too: its forward is
    best left as it is.
    """

    proxy_buffer_attributes = True  # else ``buffer.add_`` is carried out while it is traced

    def __init__(self, learning: int) -> None:
        super().__init__()
        self._learning = learning

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        learns = [p.requires_grad for p in m.parameters()]
        of_many = bool(learns) and all(learns) and len(learns) < self._learning
        return _is_hooked(m) or of_many or super().is_leaf_module(m, module_qualified_name)

    def call_module(
        self,
        m: nn.Module,
        forward: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Any:
        before, stack = set(self.graph.nodes), dict(self.module_stack)
        try:
            return super().call_module(m, forward, args, kwargs)
        except Exception:  # the module's own code fails on what is no tensor in its own ways
            for node in reversed(self.graph.nodes):
                if node not in before and node.op != "get_attr":  # the tracer keeps those
                    self.graph.erase_node(node)
            self.module_stack.clear()
            self.module_stack.update(stack)
            return self.create_proxy("call_module", self.path_of_module(m), args, kwargs)


class _Trace:
    """A model's forward in its present modes, as a graph.

    Attributes:
        twin: has the model's structure and modes, and shares its tensors.
        nodes: in the order of the forward.
        keys: of each node; equal in all traces with the same ``known`` for equal computations.
        moving: nodes that may have another value for the same images, or that change something.
        still: the other nodes that depend on the images.
    """

    def __init__(self, twin: nn.Module, known: dict[str, int]) -> None:
        self.twin = twin
        self.nodes = list(_drawing_nothing(twin).nodes)
        self.keys: dict[fx.Node, int] = {}
        self.moving: set[fx.Node] = set()
        self.still: set[fx.Node] = set()
        for node in self.nodes:
            name = fx.node.map_arg((node.args, node.kwargs), lambda n: f"%{self.keys[n]}")
            key = f"{node.op} {node.target!r} {name}"
            self.keys[node] = known.setdefault(key, len(known))
            self._classify(node)

    def _classify(self, node: fx.Node) -> None:
        sources = node.all_input_nodes
        seen = any(source in self.still for source in sources)
        if node.op == "placeholder":
            if not node.args:  # without a default it is the images
                self.still.add(node)
        elif node.op == "output" or any(s in self.moving for s in sources) or self._moves(node):
            self.moving.add(node)
        elif seen:
            self.still.add(node)
        elif node.op == "call_method" and str(node.target).endswith("_"):
            self.moving.add(node)  # such as ``num_batches_tracked.add_(1)``

    def _moves(self, node: fx.Node) -> bool:
        if node.op == "get_attr":
            return bool(getattr(self.part(node), "requires_grad", False))
        if node.op == "call_module":
            return _module_moves(self.part(node))
        return _call_moves(node)

    def part(self, node: fx.Node) -> Any:
        """Return the module or tensor of the twin that a node names."""
        return _attribute(self.twin, str(node.target))


def _attribute(root: Any, path: str) -> Any:
    for name in path.split("."):
        root = getattr(root, name)
    return root


def _twin(model: nn.Module) -> nn.Module:
    # Tracing leaves its marks on modules, such as ``self.attention = …``.
    return copy.deepcopy(model, {id(tensor): tensor for tensor in _tensors(model)})


def _tensors(module: nn.Module) -> Iterator[torch.Tensor]:
    return itertools.chain(module.parameters(), module.buffers())


def _drawing_nothing(twin: nn.Module) -> fx.Graph:
    with kept_randomness():
        before = _generator_states()
        graph = _Tracer(sum(p.requires_grad for p in twin.parameters())).trace(twin)
        if _generator_states() != before:
            raise ValueError("a random number would become a part of the graph")
    return graph


def _generator_states() -> tuple[Any, ...]:
    torch_state = torch.default_generator.get_state().numpy().tobytes()
    return torch_state, random.getstate(), repr(np.random.get_state())


# --- cutting ----------------------------------------------------------------------------------


def _cut_graph(model: nn.Module, dtype: torch.dtype) -> Split | None:
    known: dict[str, int] = {}
    now = _Trace(_twin(model), known)
    later = _Trace(_twin(model).eval(), known)  # a graph holds the modes of what it opened
    by_key = {now.keys[node]: node for node in reversed(now.nodes) if node in now.still}
    cut = list(dict.fromkeys([*_crossing(now, by_key), *_crossing(later, by_key)]))
    prefix, copied = _prefix(now, [by_key[key] for key in cut], dtype)
    if not any(True for _ in _tensors(prefix)):
        return None
    learning, evaluating = (_rest(trace, by_key, cut, model) for trace in (now, later))
    return Split(dtype, _is_head(learning), copied, model, prefix, learning, evaluating)


def _is_head(rest: fx.GraphModule) -> bool:
    """Tell whether one layer has all weights of a rest, and takes dropped-out, flat features."""
    owners = [m for m in rest.modules() if any(True for _ in m.parameters(recurse=False))]
    if len(owners) != 1 or not isinstance(owners[0], nn.Linear | nn.Conv2d):
        return False
    calls = [node for node in rest.graph.nodes if _called(rest, node) is owners[0]]
    source = calls[0].all_input_nodes[0]
    while source.target in _PASSING or isinstance(_called(rest, source), _DropoutNd | nn.Flatten):
        source = source.all_input_nodes[0]
    return len(calls) == 1 and source.op == "placeholder"


def _called(rest: fx.GraphModule, node: fx.Node) -> nn.Module | None:
    return rest.get_submodule(str(node.target)) if node.op == "call_module" else None


def _crossing(trace: _Trace, prefix: Collection[int]) -> Iterator[int]:
    """Give the keys of values of the prefix that the rest asks for."""
    for node in trace.nodes:
        inside = trace.keys[node] in prefix
        if inside and any(trace.keys[user] not in prefix for user in node.users):
            yield trace.keys[node]


def _rest(
    trace: _Trace, prefix: Collection[int], cut: list[int], model: nn.Module
) -> fx.GraphModule:
    graph = fx.Graph()
    entries = {key: graph.placeholder(f"feature_{i}") for i, key in enumerate(cut)}
    values: dict[fx.Node, Any] = {}
    outside = [node for node in trace.nodes if trace.keys[node] not in prefix]
    wanted = set(trace.moving)
    for node in reversed(outside):
        if any(user in wanted for user in node.users):
            wanted.add(node)
    parts: dict[str, Any] = {}
    for node in trace.nodes:
        key = trace.keys[node]
        if key in entries:
            values[node] = entries[key]
        elif node in wanted and key not in prefix:
            part = trace.part(node) if node.op == "get_attr" else None
            if node.op == "call_module":
                part = model.get_submodule(str(node.target))
            values[node] = _copy(graph, node, values, parts, part)
    return fx.GraphModule(parts, graph, "Rest")


def _copy(
    graph: fx.Graph,
    node: fx.Node,
    values: Mapping[fx.Node, Any],
    parts: dict[str, Any],
    part: Any,
) -> Any:
    """Copy a node into a graph, under a plain name if it has a part (module or tensor)."""
    if node.op == "placeholder":
        return node.args[0]  # its default
    made = graph.node_copy(node, lambda source: values[source])
    if part is not None:
        made.target = f"part_{len(parts)}"
        parts[made.target] = part
    return made


# --- the prefix -------------------------------------------------------------------------------


def _prefix(trace: _Trace, ends: list[fx.Node], dtype: torch.dtype) -> tuple[fx.GraphModule, int]:
    """Return the nodes up to ``ends``, and how many bytes of weights were copied for them."""
    wanted = set(ends)
    for node in reversed(trace.nodes):
        if node in wanted:
            wanted.update(node.all_input_nodes)
    users = {node: [u for u in node.users if u in wanted] for node in wanted.difference(ends)}
    alone = {node for node, own in users.items() if len(own) == 1}
    norms = {node: fold for node in wanted if (fold := _fold(trace, node, alone)) is not None}
    folded = {node.all_input_nodes[0]: fold for node, fold in norms.items()}
    wanted -= {n for n in wanted if n.op == "get_attr" and wanted & n.users.keys() <= norms.keys()}
    graph = fx.Graph()
    values: dict[fx.Node, Any] = {}
    parts: dict[str, Any] = {}
    for node in trace.nodes:
        if node in norms:
            values[node] = values[node.all_input_nodes[0]]
        elif node in trace.still and node.op == "placeholder":
            values[node] = graph.placeholder("images")
        elif node in wanted:
            part = None
            if node in folded:
                part = folded[node].to(dtype)
            elif node.op in ("get_attr", "call_module"):
                part = _in_dtype(trace.part(node), dtype)
            values[node] = _copy(graph, node, values, parts, part)
    graph.output(tuple(values[end] for end in ends))
    made = fx.GraphModule(parts, graph, "Prefix")
    shared = {tensor.data_ptr() for tensor in _tensors(trace.twin)}
    own = {tensor.data_ptr(): tensor.nbytes for tensor in _tensors(made)}
    return made, sum(size for place, size in own.items() if place not in shared)


def _in_dtype(part: Any, dtype: torch.dtype) -> Any:
    if isinstance(part, torch.Tensor):
        return part.detach().to(dtype) if part.is_floating_point() else part
    if not isinstance(part, nn.Module) or _has_dtype(part, dtype):
        return part
    if isinstance(part, _BatchNorm):
        return part  # float32 statistics serve activations of any type
    return copy.deepcopy(part).to(dtype)


def _has_dtype(module: nn.Module, dtype: torch.dtype) -> bool:
    return all(t.dtype == dtype for t in _tensors(module) if t.is_floating_point())


@torch.no_grad()
def _fold(trace: _Trace, node: fx.Node, alone: Collection[fx.Node]) -> nn.Module | None:
    """Return the convolution before a batch normalisation with that taken in, or None.

    ``alone`` are the nodes whose value one other node uses and nothing else.
    """
    norm = _norm(trace, node)
    source = node.all_input_nodes[0] if norm is not None else None
    if norm is None or source is None or source not in alone or source.op != "call_module":
        return None
    convolution = trace.part(source)
    if type(convolution) not in _CONVOLUTIONS:
        return None
    made: nn.Conv2d = copy.deepcopy(convolution)  # or of one dimension, or of three
    mean, variance, weight, bias, eps = norm
    made.weight, made.bias = fuse_conv_bn_weights(
        made.weight, made.bias, mean, variance, eps, weight, bias
    )
    return made


def _norm(trace: _Trace, node: fx.Node) -> tuple[Any, ...] | None:
    """Return mean, variance, weight, bias and epsilon of a batch normalisation in evaluation."""
    if node.op == "call_module":
        norm = trace.part(node)
        if type(norm) not in _NORMS:
            return None
        return norm.running_mean, norm.running_var, norm.weight, norm.bias, norm.eps
    if node.op == "call_function" and node.target is nn.functional.batch_norm:
        given = _arguments(node)
        names = ("running_mean", "running_var", "weight", "bias")
        found = [given[name] for name in names]
        if all(n is None or (isinstance(n, fx.Node) and n.op == "get_attr") for n in found):
            return (*(n and trace.part(n) for n in found), given["eps"])
    return None


# --- models that have no graph ----------------------------------------------------------------


class _Reached(BaseException):
    """The forward came to the head, with this."""

    def __init__(self, features: torch.Tensor) -> None:
        super().__init__()
        self.features = features


class _End(nn.Module):
    def forward(self, features: torch.Tensor) -> torch.Tensor:
        raise _Reached(features)


def _cut_at_head(model: nn.Module, dtype: torch.dtype) -> Split | None:
    owners = [
        name
        for name, module in model.named_modules()
        if any(p.requires_grad for p in module.parameters(recurse=False))
    ]
    head = model.get_submodule(owners[0])
    others = [module for module in model.modules() if module is not head]
    if (
        len(owners) > 1
        or not isinstance(head, nn.Linear | nn.Conv2d)
        or any(_is_hooked(m) or _is_unsteady(m) for m in others)
    ):
        return None
    twin = _twin(model).eval()
    parent, _, leaf = owners[0].rpartition(".")
    setattr(twin.get_submodule(parent), leaf, _End())
    if not any(True for _ in twin.parameters()):
        return None
    copied = 0
    if dtype != torch.float32:
        twin = copy.deepcopy(twin).to(dtype)
        copied = sum(p.nbytes for p in twin.parameters())

    def prefix(images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        try:
            twin(images)
        except _Reached as reached:
            return (reached.features,)
        raise ValueError(f"the forward of {type(twin).__name__} did not come to its head")

    return Split(dtype, True, copied, model, prefix, head, head)


# --- the proof --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Difference:
    """How far a split is from its model, in scores and in gradients.

    Attributes:
        found: the larger root mean square of the differences, in parts of the model's own.
        allowed: the most that rounding explains.
        reason: what was wrong before anything could be compared, or "".
    """

    found: float
    allowed: float
    reason: str = ""

    @property
    def explained(self) -> bool:
        """Whether the split may stand for the model."""
        return not self.reason and self.found <= self.allowed

    def __str__(self) -> str:
        return self.reason or (
            f"they differ by {self.found:.1e} of their size, rounding explains {self.allowed:.1e}"
        )


def check_split(split: Split, model: nn.Module, images: torch.Tensor) -> Difference:
    """Compare a split with its model: scores and gradients as it is now, scores in evaluation.

    The yardstick is how far the model itself is taken from its float32 results: by autocast in
    bfloat16, else by a change of the images in their last bits. The model's values and modes and
    the global generators are afterwards as they were.

    Args:
        split: of this model as it is now.
        model: on its device.
        images: a few, as the model takes them.
    """
    modes = {module: module.training for module in model.modules()}
    images = images.contiguous(memory_format=torch.channels_last)  # dropout draws in this order
    try:
        with kept_randomness():
            seed_everything(1)
            features = split.features(images)
            seed_everything(2)
            if not all(map(_equal, features, split.features(images))):
                return Difference(math.inf, 0.0, "the frozen part gives other features each time")
            pairs = _distances(split, model, images, features)
            model.eval()
            pairs += _distances(split, model, images, features)
    except Exception as error:  # such as arithmetic that this machine has not got
        return Difference(math.inf, 0.0, f"{type(error).__name__}: {error}")
    finally:
        for module, mode in modes.items():
            module.training = mode
    return Difference(*max(pairs, key=lambda pair: pair[0] / pair[1]))


def _equal(one: Any, other: Any) -> bool:
    return torch.equal(one, other) if isinstance(one, torch.Tensor) else bool(one == other)


def _distances(
    split: Split, model: nn.Module, images: torch.Tensor, features: tuple[torch.Tensor, ...]
) -> list[tuple[float, float]]:
    """Return how far scores are apart and how far is allowed, and the same of gradients."""
    learning = [p for p in model.parameters() if p.requires_grad]
    run = functools.partial(_outcome, learning=learning)
    own = run(split._rest_now, tuple(map(_own, features)), dtype=split.dtype)
    exact = run(model, (images,), dtype=torch.float32)
    if split.dtype == torch.float32:
        plain = run(model, (images * (1 + 2**-20),), dtype=torch.float32)
    else:
        plain = run(model, (images,), dtype=split.dtype)
    rounding = math.sqrt(torch.finfo(split.dtype).eps) / 4
    floors = rounding, max(rounding, 2**-6)  # a rectifier that just opens moves a gradient far
    return [
        (_apart(mine, wanted), min(floor + 4 * _apart(like, wanted), most))
        for mine, wanted, like, floor, most in zip(own, exact, plain, floors, (0.5, 1), strict=True)
    ]


def _outcome(
    module: nn.Module, inputs: tuple[Any, ...], learning: list[nn.Parameter], dtype: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return scores and the gradient of a fixed mix of them, on copies of the buffers."""
    buffers = {name: buffer.clone() for name, buffer in module.named_buffers()}
    device = inputs[0].device.type
    seed_everything(0)
    autocast = torch.autocast(device, dtype, enabled=dtype != torch.float32)
    with torch.enable_grad():  # a caller may validate
        with autocast:
            scores = torch.func.functional_call(module, buffers, inputs).float()
        mix = torch.linspace(-1, 1, scores.numel(), device=scores.device).view_as(scores)
        gradients = torch.autograd.grad((scores * mix).sum(), learning, allow_unused=True)
    flat = [g.float().flatten() for g in gradients if g is not None]
    return scores.detach().flatten(), torch.cat(flat)


def _apart(found: torch.Tensor, wanted: torch.Tensor) -> float:
    if found.shape != wanted.shape:
        return math.inf
    distance, size = float((found - wanted).norm()), float(wanted.norm())
    if not distance <= size * 1e9:  # not a number, or something in place of nothing
        return math.inf
    return distance / size if distance else 0.0
