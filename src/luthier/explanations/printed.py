"""A text with tracebacks → the errors that ended it. Pure.

Tracebacks are read as Python prints them, as IPython does, as ``torchrun`` does with a rank ahead
of each line, and as they are inside another error's message (a DataLoader's worker, a process of
``torch.multiprocessing``). What was handled before is not what ended a program: of several
tracebacks the last counts, and those that it names as its direct causes.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from luthier.explanations.values import Frame, Raised

_PREFIX = re.compile(
    r"^(?:\[(?:default|rank|worker)?\d+\]:\s?|\d+:\s(?=\s*(?:File|Traceback)))", re.M
)
_COLOUR = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
_HEADER = re.compile(
    r"^(?P<indent>[ \t|+]*)(?:Original |(?P<type>[A-Za-z_]\w*)[ \t]{2,})?"
    r"Traceback \(most recent call last\):?[ \t]*$"
)
_CAUSE = "The above exception was the direct cause of the following exception:"
_BETWEEN = ("During handling of the above exception, another exception occurred:", _CAUSE)
_FRAME = re.compile(r'^\s*File "(?P<path>[^"]+)", line (?P<line>\d+)(?:, in (?P<function>.+))?$')
_CELL = re.compile(
    r"^(?:File (?P<path>[^\n]+?):(?P<line>\d+), in (?P<function>[^\n(]+).*"
    r"|(?P<cell>Cell In ?\[\d+\]), line (?P<cell_line>\d+).*"
    r"|(?P<old>\S*<ipython-input-[^>]+>|\S+\.py) in (?P<old_function>[\w<>.]+).*)$"
)
_ARROW = re.compile(r"^-+> ?(?P<line>\d+) ?(?P<source>.*)$")
_ERROR = re.compile(r"^(?P<type>[A-Za-z_][\w.]*)(?:: ?(?P<message>.*))?$")
_ALONE = re.compile(
    r"^(?P<type>(?:[A-Za-z_]\w*\.)*[A-Za-z_]*(?:Error|Exception|Interrupt)):(?: (?P<message>.*))?$"
)
_WARNING = re.compile(r"^(?:\S.*?:\d+: )?(?P<type>(?:[\w.]+\.)?\w*Warning):(?: (?P<message>.*))?$")
_LIBRARY = re.compile(
    r"site-packages|dist-packages|[/\\]lib[/\\]python3|[/\\]Lib[/\\]|^<frozen "
    r"|[/\\]src[/\\]luthier[/\\]"
)
_MARKS = re.compile(r"^\s*[~^]*\^[~^]*\s*$")
_REPORTS = ("ChildFailedError",)  # torchrun's: the error is a rank's, which printed it before
_IGNORED = re.compile(r"^Exception ignored (?:in|from)")  # told at an object's end; it ends nothing
_GOES_ON = re.compile(r"^[\W\d]*(?:epoch|step|iter\w*|batch|finished|saved)\b.*\d", re.IGNORECASE)
_STEPS_ON = 2  # such lines after an error: the program has met it and gone on
_CHILD = ("multiprocessing/spawn.py", "EOFError")  # of a child whose parent failed to start it
_LEAST_MARK = 3
_LINES_ALONE = 40  # a text that is longer is a log, in which a line is no error that ended it


def errors_in(text: str) -> tuple[Raised, ...]:
    """Return the error that ended a text, then those that it names as causes, the nearest first.

    Where ``torchrun`` reports that a rank failed, the rank's own error is first. Nothing is
    returned for a text without an error.
    """
    lines = _PREFIX.sub("", _COLOUR.sub("", text.replace("\r", ""))).split("\n")
    starts = [index for index, line in enumerate(lines) if _HEADER.match(line)]
    if not starts:
        return _alone(lines)
    while len(starts) > 1 and _is_beside(lines[starts[-2] : starts[-1]], lines[starts[-1] :]):
        lines = lines[: starts.pop()]
    if sum(_GOES_ON.match(line) is not None for line in lines[starts[-1] :]) >= _STEPS_ON:
        return ()
    found: list[Raised] = []
    for number, start in reversed(list(enumerate(starts))):
        end = starts[number + 1] if number + 1 < len(starts) else len(lines)
        before = starts[number - 1] if number else 0
        raised = _block(lines[start:end], lines[:start])
        if raised is not None:
            found.append(raised)
        is_report = raised is not None and raised.name in _REPORTS
        if not number or not (is_report or _is_cause(lines[before:start], lines[start])):
            break
    return tuple(sorted(found, key=lambda raised: raised.name in _REPORTS))


def is_library(path: str) -> bool:
    """Return whether a file is an installed package's or Python's own."""
    return bool(_LIBRARY.search(path))


def _is_beside(before: Sequence[str], block: Sequence[str]) -> bool:
    """Return whether a traceback is of something beside what ended the program before it."""
    told = [line for line in before if line.strip()]
    if told and _IGNORED.match(told[-1]):
        return True
    path, kind = _CHILD
    return any(path in line for line in block) and any(line.startswith(kind) for line in block)


def _is_cause(before: Sequence[str], header: str) -> bool:
    """Return whether the traceback before this one is told to be its cause, or it is inside it."""
    told = [line.strip(" \t|+") for line in before if line.strip(" \t|+")]
    if not told:
        return False
    if told[-1] == _CAUSE:
        return True
    # Inside another error's message the cause comes second: the one before is what wraps it.
    return "Original Traceback" in header or told[-1].endswith("with the following error:")


def _block(lines: Sequence[str], before: Sequence[str]) -> Raised | None:
    header = _HEADER.match(lines[0])
    assert header is not None  # noqa: S101 - the caller has found it by that
    body = [line.removeprefix(header["indent"]) for line in lines[1:]]
    read = _ipython(body) if header["type"] else _python(body)
    if read is None:
        return None
    frames, rest = read
    said = _ERROR.match(rest[0])
    if said is None:
        return None
    message = [said["message"] or "", *rest[1:]]
    ends = [n for n, line in enumerate(message) if line.strip(" \t|+") in _BETWEEN]
    message = message[: ends[0]] if ends else message
    return Raised(
        said["type"], "\n".join(message).strip(), tuple(frames), "\n".join(before).strip()
    )


def _python(lines: Sequence[str]) -> tuple[list[Frame], Sequence[str]] | None:
    """Return the frames, and the lines from the error's own on."""
    frames: list[Frame] = []
    for number, line in enumerate(lines):
        at = _FRAME.match(line)
        if at is not None:
            path = at["path"]
            frames.append(
                Frame(path, int(at["line"]), at["function"] or "", is_library=is_library(path))
            )
        elif line[:1] not in ("", " ", "\t"):
            return frames, lines[number:]
        elif frames and _MARKS.match(line) and lines[number - 1].strip():
            frames[-1] = _marked(frames[-1], lines[number - 1], line)
        elif frames and not frames[-1].source and line.strip():
            frames[-1] = _with_source(frames[-1], line.strip())
    return None


