"""The freeze audit: which parts of a model moved between start and end."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import torch

from luthier.distributed.pieces import whole
from luthier.errors import FrozenMovedError
from luthier.values import Block


def digests(state: Mapping[str, torch.Tensor]) -> dict[str, str]:
    """Return the BLAKE2b digest of every tensor's values, dtype and shape.

    Equal digests mean equal bits, but for the sign of zeros: ``-0.0`` plus ``0.0`` is ``0.0``,
    which a learning rate of 0 may do to a weight without moving it.
    """
    found = {}
    for name, tensor in state.items():
        plain = whole(tensor).detach().cpu().contiguous()
        if plain.is_floating_point() and plain.element_size() > 1:  # float8 cannot add
            plain = plain + 0.0
        digest = hashlib.blake2b(f"{plain.dtype}{tuple(plain.shape)}".encode(), digest_size=16)
        digest.update(plain.flatten().view(torch.uint8).numpy().data)
        found[name] = digest.hexdigest()
    return found


@dataclass(frozen=True)
class Audit:
    """How many tensors of each block moved: ``(block, moved, all)``, from the input up."""

    moved: tuple[tuple[str, int, int], ...]

    def __str__(self) -> str:
        whole = [name for name, moved, total in self.moved if moved == total]
        still = [name for name, moved, _ in self.moved if moved == 0]
        part = [f"{n} ({m} of {t} tensors)" for n, m, t in self.moved if 0 < m < t]
        says = []
        for word, names in (("moved", whole), ("moved in part", part), ("did not move", still)):
            if names:
                says.append(f"{word}: {_span(names)}")
        return "; ".join(says)


def _span(names: Sequence[str]) -> str:
    return (
        ", ".join(names) if len(names) <= 4 else f"{names[0]} … {names[-1]} ({len(names)} blocks)"
    )


def inspect_moves(
    blocks: Sequence[Block],
    start: Mapping[str, str],
    end: Mapping[str, str],
    frozen: Collection[int] = (),
) -> Audit:
    """Compare two sets of digests, block by block.

    Args:
        blocks: of the model.
        start: digests before the run.
        end: digests after it.
        frozen: indices of blocks that must not have moved.

    Raises:
        FrozenMovedError: one of them did, by a bit or more; the tensors are named.
    """
    broken = [t for i in frozen for t in blocks[i].tensors if start[t] != end[t]]
    if broken:
        raise FrozenMovedError(
            f"{len(broken)} frozen tensors moved: {', '.join(broken[:6])}",
            cure="the model changes them in its own forward; no model was published",
        )
    return Audit(
        tuple((b.name, sum(start[t] != end[t] for t in b.tensors), len(b.tensors)) for b in blocks)
    )
