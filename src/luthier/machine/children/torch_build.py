"""Print what torch says of itself, as JSON; run in a process of its own, which torch may end."""

from __future__ import annotations

import json
import sys
import warnings
from typing import Any


def main() -> dict[str, Any]:
    """Return what is found; ``error`` where torch cannot be imported, ``missing`` where it is not.

    The words of the process: what ``PYTORCH_CUDA_ALLOC_CONF`` is set to, if it is.
    """
    try:
        import torch  # noqa: PLC0415
    except ModuleNotFoundError as error:
        return {"missing": True} if error.name == "torch" else {"error": _line(error)}
    except Exception as error:
        return {"error": _line(error)}
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        available = torch.cuda.is_available()
    return {
        "version": str(torch.__version__),
        "cuda": torch.version.cuda,
        "hip": torch.version.hip,
        "arches": torch.cuda.get_arch_list(),
        "available": available,
        "reason": None if available or not said else _short(str(said[-1].message)),
        "threads": torch.get_num_threads(),
        "allocator": _refused(torch, sys.argv[1]) if len(sys.argv) > 1 else None,
    }


def _refused(torch: Any, settings: str) -> str | None:
    """Return why torch's allocator refuses settings; None if it does not, or has no such door."""
    take = getattr(torch._C, "_accelerator_setAllocatorSettings", None)
    if take is None:
        return None
    try:
        take(settings)
    except Exception as error:
        return _line(error)
    return None


def _line(error: Exception) -> str:
    return f"{type(error).__name__}: {_short(str(error))}"


def _short(text: str) -> str:
    return text.strip().partition("\n")[0][:300]


if __name__ == "__main__":
    print("\n" + json.dumps(main()), flush=True)
