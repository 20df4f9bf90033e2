"""Which job of ``torchrun`` this process belongs to."""

from __future__ import annotations

import os
import socket


def job_id() -> str | None:
    """Return a name that all starts of this process's job by ``torchrun`` have; None without it."""
    name = os.environ.get("TORCHELASTIC_RUN_ID")
    if name == "none":  # it was given none: its agent, which stays, is what the starts share
        return f"{socket.gethostname()} {os.getppid()}"
    return name
