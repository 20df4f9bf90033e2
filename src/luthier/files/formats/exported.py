"""The weights in what ``torch.export.save`` writes (``.pt2``). No torch here.

Since torch 2.8 each storage is a record of raw bytes, and a JSON record says which tensors of the
state_dict lie in it. Before, the state_dict was a torch file inside the archive. The program
itself is not looked at, and the example inputs are not either.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from luthier.errors import UnsupportedFileError
from luthier.files.entries import Archive, Global, RefusedEntry, TensorEntry
from luthier.files.formats import torch_zip
from luthier.files.formats.safetensors import METADATA_KEY, description
from luthier.files.formats.torch_zip import Records
from luthier.files.limits import Broken, Budget
from luthier.files.mapped import MappedFile
from luthier.files.parsing import strict_json
from luthier.files.parsing.zips import Zip
from luthier.files.pickles.containers import Builder
from luthier.files.pickles.inside import Inner, budget_of
from luthier.files.pickles.rebuild import Storage, call
from luthier.files.wording import plain, shown
from luthier.values import TensorSpec

_KINDS = {"state_dict": "weights", "constants": "constants"}
_STRIDED = 7  # of torch.export's numbers of layouts
_DTYPES = {  # torch.export's numbers of dtypes
    1: "uint8",
    2: "int8",
    3: "int16",
    4: "int32",
    5: "int64",
    6: "float16",
    7: "float32",
    8: "float64",
    9: "complex32",
    10: "complex64",
    11: "complex128",
    12: "bool",
    13: "bfloat16",
    28: "uint16",
    29: "float8_e4m3fn",
    30: "float8_e5m2",
    31: "float8_e4m3fnuz",
    32: "float8_e5m2fnuz",
    33: "float8_e8m0fnu",
    34: "uint32",
    35: "uint64",
}
_ABOUT = f"extra/{METADATA_KEY}"  # among the extra files
_OBJECTS = ("custom_obj_", "opaque_obj_")
_REBUILD = Global("torch._utils", "_rebuild_tensor_v2")


def read(file: MappedFile) -> Archive:
    """Read what describes the weights; the tensors stay on the disk.

    The content is ``{"state_dict": …, "constants": …}``; constants are buffers that are not
    persistent, and other tensors of the program. Of several programs it is that, by their names.

    Raises:
        DamagedError: it contradicts itself, or is over a limit.
        UnsupportedFileError: it holds a compiled program without weights; see also ``Zip``.
    """
    budget = budget_of(file)
    container = Zip(file, budget)
    if "serialized_exported_program.json" in container.members:
        return _read_old(file, container, budget)
    return _Exported(Records(file, budget)).archive()


class _Exported:
    """An archive of torch 2.8 or later."""

    def __init__(self, records: Records) -> None:
        self._records = records
        self._builder = Builder(records.budget)
        self._globals: list[tuple[Global, bool]] = []

    def archive(self) -> Archive:
        """Return what it holds."""
        records = self._records
        programs = [
            name.removeprefix("models/").removesuffix(".json")
            for name in records.names()
            if name.startswith("models/") and name.endswith(".json")
        ]
        if not programs:
            raise UnsupportedFileError(
                f"{records.zip.file.path} holds a compiled program, and no weights by name",
                cure="save the model's state_dict(), or the program that was exported",
            )
        found = {program: self._program(program) for program in programs}
        about = self._description() if _ABOUT in records else {}
        return Archive(
            records.zip.file.path,
            "torch.export",
            found["model"] if programs == ["model"] else found,
            metadata=about,
            facts=records.facts(),
            globals=tuple(dict.fromkeys(self._globals)),
            check=records.zip.check,
        )

    def _description(self) -> dict[str, Any]:
        try:
            return description(bytes(self._records.content(_ABOUT)), self._records.zip.file.size)
        except ValueError as error:
            raise self._records.damaged(f"its record {_ABOUT!r} is broken: {error}") from error

    def _program(self, name: str) -> dict[str, Any]:
        found = {}
        for where, folder in _KINDS.items():
            old, new = f"data/{folder}/{name}.pt", f"data/{folder}/{name}_{folder}_config.json"
            if old in self._records:
                found[where] = self._torch_file(old)
            elif new in self._records or where == "state_dict":
                found[where] = dict(self._tensors(f"data/{folder}", new))
        return found if found.get("constants") else {"state_dict": found["state_dict"]}

    def _torch_file(self, record: str) -> Any:
        archive = torch_zip.read(Inner(self._records.content(record), self._records.budget))
        self._globals += archive.globals
        return archive.content

    def _tensors(self, folder: str, record: str) -> Iterator[tuple[str, Any]]:
        text = bytes(self._records.content(record))
        try:
            config = strict_json.parse(text, len(text) + strict_json.ROOM)
            payloads = config["config"].items()
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise self._records.damaged(f"its record {record!r} is broken: {error}") from error
        for name, told in payloads:
            try:
                yield name, self._tensor(folder, told)
            except (ValueError, TypeError, KeyError, IndexError, AttributeError, Broken) as error:
                raise self._records.damaged(
                    f"tensor {plain(name)!r} in {record!r} is described as {shown(told, 200)}"
                    f" ({error})"
                ) from error

    def _tensor(self, folder: str, told: Mapping[str, Any]) -> Any:
        path, meta = told["path_name"], told["tensor_meta"]
        if not isinstance(path, str) or "/" in path:
            raise ValueError("its record is in another folder")
        if path.startswith(_OBJECTS):
            return RefusedEntry("is no tensor, but an object of the program's own class")
        if told["use_pickle"] or meta is None:
            return self._torch_file(f"{folder}/{path}")
        dtype, shape = _DTYPES[meta["dtype"]], _numbers(meta["sizes"])
        if meta["layout"] != _STRIDED:
            return RefusedEntry(f"has layout {meta['layout']}", TensorSpec(shape, dtype))
        blob = self._records.blob(f"{folder}/{path}")
        storage = Storage(blob, dtype, str(meta["device"]["type"]), self._records.big_endian)
        place = (_number(meta["storage_offset"]), shape, _numbers(meta["strides"]))
        entry = call(self._builder, _REBUILD, (storage, *place, meta["requires_grad"], None))
        if isinstance(entry, TensorEntry):
            return replace(entry, is_parameter=told["is_param"] is True)
        return entry


def _number(told: Mapping[str, Any]) -> int:
    found = told["as_int"]
    if type(found) is not int:
        raise TypeError("a size is no number")
    return found


def _numbers(told: list[Mapping[str, Any]]) -> tuple[int, ...]:
    return tuple(_number(item) for item in told)


def _read_old(file: MappedFile, container: Zip, budget: Budget) -> Archive:
    """Read an archive of torch 2.1 to 2.7: the weights are a torch file inside it."""
    content: dict[str, Any] = {}
    found: list[tuple[Global, bool]] = []
    for where in _KINDS:
        name = f"serialized_{where}.pt"
        if name not in container.members:
            continue
        member = container.members[name]
        if member.is_deflated:
            budget.spend(member.size)
        archive = torch_zip.read(Inner(container.blob(name).view(), budget))
        found += archive.globals
        if archive.content or where == "state_dict":
            content[where] = archive.content
    if "state_dict" not in content:
        raise UnsupportedFileError(
            f"{file.path} is an exported program of torch before 2.2, whose weights are not read",
            cure="load it with torch.export.load and save its state_dict",
        )
    return Archive(
        file.path,
        "torch.export",
        content,
        facts=(("format version", "before torch 2.8"),),
        globals=tuple(dict.fromkeys(found)),
        check=container.check,
    )
