"""Cut a model into blocks, from the input to the head."""

from __future__ import annotations

from torch import nn

from luthier.values import Block

_MAIN_PART = 0.8  # a child with more of the trunk's parameters than this is opened up
_NORMS = ("BatchNorm", "LayerNorm", "GroupNorm", "InstanceNorm", "RMSNorm")


def is_norm(module: nn.Module) -> bool:
    """Tell whether a module is a normalisation layer, by its class's name."""
    return any(norm in type(module).__name__ for norm in _NORMS)


def blocks_of(model: nn.Module, head: str) -> tuple[Block, ...]:
    """Return the model's blocks in the order in which it registers them; the head is last.

    A block is a child of the model; a child that holds most of the trunk (``features``,
    ``encoder.layers``) is opened up, and so on down. A block of nothing but normalisation
    belongs to the one before it. Every parameter and buffer is in exactly one block; those
    that hang on an opened module itself (class tokens, position embeddings) are in the first.

    Args:
        model: any model.
        head: dotted name of its head.
    """
    tops = _tops(model, head)
    prefixes = tuple(f"{name}." for group in tops for name in group)
    state = list(model.state_dict(keep_vars=True))
    loose = [t for t in state if not t.startswith((*prefixes, f"{head}."))]
    named = {name for name, _ in model.named_parameters()}
    made: list[Block] = []
    for group in [*tops, [head]]:
        tensors = [t for t in state if t.startswith(tuple(f"{name}." for name in group))]
        if not made:
            tensors = loose + tensors
        parameters = tuple(t for t in tensors if t in named)
        made.append(Block(group[0], tuple(group), tuple(tensors), parameters))
    return tuple(made)


def _tops(model: nn.Module, head: str) -> list[list[str]]:
    names = _children(model, "", head)
    total = sum(_size(model, name, head) for name in names)
    while names:
        largest = max(names, key=lambda name: _size(model, name, head))
        inner = _children(model, largest, head)
        holds_head = head.startswith(f"{largest}.")
        if not inner or (_size(model, largest, head) < _MAIN_PART * total and not holds_head):
            break
        at = names.index(largest)
        names[at : at + 1] = inner
    groups: list[list[str]] = []
    for name in _without_head(model, names, head):
        leaves = [m for m in model.get_submodule(name).modules() if not list(m.children())]
        if groups and all(is_norm(m) for m in leaves if _has_state(m)):
            groups[-1].append(name)
        else:
            groups.append([name])
    return groups


def _without_head(model: nn.Module, names: list[str], head: str) -> list[str]:
    # A small module that holds the head (MobileNet's ``classifier``) gives up its other children.
    kept = []
    for name in names:
        if head.startswith(f"{name}."):
            kept += _without_head(model, _children(model, name, head), head)
        else:
            kept.append(name)
    return kept


def _children(model: nn.Module, name: str, head: str) -> list[str]:
    children = model.get_submodule(name).named_children()
    full = [(f"{name}.{child}" if name else child, module) for child, module in children]
    return [n for n, module in full if n != head and _has_state(module)]


def _has_state(module: nn.Module) -> bool:
    return bool(module.state_dict(keep_vars=True))


def _size(model: nn.Module, name: str, head: str) -> int:
    # The head's own parameters aside: the cut is the same for any number of classes.
    named = model.get_submodule(name).named_parameters(prefix=name)
    return sum(p.numel() for full, p in named if not full.startswith(f"{head}."))
