"""The part of a model that cannot change in an epoch, cut off and made fast.

The nodes of its graph that stand still are the prefix (see ``still``). It runs without autograd,
in weights and kernels of its own (see ``quick``). The rest is the model's own modules and
parameters. A model that cannot be written down as a graph is cut at its head or not at all;
``check_split`` compares the two parts with the model before they are trusted.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import fx, nn
from torch.nn.modules.dropout import _DropoutNd

from luthier.models.quick import quicken
from luthier.models.still import Trace, copy_node, is_hooked, is_unsteady, tensors_of, twin_of

_PASSING = (nn.functional.dropout, torch.flatten, "flatten")


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
        scores: torch.Tensor = self.rest_now(*map(own, features))
        return scores

    @property
    def rest_now(self) -> nn.Module:
        """The rest in the model's present mode, of features that it may change."""
        return self._learning if self._model.training else self._evaluating


def own(feature: Any) -> Any:
    """Return a copy of a feature for the rest, where many a head begins with dropout in place."""
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
    if is_hooked(model) or not any(p.requires_grad for p in model.parameters()):
        return None
    try:
        return _cut_graph(model, dtype)
    except Exception:  # the model's own code fails on what is no tensor in its own ways
        return _cut_at_head(model, dtype)


# --- cutting ----------------------------------------------------------------------------------


def _cut_graph(model: nn.Module, dtype: torch.dtype) -> Split | None:
    known: dict[str, int] = {}
    now = Trace(twin_of(model), known)
    later = Trace(twin_of(model).eval(), known)  # a graph holds the modes of what it opened
    by_key = {now.keys[node]: node for node in reversed(now.nodes) if node in now.still}
    cut = list(dict.fromkeys([*_crossing(now, by_key), *_crossing(later, by_key)]))
    prefix, copied = _prefix(now, [by_key[key] for key in cut], dtype)
    if not any(True for _ in tensors_of(prefix)):
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
    entries = [node for node in rest.graph.nodes if node.op == "placeholder"]
    return len(calls) == 1 and entries == [source]


def _called(rest: fx.GraphModule, node: fx.Node) -> nn.Module | None:
    return rest.get_submodule(str(node.target)) if node.op == "call_module" else None


def _crossing(trace: Trace, prefix: Collection[int]) -> Iterator[int]:
    """Give the keys of values of the prefix that the rest asks for."""
    for node in trace.nodes:
        inside = trace.keys[node] in prefix
        if inside and any(trace.keys[user] not in prefix for user in node.users):
            yield trace.keys[node]


def _rest(
    trace: Trace, prefix: Collection[int], cut: list[int], model: nn.Module
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
            values[node] = copy_node(graph, node, values, parts, part)
    return fx.GraphModule(parts, graph, "Rest")


def _prefix(trace: Trace, ends: list[fx.Node], dtype: torch.dtype) -> tuple[fx.GraphModule, int]:
    """Return the nodes up to ``ends``, and how many bytes of weights were copied for them."""
    wanted = set(ends)
    for node in reversed(trace.nodes):
        if node in wanted:
            wanted.update(node.all_input_nodes)
    graph = fx.Graph()
    values: dict[fx.Node, Any] = {}
    parts: dict[str, Any] = {}
    for node in trace.nodes:
        if node.op == "placeholder" and node in trace.still:
            values[node] = graph.placeholder("images")
        elif node in wanted:
            part = trace.part(node) if node.op in ("get_attr", "call_module") else None
            values[node] = copy_node(graph, node, values, parts, part)
    graph.output(tuple(values[end] for end in ends))
    made = quicken(graph, parts, dtype)
    shared = {tensor.data_ptr() for tensor in tensors_of(trace.twin)}
    copies = {tensor.data_ptr(): tensor.nbytes for tensor in tensors_of(made)}
    return made, sum(size for place, size in copies.items() if place not in shared)


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
        or any(is_hooked(m) or is_unsteady(m) for m in others)
    ):
        return None
    twin = twin_of(model).eval()
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
