"""One tree of errors: what happened, to which thing, and what to do about it.

The exit status of the command line follows from the branch: 1 means the answer is
no (damaged, does not fit, moved), 2 means the request was wrong, 130 interrupted.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

# What torch raises is no torch.OutOfMemoryError on a CPU, on Apple's devices and where one of its
# libraries asks; oneDNN says of its own allocations only that something could not be made.
_OUT_OF_MEMORY = (
    "out of memory",
    "not enough memory",
    "can't allocate memory",
    "bad_alloc",
    "could not create a memory",
    "could not create a primitive",
    "_status_alloc_failed",  # of cuBLAS, cuDNN, cuFFT, cuSOLVER
)


class LuthierError(Exception):
    """Base of everything that luthier raises on purpose.

    Args:
        what: the thing, what was expected of it and what was found.
        cure: what the user can do now; printed on a line of its own.
    """

    exit_status = 2
    is_told = False  # another process of the job says the same

    def __init__(self, what: str, *, cure: str | None = None) -> None:
        super().__init__(what if cure is None else f"{what}\n  {cure}")
        self.what = what
        self.cure = cure


class RecipeError(LuthierError):
    """A key, flag or combination that makes no sense; nothing was started."""


class DataError(LuthierError):
    """The images or their labels cannot be used."""


class ModelError(LuthierError):
    """The model cannot be built, or its head cannot be found."""


class WeightsUnavailableError(LuthierError):
    """Published weights could not be fetched, or no such weights exist."""


class UnsupportedFileError(LuthierError):
    """A file of a kind that luthier does not read."""


class RunFolderError(LuthierError):
    """A run's folder is in use, incomplete or not one."""


class UnsupportedStateError(LuthierError):
    """An object's state holds something that is neither a tensor nor a plain value."""


class UnkeyedError(LuthierError):
    """A loop's data has no position that could be found again."""


class MissingExtraError(LuthierError):
    """An optional dependency is needed and not installed."""


class DamagedError(LuthierError):
    """A file is truncated or its content differs from its checksum."""

    exit_status = 1


class DoesNotFitError(LuthierError):
    """Weights do not cover the model that they should go into."""

    exit_status = 1


class DisagreesError(LuthierError):
    """An export does not give what its model gives."""

    exit_status = 1


class FrozenMovedError(LuthierError):
    """A part that was to stay frozen differs from its start."""

    exit_status = 1


class DivergedError(LuthierError):
    """The loss is no longer a finite number."""

    exit_status = 1


class OutOfMemoryError(LuthierError):
    """Memory does not hold what is to be computed, in whatever small pieces."""

    exit_status = 1


class CannotWriteError(LuthierError):
    """The disk is full or refuses; what was saved before is as it was."""

    exit_status = 1


class StorageError(LuthierError):
    """An object store refuses or does not answer; what is on this machine is as it was."""

    exit_status = 1


class LeaseError(LuthierError):
    """What is asked for is not on this machine, or leases cannot be kept here."""


class LeasesUnavailableError(LeaseError):
    """Leases cannot be kept on this system; the accelerators themselves may be there."""


class BusyError(LuthierError):
    """Others have what is asked for."""

    exit_status = 1


class PeerError(LuthierError):
    """Another process of a job that several share has failed, is gone, or does not answer."""

    exit_status = 1


class CommandFailedError(LuthierError):
    """A program that was started for the user failed."""

    exit_status = 1


class InterruptedRunError(LuthierError):
    """The run was asked to stop and has saved its state."""

    exit_status = 130


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether an error says that memory ran out, in torch's and its libraries' words."""
    if isinstance(error, MemoryError):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and any(words in text for words in _OUT_OF_MEMORY)


def nearest(name: str, known: Iterable[str]) -> str:
    """Return ``" (did you mean 'x'?)"`` for the nearest known name, or ``""``."""
    found = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f" (did you mean {found[0]!r}?)" if found else ""


def missing_extra(package: str, extra: str, why: str) -> MissingExtraError:
    """Build the error for an optional dependency that is not installed."""
    return MissingExtraError(
        f"{why} needs the package {package!r}, which is not installed",
        cure=f"install it with: pip install 'luthier[{extra}]'",
    )
