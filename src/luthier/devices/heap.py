"""Memory that is freed and asked for again in every step, without the kernel in between."""

from __future__ import annotations

import ctypes
import os
import sys

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4  # of malloc.h


def keep_freed_memory() -> bool:
    """Let the C library keep what is freed for what is asked for next; return whether it will.

    glibc gives large blocks back to the kernel at once. A step on a CPU asks for the same
    activations again, and the kernel clears each page anew: a quarter of the time of MobileNetV2's
    training here. The process keeps its peak until it ends. Whoever has set ``MALLOC_…`` or
    ``GLIBC_TUNABLES`` in the environment has decided otherwise; other C libraries are left alone.
    """
    decided = any(n.startswith("MALLOC_") or n == "GLIBC_TUNABLES" for n in os.environ)
    if decided or not sys.platform.startswith("linux"):
        return False
    library = ctypes.CDLL(None)
    if not hasattr(library, "gnu_get_libc_version"):
        return False
    # -1: never give the top of the heap back. 0: no block is mapped by itself.
    return bool(library.mallopt(_TRIM_THRESHOLD, -1) and library.mallopt(_MMAP_MAX, 0))
