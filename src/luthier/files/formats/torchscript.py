"""TorchScript archives: the parameters and buffers of their modules. No torch here.

Beside ``data.pkl``, which holds the modules with their attributes, lies the code of their classes.
None of it is run; two lines of a class are read as text, for only they say which attributes are
parameters and which are buffers::

    class Linear(Module):
      __parameters__ = ["weight", "bias", ]
      __buffers__ = []
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from luthier.files.entries import (
    DEEPEST,
    Archive,
    Entry,
    Record,
    RefusedEntry,
    SparseEntry,
    TensorEntry,
)
from luthier.files.formats.torch_zip import Records
from luthier.files.mapped import MappedFile
from luthier.files.pickles.inside import budget_of

_CLASS = re.compile(r"^class ([\w$]+)\((\w+)\):$", re.MULTILINE)
_NAMES = re.compile(r"^  __(parameters|buffers)__ = \[([^\]\n]*)\]$", re.MULTILINE)
_QUOTED = re.compile(r'"([^"]*)"')
_ENTRIES = (TensorEntry, SparseEntry, RefusedEntry)
_COST = 400  # bytes of memory that a name and its entry take


@dataclass(frozen=True)
class _Class:
    """What the code says of a class of modules; before torch 1.5 it says nothing of buffers."""

    parameters: frozenset[str]
    buffers: frozenset[str] | None


def read(file: MappedFile) -> Archive:
    """Read the modules; the tensors stay on the disk.

    The content is what ``state_dict()`` of the module gives, by name and in its order. Attributes
    that are tensors and neither parameters nor buffers are left out, and so is the code.

    Raises:
        DamagedError: it contradicts itself, or is over a limit.
        UnsupportedFileError: see ``Zip``.
    """
    records = Records(file, budget_of(file))
    found = records.unpickled()
    constants = records.unpickled("constants.pkl", "constants")
    if not isinstance(found.value, Record) or not isinstance(constants.value, tuple):
        raise records.damaged("its data.pkl holds no module, or its constants.pkl no constants")
    modules = _Modules(records)
    state = dict(modules.tensors(found.value))
    facts = [*records.facts(), ("module", str(found.value.made_by))]
    if constants.value:
        facts.append(("constants", f"{len(constants.value)}, without names"))
    return Archive(
        file.path,
        "TorchScript",
        state,
        facts=tuple(facts),
        globals=tuple(dict.fromkeys((*found.globals, *constants.globals))),
        check=records.zip.check,
    )


class _Modules:
    """The modules of an archive, as its code describes their classes."""

    def __init__(self, records: Records) -> None:
        self._records = records
        self._classes: dict[str, Mapping[str, _Class]] = {}

    def tensors(self, top: Record) -> Iterator[tuple[str, Entry]]:
        """Give the parameters and buffers of a module and of those below it, by name.

        Raises:
            DamagedError: a module is inside itself, or they are too many.
        """
        waiting = [("", top, 0)]
        while waiting:
            prefix, module, depth = waiting.pop()
            if depth > DEEPEST:
                raise self._records.damaged(f"its modules are nested deeper than {DEEPEST} levels")
            state = module.state if isinstance(module.state, dict) else {}
            yield from self._own(prefix, state, self._class(module))
            below = [
                (f"{prefix}{name}.", value, depth + 1)
                for name, value in state.items()
                if isinstance(value, Record) and self._class(value) is not None
            ]
            for name, _, _ in below:
                self._records.budget.spend(_COST + len(name))
            waiting += reversed(below)

    def _own(
        self, prefix: str, state: Mapping[Any, Any], described: _Class | None
    ) -> Iterator[tuple[str, Entry]]:
        if described is None:
            return
        tensors = {name: value for name, value in state.items() if isinstance(value, _ENTRIES)}
        parameters = [name for name in tensors if name in described.parameters]
        others = described.buffers
        buffers = tensors.keys() - described.parameters if others is None else others
        for name in (*parameters, *(name for name in tensors if name in buffers)):
            self._records.budget.spend(_COST + len(prefix))
            value = tensors[name]
            if isinstance(value, TensorEntry):
                value = replace(value, is_parameter=name in described.parameters)
            yield f"{prefix}{name}", value

    def _class(self, module: Record) -> _Class | None:
        """Return what is known of a module's class; None if it is no class of modules."""
        made_by = module.made_by
        if made_by.module.split(".")[0] != "__torch__" or module.is_call:
            return None
        if made_by.module not in self._classes:
            self._classes[made_by.module] = self._read(made_by.module)
        return self._classes[made_by.module].get(made_by.name)

    def _read(self, module: str) -> Mapping[str, _Class]:
        record = f"code/{module.replace('.', '/')}.py"
        if record not in self._records:
            return {}
        text = bytes(self._records.content(record)).decode("utf-8", "replace")
        heads = list(_CLASS.finditer(text))
        ends = [head.start() for head in heads[1:]] + [len(text)]
        return {
            head[1]: _described(text[head.end() : end])
            for head, end in zip(heads, ends, strict=True)
            if head[2] == "Module"
        }


def _described(body: str) -> _Class:
    # The two lists come before everything else of a class.
    names = {kind: _QUOTED.findall(listed) for kind, listed in _NAMES.findall(body)}
    buffers = frozenset(names["buffers"]) if "buffers" in names else None
    return _Class(frozenset(names.get("parameters", ())), buffers)
