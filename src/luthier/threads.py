"""Threads beside the one that trains, which must not take its cores from it."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import torch


def computing_alone(size: int, name: str) -> ThreadPoolExecutor:
    """Return threads each of which computes with a single thread of torch's.

    Two teams of threads on the same cores would wait for each other at the end of every operation.
    The number of threads of the caller stays as it is.

    Args:
        size: how many.
        name: begins their names.
    """
    # torch keeps the number for threads that begin later, beside that of the thread which sets
    # it: so all of these begin now, and then the number is put back.
    threads = torch.get_num_threads()
    ready = threading.Barrier(size + 1)
    pool = ThreadPoolExecutor(size, thread_name_prefix=name, initializer=_compute_alone)
    for _ in range(size):
        pool.submit(ready.wait)
    ready.wait()
    torch.set_num_threads(threads)
    return pool


def _compute_alone() -> None:
    torch.set_num_threads(1)
    torch.get_num_threads()  # a thread's first look takes the number over, which then is its own
