"""Probe the machine (an effect), then choose (pure)."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

from luthier.devices.heap import give_freed_memory_back
from luthier.errors import RecipeError, is_out_of_memory
from luthier.machine.allowed import cores_allowed
from luthier.values import Choice

WORTH = 1.15  # times as fast as fp32: below that, the full precision is kept


@dataclass(frozen=True)
class Probe:
    """What is there.

    Attributes:
        cuda: name of each CUDA device, by index.
        cuda_bf16: whether they compute bfloat16 in hardware.
        mps: whether Apple's Metal backend is available.
        cores: cores this process may use.
        cpu_bf16: the processor's instruction set for bfloat16, or None.
        process: number of this process among those of a job here: each has a device of its own.
    """

    cuda: tuple[str, ...]
    cuda_bf16: bool
    mps: bool
    cores: int
    cpu_bf16: str | None = None
    process: int = 0

    def part(self, number: int, count: int) -> Probe:
        """Return what one of several processes of a job on this machine has of it."""
        return replace(self, cores=max(1, self.cores // count), process=number)


@dataclass(frozen=True)
class Chosen:
    """What a run uses; ``str`` gives the first line of its output."""

    device: Choice
    workers: Choice

    def __str__(self) -> str:
        return f"device {self.device}, workers {self.workers}"


def probe() -> Probe:
    """Look at this machine."""
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    return Probe(
        cuda=tuple(torch.cuda.get_device_name(i) for i in range(count)),
        cuda_bf16=count > 0 and torch.cuda.is_bf16_supported(including_emulation=False),
        mps=torch.backends.mps.is_available(),
        cores=cores_allowed(),
        cpu_bf16=_cpu_bf16(),
    )


def _cpu_bf16() -> str | None:
    if not hasattr(torch.cpu, "get_capabilities"):  # an older torch
        return "avx512_bf16" if torch.cpu._is_avx512_bf16_supported() else None
    has = torch.cpu.get_capabilities()
    return next((name for name in _BF16 if has.get(name)), None)


_BF16 = ("amx_bf16", "avx512_bf16", "bf16", "arm_bf16")


def choose(found: Probe, device: str, workers: int | None, held: Choice | None = None) -> Chosen:
    """Decide device and workers.

    Args:
        found: what is there.
        device: "auto", "cpu", "cuda", "cuda:N" or "mps".
        workers: a number, or None to choose.
        held: the device that is held for this, by its name in this process.

    Raises:
        RecipeError: a device is asked for that is not there; those that are there are named.
    """
    return Chosen(held or _device(found, device), _workers(found, workers))


def choose_precision(
    found: Probe, device: str, asked: str, speedup: Callable[[], float | None]
) -> Choice:
    """Decide the arithmetic.

    Args:
        found: what is there.
        device: that was chosen.
        asked: "auto", "fp32" or "bf16".
        speedup: measures how many times as fast as fp32 the model runs in bfloat16; it is called
            only where the processor has instructions for that; None is too small to tell.
    """
    if asked != "auto":
        return Choice(asked, "asked for")
    kind = device.split(":", maxsplit=1)[0]
    if kind == "cuda" and found.cuda_bf16:
        return Choice("bf16", "computed in hardware here")
    if kind != "cpu":
        return Choice("fp32", f"the default on {kind}")
    if found.cpu_bf16 is None:
        return Choice("fp32", "this processor has no instructions for bf16")
    try:
        times = speedup()
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        give_freed_memory_back()
        return Choice("fp32", "there is no memory to measure bf16 beside it")
    if times is None:
        return Choice("fp32", "the model is too small to gain by bf16")
    measured = f"{found.cpu_bf16}; bf16 is {times:.1f} x as fast as fp32 with this model here"
    return Choice("bf16" if times >= WORTH else "fp32", measured)


def _device(found: Probe, asked: str) -> Choice:
    there = ["cpu", *(f"cuda:{i}" for i in range(len(found.cuda))), *(["mps"] if found.mps else [])]
    mine = f"cuda:{found.process}"
    if asked in ("auto", "cuda") and found.cuda and mine not in there:
        raise RecipeError(
            f"process {found.process} of this job has no CUDA device: there are {len(found.cuda)}",
            cure="start no more processes than there are devices, or give --device cpu",
        )
    if asked == "auto":
        if found.cuda:
            return Choice(mine, found.cuda[found.process])
        if found.mps:
            return Choice("mps", "Apple GPU")
        return Choice("cpu", "no accelerator found")
    wanted = mine if asked == "cuda" else asked
    if wanted not in there:
        raise RecipeError(
            f"--device {asked} is not on this machine; there are: {', '.join(there)}",
            cure="leave --device out to take the best that is there",
        )
    return Choice(wanted, "asked for")


def _workers(found: Probe, asked: int | None) -> Choice:
    if asked is not None:
        return Choice(str(asked), "asked for")
    return Choice(str(min(found.cores, 8)), f"{found.cores} cores")


def fit_threads(cores: int) -> bool:
    """Let torch compute with no more threads than cores; return whether that changed anything.

    torch counts the machine's cores: under a quota its threads would wait for each other.
    """
    if "OMP_NUM_THREADS" in os.environ or torch.get_num_threads() <= cores:
        return False
    torch.set_num_threads(cores)
    return True
