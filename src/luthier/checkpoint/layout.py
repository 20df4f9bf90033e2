"""Which tensor of a checkpoint goes into which file, and which process writes that. Pure."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch

from luthier.checkpoint.parts import Captured, Tensors

_LEAST = 4 << 20  # bytes that are worth a file of their own

_Dealt = list[tuple[int, frozenset[str]]]  # files: who writes each, and the names in it


@dataclass(frozen=True)
class File:
    """A file of a checkpoint and the tensors that go into it.

    Attributes:
        later: of ``Captured``: copied while training goes on.
        now: of ``Captured``: copied at once.
        writer: rank of the process that writes it.
    """

    later: Tensors
    now: Tensors
    writer: int = 0

    @property
    def tensors(self) -> dict[str, torch.Tensor]:
        """All of them."""
        return {**self.later, **self.now}

    @property
    def sizes(self) -> dict[str, int]:
        """Bytes of each."""
        return _sizes(self.tensors)


def files_of(parts: Mapping[str, Captured], writers: int = 1) -> dict[str, dict[str, File]]:
    """Lay parts out in files: what stands still, its buffers, and the rest, each cut among writers.

    What stands still is dealt out first: where it goes does not depend on what changes more often.

    Args:
        parts: the same in all processes, by name.
        writers: number of processes that write.

    Returns:
        for each part its files by name, in order.
    """
    groups = {part: _groups(captured) for part, captured in parts.items()}
    places = [(part, kind) for kind in range(3) for part in parts]
    dealt = deal([groups[part][kind] for part, kind in places], writers, _LEAST)
    found = dict(zip(places, dealt, strict=True))
    return {
        part: _named(part, captured, [file for kind in range(3) for file in found[part, kind]])
        for part, captured in parts.items()
    }


def deal(groups: Iterable[Mapping[str, int]], writers: int, least: int) -> list[_Dealt]:
    """Share tensors out among writers, so that each has about as many bytes in the end.

    The largest tensor of a group goes first, each to who has the fewest bytes so far.

    Args:
        groups: bytes of tensors by name; the groups share no file.
        writers: their number.
        least: bytes below which a group is not cut any further.

    Returns:
        for each group its files.
    """
    loads = [(0, writer) for writer in range(writers)]
    dealt = []
    for group in groups:
        count = max(1, min(writers, sum(group.values()) // least))
        loads.sort()
        chosen, others = loads[:count], loads[count:]
        files: dict[int, set[str]] = {}
        for name in sorted(group, key=lambda name: (-group[name], name)):
            load, writer = chosen[0]
            heapq.heapreplace(chosen, (load + group[name], writer))
            files.setdefault(writer, set()).add(name)
        loads = chosen + others
        dealt.append([(writer, frozenset(names)) for writer, names in sorted(files.items())])
    return dealt


def _groups(captured: Captured) -> list[dict[str, int]]:
    groups: list[dict[str, int]] = [{}, {}, {}]
    for name, size in _sizes({**captured.later, **captured.now}).items():
        kind = 0 if name in captured.still else 1 if name in captured.buffers else 2
        groups[kind][name] = size
    return groups


def _named(part: str, captured: Captured, dealt: _Dealt) -> dict[str, File]:
    found = {}
    for number, (writer, names) in enumerate(dealt, start=1):
        ending = f"-{number:05d}-of-{len(dealt):05d}" if len(dealt) > 1 else ""
        later = {name: tensor for name, tensor in captured.later.items() if name in names}
        now = {name: tensor for name, tensor in captured.now.items() if name in names}
        found[f"{part}{ending}.safetensors"] = File(later, now, writer)
    return found


def _sizes(tensors: Tensors) -> dict[str, int]:
    # All of a tensor that is cut, of which ``nbytes`` would be in doubt.
    return {name: tensor.numel() * tensor.element_size() for name, tensor in tensors.items()}
