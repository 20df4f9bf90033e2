"""A graph that only looks (it stands still, and nothing learns through it) made fast.

Batch normalisation goes into the convolution before it (Jacob et al. 2018, section 3.2), weights
into the type of the arithmetic, and an activation into the convolution's kernel where oneDNN has
one that does both.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import fx, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.fusion import fuse_conv_bn_weights

from luthier.models.still import arguments, tensors_of

Parts = dict[str, Any]
_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
_RELU = ("relu", ())
# What oneDNN calls an activation, and its numbers.
_ACTIVATIONS: Mapping[Any, tuple[str, tuple[float, ...]]] = {
    nn.ReLU: _RELU,
    F.relu: _RELU,
    torch.relu: _RELU,
    "relu": _RELU,
    nn.ReLU6: ("hardtanh", (0.0, 6.0)),
    nn.SiLU: ("swish", ()),
    nn.Hardswish: ("hardswish", ()),
}


def quicken(graph: fx.Graph, parts: Parts, dtype: torch.dtype) -> fx.GraphModule:
    """Return a module that computes a graph in ``dtype``.

    Args:
        graph: is changed.
        parts: its modules and tensors by target; entries are replaced, they themselves are not
            changed.
        dtype: of weights and activations.
    """
    _compute_constants(graph, parts)
    _fold_norms(graph, parts)
    for name, part in parts.items():
        parts[name] = _in_dtype(part, dtype)
    _join_activations(graph, parts, dtype)
    return fx.GraphModule(parts, graph, "Quick")


@torch.no_grad()
def _compute_constants(graph: fx.Graph, parts: Parts) -> None:
    """Compute once what depends on weights alone, such as a bias by relative position."""
    for node in list(graph.nodes):
        sources = node.all_input_nodes
        if node.op == "get_attr" or not sources or any(s.op != "get_attr" for s in sources):
            continue
        args, kwargs = fx.node.map_arg((node.args, node.kwargs), lambda n: parts[str(n.target)])
        if node.op == "call_module":
            value = parts[str(node.target)](*args, **kwargs)
        elif node.op == "call_method":
            value = getattr(args[0], str(node.target))(*args[1:], **kwargs)
        elif node.op == "call_function":
            value = node.target(*args, **kwargs)
        else:
            continue
        if isinstance(value, torch.Tensor):
            with graph.inserting_before(node):
                made = graph.get_attr(f"computed_{len(parts)}_{node.name}")
            parts[str(made.target)] = value.detach()
            _replace(graph, parts, node, made)


@torch.no_grad()
def _fold_norms(graph: fx.Graph, parts: Parts) -> None:
    for node in list(graph.nodes):
        norm = _norm(node, parts)
        source = node.all_input_nodes[0] if norm is not None else None
        if norm is None or source is None or not _is_alone(source, parts, _CONVOLUTIONS):
            continue
        convolution = copy.deepcopy(parts[source.target])
        mean, variance, weight, bias, eps = norm
        convolution.weight, convolution.bias = fuse_conv_bn_weights(
            convolution.weight, convolution.bias, mean, variance, eps, weight, bias
        )
        parts[source.target] = convolution
        _replace(graph, parts, node, source)


def _norm(node: fx.Node, parts: Parts) -> tuple[Any, ...] | None:
    """Return mean, variance, weight, bias and epsilon of a batch normalisation in evaluation."""
    if node.op == "call_module":
        norm = parts[str(node.target)]
        if type(norm) not in _NORMS:
            return None
        return norm.running_mean, norm.running_var, norm.weight, norm.bias, norm.eps
    if node.op == "call_function" and node.target is F.batch_norm:
        given = arguments(node)
        found = [given[name] for name in ("running_mean", "running_var", "weight", "bias")]
        if all(n is None or (isinstance(n, fx.Node) and n.op == "get_attr") for n in found):
            return (*(n and parts[str(n.target)] for n in found), given["eps"])
    return None


def _is_alone(node: fx.Node, parts: Parts, kinds: tuple[type, ...]) -> bool:
    """Tell whether a node calls a module of one of these types, for one other node alone."""
    called = node.op == "call_module" and type(parts[str(node.target)]) in kinds
    return called and len(node.users) == 1


def _replace(graph: fx.Graph, parts: Parts, node: fx.Node, source: fx.Node) -> None:
    """Let a node's users have the value of its source, and take out what nobody uses any more."""
    node.replace_all_uses_with(source)
    inputs = node.all_input_nodes
    graph.erase_node(node)
    parts.pop(str(node.target), None)
    for unused in inputs:
        if unused.op == "get_attr" and not unused.users:
            graph.erase_node(unused)
            parts.pop(str(unused.target))


def _in_dtype(part: Any, dtype: torch.dtype) -> Any:
    if isinstance(part, torch.Tensor):
        return part.detach().to(dtype) if part.is_floating_point() else part
    if isinstance(part, _BatchNorm):
        return part  # float32 statistics serve activations of any type
    if all(t.dtype == dtype for t in tensors_of(part) if t.is_floating_point()):
        return part
    return copy.deepcopy(part).to(dtype)


class _Joined(nn.Module):
    """A convolution and the activation after it in one pass over memory, on a CPU."""

    def __init__(self, convolution: nn.Conv2d, name: str, numbers: tuple[float, ...]) -> None:
        super().__init__()
        self.weight, self.bias = convolution.weight, convolution.bias
        self._how = (
            convolution.padding,
            convolution.stride,
            convolution.dilation,
            convolution.groups,
            name,
            list(numbers),
            "",
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the activation of the convolution of ``x``."""
        made: torch.Tensor = torch.ops.mkldnn._convolution_pointwise(
            x, self.weight, self.bias, *self._how
        )
        return made


def _join_activations(graph: fx.Graph, parts: Parts, dtype: torch.dtype) -> None:
    if not _has_joined_kernels(dtype):
        return
    for node in list(graph.nodes):
        kind = type(parts[node.target]) if node.op == "call_module" else node.target
        source = node.all_input_nodes[0] if kind in _ACTIVATIONS else None
        if source is None or not _is_alone(source, parts, (nn.Conv2d,)):
            continue
        convolution = parts[str(source.target)]
        plain = convolution.padding_mode == "zeros" and not isinstance(convolution.padding, str)
        if plain and convolution.weight.device.type == "cpu":
            parts[str(source.target)] = _Joined(convolution, *_ACTIVATIONS[kind])
            _replace(graph, parts, node, source)


def _has_joined_kernels(dtype: torch.dtype) -> bool:
    # torch's own compiler calls these kernels, and promises nobody that they stay.
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return False
    kernels = torch.ops.mkldnn
    if not hasattr(kernels, "_convolution_pointwise"):
        return False
    if dtype == torch.bfloat16:
        supported = getattr(kernels, "_is_mkldnn_bf16_supported", None)
        return supported is not None and bool(supported())
    return dtype == torch.float32
