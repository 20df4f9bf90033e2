"""What torch's CUDA says of itself in this process."""

from __future__ import annotations

import torch


def is_built() -> bool:
    """Tell whether this torch can use NVIDIA's devices, were there any."""
    return torch.version.cuda is not None


def is_initialised() -> bool:
    """Tell whether CUDA has settled on the devices that it shows."""
    return bool(torch.cuda.is_initialized())  # type: ignore[no-untyped-call]


def shown() -> list[str]:
    """Return the UUIDs of the devices that CUDA shows, by their index; this initialises it.

    Raises:
        RuntimeError, AssertionError: it cannot be initialised.
    """
    count = torch.cuda.device_count()
    uuids = [str(torch.cuda.get_device_properties(index).uuid) for index in range(count)]
    return [uuid if uuid.startswith(("GPU-", "MIG-")) else f"GPU-{uuid}" for uuid in uuids]


def limit(index: int, most: int) -> None:
    """Let this process take at most so many bytes of a device's memory."""
    _, total = torch.cuda.mem_get_info(index)
    torch.cuda.set_per_process_memory_fraction(min(1.0, most / total), index)
