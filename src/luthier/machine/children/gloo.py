"""Add two numbers by two processes over 127.0.0.1 with Gloo, and print how it went, as JSON.

The words of the process: the seconds that it may take; and of the second process, which the first
starts, the port of the store.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from datetime import timedelta
from typing import Any

_PATIENCE = 20.0  # seconds in which those who have begun meet


def main() -> dict[str, Any]:
    """Return ``sum``, or the ``error``; ``absent`` where torch has no Gloo."""
    seconds = float(sys.argv[1])
    if hasattr(signal, "setitimer"):  # so that the second does not outlive the first for long
        signal.setitimer(signal.ITIMER_REAL, seconds + 5)
    try:
        return _meet(seconds, int(sys.argv[2]) if len(sys.argv) > 2 else None)
    except Exception as error:
        return {
            "error": f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0][:300]}"
        }


def _meet(seconds: float, port: int | None) -> dict[str, Any]:
    import torch.distributed as group  # noqa: PLC0415

    if not (group.is_available() and group.is_gloo_available()):
        return {"absent": True}
    from torch.distributed import TCPStore  # type: ignore[attr-defined]  # noqa: PLC0415

    patience = timedelta(seconds=min(_PATIENCE, seconds / 2))  # so that an error is told in time
    if port is not None:
        return {"sum": _add(TCPStore("127.0.0.1", port, 2, timeout=patience), 1, patience)}
    store = TCPStore("127.0.0.1", 0, 2, is_master=True, timeout=patience, wait_for_workers=False)
    words = [sys.executable, "-P", __file__, str(seconds), str(store.port)]
    quiet = subprocess.DEVNULL
    second = subprocess.Popen(words, stdin=quiet, stdout=quiet, stderr=quiet)
    try:
        return {"sum": _add(store, 0, patience)}
    finally:
        try:
            second.wait(1)
        except subprocess.TimeoutExpired:
            second.kill()


def _add(store: Any, rank: int, patience: timedelta) -> float:
    import torch  # noqa: PLC0415
    import torch.distributed as group  # noqa: PLC0415

    group.init_process_group("gloo", store=store, rank=rank, world_size=2, timeout=patience)
    number = torch.tensor([float(rank + 1)])
    group.all_reduce(number)
    group.barrier()
    group.destroy_process_group()
    return number.item()


if __name__ == "__main__":
    print("\n" + json.dumps(main()), flush=True)
