"""Probe the machine (an effect), then choose (pure)."""

from __future__ import annotations

import os
from dataclasses import dataclass

import torch

from luthier.errors import RecipeError
from luthier.values import Choice


@dataclass(frozen=True)
class Probe:
    """What is there.

    Attributes:
        cuda: name of each CUDA device, by index.
        cuda_bf16: whether they compute bfloat16.
        mps: whether Apple's Metal backend is available.
        cores: cores this process may use.
    """

    cuda: tuple[str, ...]
    cuda_bf16: bool
    mps: bool
    cores: int


@dataclass(frozen=True)
class Chosen:
    """What a run uses; ``str`` gives the first line of its output."""

    device: Choice
    precision: Choice
    workers: Choice

    def __str__(self) -> str:
        return f"device {self.device}, precision {self.precision}, workers {self.workers}"


def usable_cores() -> int:
    """Return the number of cores that the scheduler gives this process (not the machine's)."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def probe() -> Probe:
    """Look at this machine."""
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    return Probe(
        cuda=tuple(torch.cuda.get_device_name(i) for i in range(count)),
        cuda_bf16=count > 0 and torch.cuda.is_bf16_supported(),
        mps=torch.backends.mps.is_available(),
        cores=usable_cores(),
    )


def choose(found: Probe, device: str, precision: str, workers: int | None) -> Chosen:
    """Decide device, precision and workers.

    Args:
        found: what is there.
        device: "auto", "cpu", "cuda", "cuda:N" or "mps".
        precision: "auto", "fp32" or "bf16".
        workers: a number, or None to choose.

    Raises:
        RecipeError: a device is asked for that is not there; those that are there are named.
    """
    where = _device(found, device)
    return Chosen(where, _precision(found, where.value, precision), _workers(found, workers))


def _device(found: Probe, asked: str) -> Choice:
    there = ["cpu", *(f"cuda:{i}" for i in range(len(found.cuda))), *(["mps"] if found.mps else [])]
    if asked == "auto":
        if found.cuda:
            return Choice("cuda:0", found.cuda[0])
        if found.mps:
            return Choice("mps", "Apple GPU")
        return Choice("cpu", "no accelerator found")
    wanted = "cuda:0" if asked == "cuda" else asked
    if wanted not in there:
        raise RecipeError(
            f"--device {asked} is not on this machine; there are: {', '.join(there)}",
            cure="leave --device out to take the best that is there",
        )
    return Choice(wanted, "asked for")


def _precision(found: Probe, device: str, asked: str) -> Choice:
    if asked != "auto":
        return Choice(asked, "asked for")
    if device.startswith("cuda") and found.cuda_bf16:
        return Choice("bf16", "computed in hardware here")
    return Choice("fp32", f"the default on {device.split(':', maxsplit=1)[0]}")


def _workers(found: Probe, asked: int | None) -> Choice:
    if asked is not None:
        return Choice(str(asked), "asked for")
    return Choice(str(min(found.cores, 8)), f"{found.cores} cores")
