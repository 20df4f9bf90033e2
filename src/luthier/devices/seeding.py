"""Seeds for a program of one's own."""

from __future__ import annotations

import os
import random

import numpy as np
import torch

from luthier.devices import cuda
from luthier.errors import RecipeError

_WORKSPACE = "CUBLAS_WORKSPACE_CONFIG"
_FIXED = (":4096:8", ":16:8")  # with which cuBLAS gives the same bits each time
_MOST = 2**64


def seed_everything(seed: int, *, deterministic: bool = False) -> None:
    """Seed Python's, numpy's and torch's global generators, on every device.

    A program that does the same after it draws the same. It says nothing of what another number
    of workers draws, or a run that is continued in the middle; ``luthier.Run`` does. Generators
    that objects keep for themselves, and the hashes of strings (``PYTHONHASHSEED``, which is read
    when Python starts), are left alone.

    Args:
        seed: from 0 up to 2**64 - 1; numpy takes its lower 32 bits.
        deterministic: compute with kernels that give the same bits each time, on the same device
            with the same versions; what has none raises torch's RuntimeError, which names it
            (https://docs.pytorch.org/docs/stable/notes/randomness.html). cuDNN's search for the
            fastest kernel is turned off. All this stays until the process ends.

    Raises:
        RecipeError: the seed is out of range; or ``deterministic`` comes after CUDA was
            initialised, which is when cuBLAS settles on its workspace.
    """
    if not 0 <= seed < _MOST:
        raise RecipeError(f"seed {seed}: expected 0 to 2**64 - 1")
    if deterministic:
        _be_deterministic()
    random.seed(seed)
    np.random.seed(seed & 0xFFFFFFFF)
    torch.manual_seed(seed)  # for devices that are not initialised yet, too


def _be_deterministic() -> None:
    if os.environ.get(_WORKSPACE) not in _FIXED:
        if cuda.is_initialised():
            raise RecipeError(
                f"deterministic=True comes too late: CUDA is initialised, and {_WORKSPACE} was"
                f" {os.environ.get(_WORKSPACE, 'not set')}",
                cure="call luthier.seed_everything above the first use of CUDA, or start the"
                f" program with {_WORKSPACE}={_FIXED[0]}",
            )
        os.environ[_WORKSPACE] = _FIXED[0]
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.benchmark = False