def _marked(frame: Frame, line: str, marks: str) -> Frame:
    if line.strip() != frame.source:
        return frame
    first, last = marks.index(marks.strip()[0]), len(marks.rstrip())
    part = line[first:last].strip()
    return frame if len(part) < _LEAST_MARK else _with_source(frame, frame.source, part)


def _ipython(lines: Sequence[str]) -> tuple[list[Frame], Sequence[str]] | None:
    frames: list[Frame] = []
    for number, line in enumerate(lines):
        at = _CELL.match(line)
        arrow = _ARROW.match(line)
        if at is not None:
            path = at["path"] or at["cell"] or at["old"]
            name = (at["function"] or at["old_function"] or "<module>").strip()
            where = int(at["line"] or at["cell_line"] or 0)
            frames.append(Frame(path, where, name, is_library=is_library(path)))
        elif arrow is not None and frames:
            frames[-1] = _with_source(frames[-1], arrow["source"].strip())
        elif frames and number and not lines[number - 1].strip() and _is_error(line):
            return frames, lines[number:]
    return None


def _is_error(line: str) -> bool:
    found = _ERROR.match(line)
    return found is not None and not line.startswith("File ")


def _with_source(frame: Frame, source: str, marked: str = "") -> Frame:
    return Frame(frame.path, frame.line, frame.function, source, marked, frame.is_library)


def _alone(lines: Sequence[str]) -> tuple[Raised, ...]:
    """Return the error or the warning whose line somebody has copied without its traceback."""
    told = [line for line in lines if line.strip()]
    if len(told) > _LINES_ALONE:
        return ()
    for pattern in (_ALONE, _WARNING):
        for number, line in enumerate(told):
            found = pattern.match(line.strip())
            if found is not None:
                message = "\n".join([found["message"] or "", *told[number + 1 :]])
                return (Raised(found["type"], message.strip()),)
    return ()
