"""What of a model's forward stands still in an epoch, and what moves.

``torch.fx`` writes the forward down as a graph. A node *stands still* where its value depends on
the images and on nothing that learns, draws or gathers statistics.
"""

from __future__ import annotations

import copy
import inspect
import itertools
import random
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import fx, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd
from torch.nn.modules.instancenorm import _InstanceNorm

from luthier.randomness import kept_randomness

# Functions and methods that draw, by name, whatever their arguments.
_DRAWING = frozenset(
    """bernoulli bernoulli_ binomial cauchy_ dropout_ exponential_ fractional_max_pool2d
    fractional_max_pool3d geometric_ gumbel_softmax log_normal_ multinomial normal normal_ poisson
    rand rand_like randint randint_like randn randn_like random_ randperm rrelu_ uniform_""".split()  # noqa: SIM905
)


def is_hooked(module: nn.Module) -> bool:
    """Tell whether a module (its children aside) has hooks, which may do anything."""
    return bool(
        module._forward_hooks
        or module._forward_pre_hooks
        or module._backward_hooks
        or module._backward_pre_hooks
    )


def is_unsteady(module: nn.Module) -> bool:
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
        is_hooked(part)
        or is_unsteady(part)
        or (part.training and not type(part).__module__.startswith("torch.nn."))
        for part in module.modules()
    )


def _call_moves(node: fx.Node) -> bool:
    name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
    given = arguments(node)
    if name in _DRAWING:
        return True
    if name == "scaled_dot_product_attention":
        return bool(given.get("dropout_p", node.args[4] if len(node.args) > 4 else 0.0) != 0.0)
    trains = given.get("training", "dropout" in name)
    return trains is not False and bool(given.get("p", given.get("dropout_p", 1.0)) != 0.0)


def arguments(node: fx.Node) -> Mapping[str, Any]:
    """Return what a node calls its function with, by name as far as names are known."""
    if not callable(node.target):
        return node.kwargs
    try:
        bound = inspect.signature(node.target).bind(*node.args, **node.kwargs)
    except (TypeError, ValueError):  # torch's compiled functions tell no signature
        return node.kwargs
    bound.apply_defaults()
    return bound.arguments


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
        return is_hooked(m) or of_many or super().is_leaf_module(m, module_qualified_name)

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


class Trace:
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
        if node.target is F.batch_norm and not any(s in self.still for s in node.all_input_nodes):
            return arguments(node)["running_mean"] is not None  # else it standardises weights
        return _call_moves(node)

    def part(self, node: fx.Node) -> Any:
        """Return the module or tensor of the twin that a node names."""
        return _attribute(self.twin, str(node.target))


def _attribute(root: Any, path: str) -> Any:
    for name in path.split("."):
        root = getattr(root, name)
    return root


def twin_of(model: nn.Module) -> nn.Module:
    """Copy a model's structure, and share its tensors.

    Tracing leaves marks on modules, such as ``self.attention = …``.
    """
    return copy.deepcopy(model, {id(tensor): tensor for tensor in tensors_of(model)})


def tensors_of(module: nn.Module) -> Iterator[torch.Tensor]:
    """Give a module's parameters and buffers."""
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


def copy_node(
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
