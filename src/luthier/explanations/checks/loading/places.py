"""Where an error was raised: by which library's files, and about which file of the user's."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator

from luthier.explanations.values import Case

_FILE_NAME = re.compile(
    r"""["']([^"'{}]+\.(?:pth?|ckpt|bin|safetensors|pkl|pickle|tar|zip|gz|tgz|npz|h5|onnx|model))["']"""
)


def raised_under(case: Case, files: tuple[str, ...], *, alone: bool = True) -> bool:
    """Return whether a library raised an error under a call of one of some files.

    Args:
        case: the error.
        files: ends of paths.
        alone: what holds of an error that is known without its calls.
    """
    frames = case.raised.frames
    if not frames:
        return alone
    return frames[-1].is_library and any(frame.file.endswith(files) for frame in frames)


def path_of(case: Case) -> dict[str, object]:
    """Return the file that was opened: as the program has it, or as its line names it.

    ``quoted`` is the same for a shell.
    """
    path = next(_paths(case), None)
    return {"path": path, "quoted": None if path is None else shlex.quote(path)}


def _paths(case: Case) -> Iterator[str]:
    for frame, variables in zip(case.raised.frames, case.live, strict=False):
        given = variables.get("f", variables.get("filename"))
        if frame.is_library and isinstance(given, str):
            yield given
    for frame in case.raised.own[-1:]:
        yield from _FILE_NAME.findall(frame.source)


def is_absolute(path: str) -> bool:
    """Return whether a path, of whatever system, does not count from the current folder."""
    return path.startswith(("/", "~", "\\")) or path[1:2] == ":"
