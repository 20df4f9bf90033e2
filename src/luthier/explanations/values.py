"""An error as it was printed or raised, and what is known around it: plain values.

What is live in a program is described, not kept: a tensor by its shape, a module by its tensors.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from luthier.language import columns, folded

_WIDTH = 96  # columns
_BY_HAND = re.compile(r"(?:raise|assert)\b")


@dataclass(frozen=True)
class Frame:
    """A call under way when the error was raised.

    Attributes:
        path: the file, as it is printed.
        line: its line, from 1.
        function: the function's name.
        source: the line's text, without its indentation; "" where it is not known.
        marked: the part of it that is underlined as being at work; "" where none is.
        is_library: it is an installed package's or Python's own, not the user's.
    """

    path: str
    line: int
    function: str
    source: str = ""
    marked: str = ""
    is_library: bool = False

    @property
    def file(self) -> str:
        """The path with slashes between its folders, on Windows as well."""
        return self.path.replace("\\", "/")

    @property
    def raises(self) -> bool:
        """Whether its line raises an error by hand."""
        return _BY_HAND.match(self.source) is not None


@dataclass(frozen=True)
class Raised:
    """An error.

    Attributes:
        type: its class, as it is printed, such as "torch.OutOfMemoryError".
        message: what it says; several lines where it has them.
        frames: the calls, the innermost last.
        before: what was printed ahead of it, such as a kernel's assertion or a process's own error.
    """

    type: str
    message: str
    frames: tuple[Frame, ...] = ()
    before: str = ""

    @property
    def name(self) -> str:
        """The class without its module."""
        return self.type.rpartition(".")[2]

    @property
    def innermost(self) -> Frame | None:
        """The call that raised it, where any is known."""
        return self.frames[-1] if self.frames else None

    @property
    def own(self) -> list[Frame]:
        """The user's own calls, the innermost last."""
        return [frame for frame in self.frames if not frame.is_library]

    @property
    def line(self) -> str | None:
        """The user's innermost line that is known."""
        return next((frame.source for frame in reversed(self.own) if frame.source), None)


@dataclass(frozen=True)
class TensorFacts:
    """A tensor.

    Attributes:
        shape: its sizes.
        dtype: such as "float32".
        device: such as "cuda:0".
        requires_grad: gradients are computed for it.
        is_leaf: it is no result of an operation that is recorded.
        low: its least value, of integers that are at hand; else None.
        high: its greatest, likewise.
        is_finite: no value is infinite or nan; None where it was not looked.
    """

    shape: tuple[int, ...]
    dtype: str
    device: str
    requires_grad: bool = False
    is_leaf: bool = True
    low: int | None = None
    high: int | None = None
    is_finite: bool | None = None


@dataclass(frozen=True)
class ModuleFacts:
    """A module.

    Attributes:
        kind: its class's name.
        path: where it is in the outermost module that a frame has, such as "features.0"; "" for
            that one itself, and where it is in none.
        is_training: it is in training mode.
        parameters: all, by name, in order.
        buffers: all, by name, in order.
        modules: the kinds of all modules in it, by name, in order; itself is "".
    """

    kind: str
    path: str = ""
    is_training: bool = True
    parameters: Mapping[str, TensorFacts] = field(default_factory=dict)
    buffers: Mapping[str, TensorFacts] = field(default_factory=dict)
    modules: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class ObjectFacts:
    """Another object that is known: an optimizer, a schedule, a loader, a data set.

    Attributes:
        kind: its class's name.
        fields: what is known of it, by name; see ``luthier.run.explaining``.
    """

    kind: str
    fields: Mapping[str, object] = field(default_factory=dict)


Fact = TensorFacts | ModuleFacts | ObjectFacts | str | int | float | bool


@dataclass(frozen=True)
class Here:
    """The machine and the environment in which an error is explained; None is what is not known.

    Attributes:
        python: its version.
        torch: the version that is installed.
        torchvision: likewise.
        cuda_build: torch is built with CUDA, as far as its version says.
        driver: NVIDIA's driver, its version.
        gpus: how many NVIDIA devices the driver tells of.
        visible_gpus: how many of them ``CUDA_VISIBLE_DEVICES`` leaves.
        cuda_visible_devices: the variable.
        shared_memory: bytes of /dev/shm.
        shared_memory_free: bytes free there.
        open_files: how many files a process may have open.
        memory: bytes that this process may have, a container's limit included.
        cores: how many this process may use.
        start_method: how multiprocessing starts processes by default.
    """

    python: str | None = None
    torch: str | None = None
    torchvision: str | None = None
    cuda_build: bool | None = None
    driver: str | None = None
    gpus: int | None = None
    visible_gpus: int | None = None
    cuda_visible_devices: str | None = None
    shared_memory: int | None = None
    shared_memory_free: int | None = None
    open_files: int | None = None
    memory: int | None = None
    cores: int | None = None
    start_method: str | None = None


@dataclass(frozen=True)
class Case:
    """What an explanation is drawn from.

    Attributes:
        raised: the error.
        found: the named groups that its message gave.
        here: the machine.
        live: the variables of each frame of ``raised``, where the program still runs; else ().
        causes: the errors that it names as its causes, the nearest first.
    """

    raised: Raised
    found: Mapping[str, str] = field(default_factory=dict)
    here: Here = field(default_factory=Here)
    live: tuple[Mapping[str, Fact], ...] = ()
    causes: tuple[Raised, ...] = ()

    def innermost_module(self) -> ModuleFacts | None:
        """Return the module that was at work, where the program still runs."""
        for variables in reversed(self.live):
            found = variables.get("self")
            if isinstance(found, ModuleFacts):
                return found
        return None

    def variable(self, name: str) -> Fact | None:
        """Return what the innermost call has under a name that any call has it under."""
        for variables in reversed(self.live):
            if name in variables:
                return variables[name]
        return None


Facts = Mapping[str, object]


@dataclass(frozen=True)
class Explanation:
    """Why an error was raised, and what ends it.

    Attributes:
        name: of the entry in the catalogue.
        cause: a sentence.
        checked: how that was checked here, a sentence each.
        cure: a sentence.
        code: lines to write, with the user's own names; "" where there is none to write.
        page: where the documentation says more.
        labels: the words for cause, checked, cure and page in the explanation's language.
    """

    name: str
    cause: str
    checked: tuple[str, ...]
    cure: str
    code: str
    page: str
    labels: Mapping[str, str] = field(default_factory=dict, repr=False)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], labels: Mapping[str, str]) -> Explanation:
        """Return what ``as_dict`` has told."""
        return cls(**{**values, "checked": tuple(values["checked"])}, labels=labels)

    def __str__(self) -> str:
        sentences = {
            "cause": [self.cause],
            "checked": [*self.checked],
            "cure": [self.cure],
            "page": [self.page],
        }
        labels = {part: self.labels.get(part, part) for part in sentences}
        indent = " " * (max(map(columns, labels.values())) + 2)
        lines: list[str] = []
        for part, texts in sentences.items():
            label = labels[part] + indent[columns(labels[part]) :]
            if part == "page":
                lines += [f"{indent}    {line}".rstrip() for line in self.code.splitlines()]
            for text in texts:
                first, *rest = folded(text, _WIDTH - len(indent))
                lines += [f"{label}{first}", *(indent + line for line in rest)]
        return "\n".join(lines)

    def as_dict(self) -> dict[str, object]:
        """Return it as plain values for JSON."""
        return {
            "name": self.name,
            "cause": self.cause,
            "checked": list(self.checked),
            "cure": self.cure,
            "code": self.code,
            "page": self.page,
        }
