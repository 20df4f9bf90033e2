"""How an error is said: once, by the process that has it; and to ``torchrun`` where that is."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from pathlib import Path

from luthier.errors import InterruptedRunError, LuthierError, PeerError


def say(error: LuthierError) -> int:
    """Print an error, unless another process of the job says it; return the exit status."""
    rank = int(os.environ.get("RANK", "0"))
    others = isinstance(error, PeerError) and rank  # the one that failed says why
    if not others and not error.is_told:
        who = f"luthier, rank {rank}" if "RANK" in os.environ else "luthier"
        print(f"{who}: {error}", file=sys.stderr)
    if not isinstance(error, InterruptedRunError):
        tell_torchrun(error)
    return error.exit_status


def say_refusal(error: OSError) -> int:
    """Print what the system refuses, with its explanation where it is known; return the status."""
    explain_unforeseen(error)
    print("\n".join([f"luthier: {error}", *getattr(error, "__notes__", [])]), file=sys.stderr)
    return 1


def explain_unforeseen(error: BaseException) -> None:
    """Add what is known of an error that luthier does not raise itself, as a note."""
    from luthier.run.explaining import add_explanation  # noqa: PLC0415 - only after an error

    add_explanation(error)


def tell_torchrun(error: Exception) -> None:
    """Write for the table that ``torchrun`` prints at its end what this process ended with."""
    path = os.environ.get("TORCHELASTIC_ERROR_FILE")
    if not path:
        return
    what = error.what if isinstance(error, LuthierError) else f"{type(error).__name__}: {error}"
    # The earliest is called the cause, and whole seconds count: that another has failed is none.
    when = int(time.time()) + isinstance(error, PeerError)
    told = {"message": what, "extraInfo": {"timestamp": str(when)}}
    with contextlib.suppress(OSError):
        Path(path).write_text(json.dumps({"message": told}), encoding="utf-8")
