"""Batch normalisation over several processes: torch's own, of the whole batch."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from luthier.distributed import joined
from luthier.errors import ModelError
from luthier.training import SyncedNorms
from luthier.training.loop import _computed_by
from ranks import together


class Activated(nn.BatchNorm2d):
    """A subclass with a forward of its own, as timm has."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        if self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
        how = self.weight, self.bias, self.training, self.momentum or 0.0, self.eps
        normed = nn.functional.batch_norm(images, self.running_mean, self.running_var, *how)
        return nn.functional.elu(normed)


KINDS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "plain": (lambda: nn.BatchNorm2d(3), (5, 4)),
    "one value in a channel": (lambda: nn.BatchNorm1d(3), ()),
    "without weights": (lambda: nn.BatchNorm2d(3, affine=False), (2, 2)),
    "without statistics of its own": (lambda: nn.BatchNorm1d(3, track_running_stats=False), (4,)),
    "cumulative": (lambda: nn.BatchNorm3d(3, momentum=None), (2, 2, 2)),
    "with a forward of its own": (lambda: Activated(3, momentum=0.3), (3, 3)),
}


def passed(norm: nn.Module, images: torch.Tensor, wanted: torch.Tensor) -> dict[str, torch.Tensor]:
    """Return what two passes give, and leave."""
    found: dict[str, torch.Tensor] = {}
    for number in range(2):
        given = images.clone().requires_grad_()
        made = norm(given)
        (made * wanted).sum().backward()
        assert given.grad is not None
        found |= {f"scores {number}": made.detach(), f"gradient {number}": given.grad}
    found |= {
        f"gradient of {name}": p.grad for name, p in norm.named_parameters() if p.grad is not None
    }
    return found | dict(norm.named_buffers())


@pytest.mark.parametrize("counts", [(3, 3), (5, 1), (4, 0)], ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_values_gradients_and_statistics_are_those_of_the_whole_batch(
    kind: str, counts: tuple[int, ...]
) -> None:
    make, rest = KINDS[kind]
    torch.manual_seed(2)
    whole = torch.randn(sum(counts), 3, *rest) * 3 + 100  # far from zero: squares would be rounded
    mix = torch.randn(sum(counts), 3, *rest)
    expected = passed(make(), whole, mix)

    def job(rank: int) -> None:
        with joined():
            norm = make()
            synced = SyncedNorms(norm)
            synced.counts = counts[rank] > 0
            images, wanted = (t.split(counts)[rank] for t in (whole, mix))
            if not counts[rank]:
                images, wanted = torch.zeros(2, 3, *rest), torch.zeros(2, 3, *rest)
            with _computed_by(synced.forwards):
                found = passed(norm, images, wanted)
            assert "forward" not in vars(norm)
            print(json.dumps({name: tensor.tolist() for name, tensor in found.items()}))

    parts: list[dict[str, Any]] = [json.loads(out) for out in together(len(counts), job)]
    for name, tensor in expected.items():
        found = [torch.tensor(part[name], dtype=tensor.dtype) for part in parts]
        if name.startswith("gradient of"):  # which DDP adds up
            made = found[0] + found[1]
        elif name.startswith(("scores", "gradient")):
            made = torch.cat([f for f, count in zip(found, counts, strict=True) if count])
        else:
            assert torch.equal(found[0], found[1])
            made = found[0]
        torch.testing.assert_close(made, tensor, rtol=1e-3, atol=1e-4)


def test_where_it_evaluates_nothing_is_exchanged() -> None:
    norm = nn.BatchNorm2d(3).eval()
    images = torch.randn(2, 3, 4, 4)
    with _computed_by(SyncedNorms(norm).forwards):  # there is no one to exchange with
        assert torch.equal(norm(images), images / (1 + norm.eps) ** 0.5)


def test_a_single_value_is_refused_as_torch_does() -> None:
    def job(_rank: int) -> None:
        norm = nn.BatchNorm1d(3)
        synced = SyncedNorms(norm)
        with joined() as world, _computed_by(synced.forwards):
            synced.counts = world.is_first
            with pytest.raises(ValueError, match="more than 1 value per channel"):
                norm(torch.ones(1, 3))

    together(2, job)


def test_a_model_without_is_refused() -> None:
    with pytest.raises(ModelError, match="Linear has no batch norm"):
        SyncedNorms(nn.Linear(2, 2))


def test_bfloat16_stays_so() -> None:
    def job(_rank: int) -> None:
        norm = nn.BatchNorm2d(3)
        with joined(), _computed_by(SyncedNorms(norm).forwards):
            made = norm(torch.randn(2, 3, 4, 4, dtype=torch.bfloat16, requires_grad=True))
            made.float().sum().backward()
        assert made.dtype == torch.bfloat16
        assert norm.weight.grad is not None
        assert norm.weight.grad.dtype == torch.float32

    together(2, job)
