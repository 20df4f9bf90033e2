"""Reduce a number on one card with NCCL, and print how it went, as JSON.

The words of the process: the seconds that it may take, and the card's index as torch counts.
"""

from __future__ import annotations

import json
import sys
from datetime import timedelta
from typing import Any


def main() -> dict[str, Any]:
    """Return NCCL's ``version``, or the ``error``; ``absent`` where torch has no NCCL or card."""
    try:
        return _reduce(float(sys.argv[1]), int(sys.argv[2]))
    except Exception as error:
        return {
            "error": f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0][:300]}"
        }


def _reduce(seconds: float, card: int) -> dict[str, Any]:
    import torch  # noqa: PLC0415
    import torch.distributed as group  # noqa: PLC0415

    has_nccl = group.is_available() and group.is_nccl_available()
    if not (has_nccl and torch.cuda.is_available()):
        return {"absent": True}
    from torch.distributed import HashStore  # type: ignore[attr-defined]  # noqa: PLC0415

    device = torch.device("cuda", card)
    torch.cuda.set_device(device)
    patience = timedelta(seconds=seconds / 2)  # so that an error is told in time
    group.init_process_group("nccl", store=HashStore(), rank=0, world_size=1, timeout=patience)
    number = torch.ones(1, device=device)
    group.all_reduce(number)
    torch.cuda.synchronize(device)
    group.destroy_process_group()
    version = torch.cuda.nccl.version()  # type: ignore[no-untyped-call]
    return {"version": ".".join(map(str, version)), "sum": number.item()}


if __name__ == "__main__":
    print("\n" + json.dumps(main()), flush=True)
