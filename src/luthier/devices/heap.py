"""Memory that is freed and asked for again in every step, without the kernel in between."""

from __future__ import annotations

import ctypes
import os
import sys

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4  # of malloc.h
_TRIM_DEFAULT, _MMAP_DEFAULT = 128 * 1024, 65536  # of glibc


def keep_freed_memory() -> bool:
    """Let the C library keep what is freed for what is asked for next; return whether it will.

    glibc gives large blocks back to the kernel at once. A step on a CPU asks for the same
    activations again, and the kernel clears each page anew: a quarter of the time of MobileNetV2's
    training here. The process keeps its peak until it ends. Whoever has set ``MALLOC_…`` or
    ``GLIBC_TUNABLES`` in the environment has decided otherwise; other C libraries are left alone.
    """
    library = _glibc()
    # -1: never give the top of the heap back. 0: no block is mapped by itself.
    return library is not None and _set(library, trim=-1, mmap=0)


def give_freed_memory_back() -> None:
    """Undo ``keep_freed_memory``, and give what is free to the kernel.

    For when memory has run out: what one thread has freed is of no use to another, and a block of
    a heap in pieces is of none to a larger request.
    """
    library = _glibc()
    if library is not None:
        _set(library, trim=_TRIM_DEFAULT, mmap=_MMAP_DEFAULT)
        library.malloc_trim(0)


def _set(library: ctypes.CDLL, *, trim: int, mmap: int) -> bool:
    return bool(library.mallopt(_TRIM_THRESHOLD, trim) and library.mallopt(_MMAP_MAX, mmap))


def _glibc() -> ctypes.CDLL | None:
    """Return the C library, where it is glibc and nobody has set it up."""
    decided = any(n.startswith("MALLOC_") or n == "GLIBC_TUNABLES" for n in os.environ)
    if decided or not sys.platform.startswith("linux"):
        return None
    library = ctypes.CDLL(None)
    return library if hasattr(library, "gnu_get_libc_version") else None
