"""What ended a run that failed, kept in its folder until it goes on."""

from __future__ import annotations

import contextlib
import json
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from luthier.errors import DamagedError, InterruptedRunError, PeerError
from luthier.files import durable
from luthier.language import LANGUAGES
from luthier.run.explaining import explain
from luthier.run.folder import RunFolder

_FORMAT = 1
_DEPTHS = ("*", "*/*")  # of runs/RUN, and of runs/COMPARISON/RUN


@dataclass(frozen=True)
class Failure:
    """What ended a run.

    Attributes:
        run: its folder.
        traceback: as Python prints it.
        explanations: by language, as plain values; None where the error is not known.
    """

    run: Path
    traceback: str
    explanations: dict[str, dict[str, Any] | None]


@contextlib.contextmanager
def recording(folder: RunFolder) -> Iterator[None]:
    """Write into a run's folder what ends it inside; what ended it before is forgotten.

    A signal is no failure, and neither is another process's. It is explained at once, as the
    variables are gone afterwards.
    """
    with contextlib.suppress(OSError):
        folder.failure.unlink(missing_ok=True)
    try:
        yield
    except (InterruptedRunError, PeerError):
        raise
    except Exception as error:
        if not folder.recipe.exists():  # nothing has begun: the folder stays as it was
            raise
        with contextlib.suppress(Exception):  # the one that ended the run is the one to be seen
            durable.write_text(folder.failure, _told(error))
        raise


def _told(error: Exception) -> str:
    found = {lang: explain(error, lang=lang) for lang in LANGUAGES}
    return json.dumps(
        {
            "format": _FORMAT,
            "traceback": "".join(traceback.format_exception(error)),
            "explanations": {n: None if e is None else e.as_dict() for n, e in found.items()},
        }
    )


def failure_of(run: Path) -> Failure | None:
    """Return what ended a run, or None where nothing did since it last went on.

    Raises:
        DamagedError: the file says no such thing.
    """
    path = RunFolder(run).failure
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
        return Failure(run, str(told["traceback"]), dict(told["explanations"]))
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as error:
        raise DamagedError(f"{path}: {error!r}", cure="remove it") from error


def last_failure(runs: Path) -> Failure | None:
    """Return what ended the run below a folder that failed last, or None where none has."""
    name = RunFolder(runs).failure.name
    found = [path for depth in _DEPTHS for path in runs.glob(f"{depth}/{name}")]
    newest = max(found, key=lambda path: path.stat().st_mtime_ns, default=None)
    return None if newest is None else failure_of(newest.parent)
