"""What exactness depends on beyond a run's recipe, and how it has changed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from luthier import data
from luthier.data import Inventory
from luthier.errors import DoesNotFitError
from luthier.version import __version__

# Of the recipe: they change no bit.
_FREE = (
    "workers",
    "pin_memory",
    "cache_memory",
    "cache_disk",
    "save_every",
    "keep",
    "disk_patience",
    "log",
)


def here(
    device: str | None = None, precision: str | None = None, processes: int = 1
) -> dict[str, Any]:
    """Return what the bits of a run depend on, as plain JSON values.

    Args:
        device: where the model runs, where luthier chose it.
        precision: in which arithmetic.
        processes: that share each step.
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
        "processes": processes,
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

    Raises:
        DoesNotFitError: the model is another one.
    """
    plain = {name: list(v) if isinstance(v, tuple) else v for name, v in now.items()}
    if then["model"] != plain["model"]:
        raise DoesNotFitError(
            f"the run's model is {then['model']}, and its recipe.toml says {plain['model']} now",
            cure="write it back, or start a new run",
        )
    names = [n for n in plain if n not in _FREE and then.get(n) != plain[n]]
    return [f"the recipe's {n} was {_said(then, n)}, is {_said(plain, n)}" for n in names]


def changed_images(before: Inventory | None, now: Inventory, fingerprint: str) -> list[str]:
    """Name the images that differ, where the run means the same with them.

    Args:
        before: what the run last found; None where that is lost.
        now: what it finds.
        fingerprint: of the images when the checkpoint was made.

    Raises:
        DoesNotFitError: images are gone or unreadable, or the classes are others.
    """
    changes = data.compare(before, now) if before is not None else data.Changes()
    if changes.correctness:
        raise DoesNotFitError(
            "the images are not those that the run began with:\n  "
            + "\n  ".join(changes.correctness),
            cure="put them back as they were, or start a new run from its model.safetensors",
        )
    notices = [f"not the same bits: {line}" for line in changes.exactness]
    if not notices and now.fingerprint != fingerprint:
        if before is None:
            raise DoesNotFitError(
                "the images are not those that the run began with, and which differ is not known",
                cure="put them back as they were, or start a new run from its model.safetensors",
            )
        notices = ["not the same bits: the images have changed since the checkpoint was made"]
    return notices


def _said(values: Mapping[str, Any], name: str) -> str:
    return "not set" if values.get(name) is None else str(values[name])
