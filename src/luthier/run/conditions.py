"""What exactness depends on beyond a run's recipe, and how it has changed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from luthier.version import __version__

_FREE = ("workers", "save_every", "keep", "disk_patience")  # of the recipe: they change no bit


def here(device: str | None = None, precision: str | None = None) -> dict[str, Any]:
    """Return what the bits of a run depend on, as plain JSON values.

    Args:
        device: where the model runs, where luthier chose it.
        precision: in which arithmetic.
    """
    chosen = {"device": device, "precision": precision}
    if device is None and torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        chosen["device"] = "cuda"
    if str(chosen["device"]).startswith("cuda"):
        chosen["accelerator"] = torch.cuda.get_device_name(device)
    return {
        "luthier": __version__,
        "torch": str(torch.__version__),
        **{name: value for name, value in chosen.items() if value is not None},
        "threads": torch.get_num_threads(),
        "cpu": torch.backends.cpu.get_cpu_capability(),
        "matmul": torch.get_float32_matmul_precision(),
        "processes": 1,
    }


def differences(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Name each condition that differs, as a notice: the run is right, but not to the same bits.

    Args:
        then: ``here()`` of the checkpoint.
        now: ``here()`` of this process.
    """
    names = [name for name in {**then, **now} if then.get(name) != now.get(name)]
    return [f"not the same bits: {n} was {_said(then, n)}, is {_said(now, n)}" for n in names]


def changed_recipe(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Name each field of the recipe that differs, but those that change no bit.

    Args:
        then: fields by name as the checkpoint has them.
        now: those of this process.
    """
    plain = {name: list(v) if isinstance(v, tuple) else v for name, v in now.items()}
    names = [n for n in plain if n not in _FREE and then.get(n) != plain[n]]
    return [f"the recipe's {n} was {_said(then, n)}, is {_said(plain, n)}" for n in names]


def _said(values: Mapping[str, Any], name: str) -> str:
    return "not set" if values.get(name) is None else str(values[name])
