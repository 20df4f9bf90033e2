"""What a pickle may build: a fixed table, in which nothing of a file's choosing is ever looked up.

Tensors become entries that say where they lie; containers are built; everything else is a Record.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from luthier.files.dtypes import BY_STORAGE, DTYPES, QUANTISED
from luthier.files.entries import Global, Name, Record, RefusedEntry, SparseEntry, TensorEntry
from luthier.files.limits import Broken
from luthier.files.mapped import Blob
from luthier.files.pickles import arrays, containers, torch_names
from luthier.files.pickles.arrays import LONGEST, Inside, sizes
from luthier.files.pickles.containers import Builder, Maker
from luthier.files.pickles.inside import open_inside
from luthier.values import TensorSpec

COST_OF_RECORD = 600  # bytes of memory
_COST_OF_ENTRY = 120
_COST_OF_TENSOR = 190  # an entry, its spec and the like, without its shape and strides

CALLED = Global("operator", "call")  # calls of what is no reference, but was built itself


@dataclass(frozen=True, slots=True)
class Storage:
    """A storage of torch: memory that tensors look at, or on its own a value of a tree.

    Attributes:
        blob: its bytes.
        dtype: torch's name of it, or the class of a quantised one; None if untyped.
        device: where it was when it was saved.
        big_endian: see ``TensorEntry``.
    """

    blob: Blob
    dtype: str | None = None
    device: str = "cpu"
    big_endian: bool = False

    def tensor(self) -> TensorEntry | RefusedEntry:
        """Return all of it as a tensor in one dimension."""
        dtype = self.dtype or "uint8"
        if dtype not in DTYPES:
            return _quantised(dtype)
        spec = TensorSpec((self.blob.nbytes // DTYPES[dtype].itemsize,), dtype)
        return TensorEntry(spec, self.blob, big_endian=self.big_endian, device=self.device)


@dataclass(frozen=True, slots=True)
class StorageId:
    """What a persistent id of torch says of a storage.

    Attributes:
        dtype: as in ``Storage``.
        key: its name in the file.
        device: where it was when it was saved.
        count: of its elements; of an untyped one, bytes.
        part: in old files, of a storage that is a part of another: (its key, offset, count).
    """

    dtype: str | None
    key: str
    device: str
    count: int
    part: tuple[str, int, int] | None = None

    @property
    def itemsize(self) -> int:
        """Bytes of an element."""
        if self.dtype in DTYPES:
            return DTYPES[self.dtype].itemsize
        return 4 if self.dtype == "QInt32Storage" else 1

    @property
    def nbytes(self) -> int:
        """Bytes of all elements."""
        return self.count * self.itemsize


def storage_id(value: Any) -> StorageId:
    """Return what a persistent id says: ("storage", class, key, device, count[, part]).

    Raises:
        Broken: it is not torch's.
    """
    if (
        not isinstance(value, tuple)
        or len(value) not in (5, 6)
        or value[0] not in ("storage", b"storage")
    ):
        raise Broken("a persistent id is not one of torch")
    _, kind, key, device, count = value[:5]
    if not isinstance(key, str) or not isinstance(device, str):
        raise Broken("the persistent id of a storage has no key or no device")
    if type(count) is not int or not 0 <= count <= LONGEST:
        raise Broken(f"storage {key!r} has an impossible size")
    return StorageId(storage_dtype(kind), key, device, count, _part(value[5:]))


def storage_dtype(kind: Any) -> str | None:
    """Return the dtype of a class of storages, None for untyped ones.

    Raises:
        Broken: it is no class of storages.
    """
    if not isinstance(kind, Name) or kind.kind != "storage class":
        raise Broken("the class of a storage is none")
    if kind.value == "UntypedStorage":
        return None
    return kind.value if kind.value in QUANTISED else BY_STORAGE[kind.value].name


def _part(rest: tuple[Any, ...]) -> tuple[str, int, int] | None:
    part = rest[0] if rest else None
    if part is None:
        return None
    if not isinstance(part, tuple) or len(part) != 3 or not isinstance(part[0], str):
        raise Broken("the persistent id of a part of a storage is none")
    if any(type(number) is not int or not 0 <= number <= LONGEST for number in part[1:]):
        raise Broken("a part of a storage has an impossible size")
    return part


def _quantised(dtype: str) -> RefusedEntry:
    return RefusedEntry(
        f"is quantised ({dtype})" if dtype in QUANTISED else f"has the dtype {dtype}"
    )


def _dense(
    builder: Builder, storage: Any, dtype: str | None, view: tuple[Any, Any, Any]
) -> TensorEntry | RefusedEntry:
    """Return the view (offset, shape, strides) of a storage, if it lies in it."""
    if not isinstance(storage, Storage):
        builder.budget.spend(_COST_OF_TENSOR)
        return RefusedEntry("lies in a storage that is not in the file")
    if dtype is None:
        dtype = storage.dtype or "uint8"
    if dtype not in DTYPES:
        return _quantised(dtype)
    offset, shape, strides = view[0], sizes(view[1]), sizes(view[2])
    if type(offset) is not int or not 0 <= offset <= LONGEST or len(strides) != len(shape):
        raise Broken("a tensor's offset or strides do not belong to its shape")
    spec, itemsize = TensorSpec(shape, dtype), DTYPES[dtype].itemsize
    count, last, in_order = _extent(shape, strides)
    builder.budget.spend(_COST_OF_TENSOR + (64 + 8 * len(shape)) * (1 if in_order else 2))
    if count and (offset + last + 1) * itemsize > storage.blob.nbytes:
        raise Broken(
            f"a tensor {spec} reaches to byte {(offset + last + 1) * itemsize} of a storage of"
            f" {storage.blob.nbytes}"
        )
    beyond = count * itemsize - storage.blob.nbytes
    if beyond > 0 and not builder.budget.expand(beyond):
        said, there = count * itemsize, storage.blob.nbytes
        return RefusedEntry(f"declares {said:,} bytes over a storage of {there:,}", spec)
    return TensorEntry(
        spec,
        storage.blob,
        offset,
        None if in_order else strides,
        storage.big_endian and itemsize > 1,
        storage.device,
    )


def _extent(shape: tuple[int, ...], strides: tuple[int, ...]) -> tuple[int, int, bool]:
    """Return the number of elements, the place of the last one, and whether they lie in order."""
    count, last, in_order = 1, 0, True
    for length, stride in zip(reversed(shape), reversed(strides), strict=True):
        if length != 1 and stride != count:
            in_order = False
        last += (length - 1) * stride
        count *= length
    return count, last, in_order or not count


def _finished(entry: TensorEntry | RefusedEntry, requires_grad: Any, metadata: Any) -> Any:
    said = metadata[0] if metadata and isinstance(metadata[0], dict) else {}
    flags = frozenset(flag for flag in ("conj", "neg") if said.get(flag) is True)
    if isinstance(entry, TensorEntry) and (requires_grad is True or flags):
        return replace(entry, requires_grad=requires_grad is True, flags=flags)
    return entry


def _tensor(builder: Builder, storage: Any, offset: Any, shape: Any, strides: Any) -> Any:
    return _dense(builder, storage, None, (offset, shape, strides))


def _tensor_v2(builder: Builder, *values: Any) -> Any:
    """``_rebuild_tensor_v2(storage, offset, size, stride, requires_grad, hooks[, metadata])``."""
    if len(values) not in (6, 7):
        return NotImplemented
    storage, offset, shape, strides, requires_grad = values[:5]
    entry = _dense(builder, storage, None, (offset, shape, strides))
    return _finished(entry, requires_grad, values[6:])


def _tensor_v3(builder: Builder, *values: Any) -> Any:
    """``_rebuild_tensor_v3(…, hooks, dtype[, metadata])``: of storages without a type."""
    if len(values) not in (7, 8):
        return NotImplemented
    storage, offset, shape, strides, requires_grad = values[:5]
    entry = _dense(builder, storage, _dtype(values[6]), (offset, shape, strides))
    return _finished(entry, requires_grad, values[7:])


def _dtype(value: Any) -> str:
    if not isinstance(value, Name) or value.kind != "dtype":
        raise Broken("the dtype of a tensor is none")
    return value.value


def _parameter(builder: Builder, data: Any, requires_grad: Any = True, *_rest: Any) -> Any:
    """``Parameter(data, requires_grad)`` and its rebuilders, which add hooks and a state."""
    if not isinstance(data, TensorEntry):
        return data if isinstance(data, SparseEntry | RefusedEntry) else NotImplemented
    builder.budget.spend(_COST_OF_ENTRY)
    return replace(data, is_parameter=True, requires_grad=bool(requires_grad))


def _variable(_builder: Builder, data: Any, *_rest: Any) -> Any:
    """``torch.autograd.Variable(data)`` of torch before 0.4."""
    return data if isinstance(data, TensorEntry | SparseEntry | RefusedEntry) else NotImplemented


def variable_state(entry: TensorEntry, state: Any) -> TensorEntry:
    """Return a variable of torch before 0.4 with its state: (requires_grad, volatile, hooks)."""
    if isinstance(state, tuple) and len(state) == 3 and isinstance(state[0], bool):
        return replace(entry, requires_grad=state[0])
    return entry


def _sparse(builder: Builder, layout: Any, parts: Any) -> Any:
    """``_rebuild_sparse_tensor(layout, (indices, values, size, is_coalesced))``, or compressed."""
    if not isinstance(layout, Name) or layout.kind != "layout" or not isinstance(parts, tuple):
        raise Broken("the layout of a sparse tensor is none")
    is_coo = layout.value == "sparse_coo"
    names = ("indices", "values") if is_coo else ("compressed", "plain", "values")
    if not len(names) < len(parts) <= len(names) + 1 + is_coo:
        raise Broken(f"a tensor in the layout {layout.value} has {len(parts)} parts")
    tensors = dict(zip(names, parts, strict=False))
    if any(isinstance(part, RefusedEntry) for part in tensors.values()):
        return RefusedEntry("is sparse, with parts that are refused")
    if not all(isinstance(part, TensorEntry) for part in tensors.values()):
        raise Broken("the parts of a sparse tensor are no tensors")
    builder.budget.spend(_COST_OF_TENSOR)
    spec = TensorSpec(sizes(parts[len(names)]), tensors["values"].spec.dtype)
    is_coalesced = is_coo and parts[len(names) + 1 :] == (True,)
    return SparseEntry(spec, layout.value, tensors, is_coalesced)


def _quantised_tensor(builder: Builder, storage: Any, *_rest: Any) -> RefusedEntry:
    builder.budget.spend(_COST_OF_TENSOR)
    what = storage.dtype if isinstance(storage, Storage) else None
    return RefusedEntry(f"is quantised ({what})" if what else "is quantised")


def _nested_tensor(builder: Builder, *_rest: Any) -> RefusedEntry:
    builder.budget.spend(_COST_OF_TENSOR)
    return RefusedEntry("is a nested tensor")


def _meta_tensor(builder: Builder, dtype: Any, shape: Any, *_rest: Any) -> RefusedEntry:
    builder.budget.spend(_COST_OF_TENSOR)
    return RefusedEntry(
        "has no values (it was on the device meta)", TensorSpec(sizes(shape), _dtype(dtype))
    )


def _wrapper(builder: Builder, kind: Any, dtype: Any, shape: Any, *_rest: Any) -> RefusedEntry:
    builder.budget.spend(_COST_OF_TENSOR)
    return RefusedEntry(f"has no values (it is a {kind})", TensorSpec(sizes(shape), _dtype(dtype)))


def _from_numpy(builder: Builder, data: Any, dtype: Any, device: Any, requires_grad: Any) -> Any:
    """Rebuild a tensor of XLA and the like; bfloat16 comes as float32 that holds the same."""
    if not isinstance(data, TensorEntry) or not isinstance(device, str):
        return data if isinstance(data, RefusedEntry) else NotImplemented
    builder.budget.spend(_COST_OF_TENSOR)
    if _dtype(dtype) == "bfloat16" and data.spec.dtype == "float32" and not data.big_endian:
        content = data.blob.view()
        builder.budget.spend(len(content))
        upper = bytearray(len(content) // 2)
        upper[::2], upper[1::2] = content[2::4], content[3::4]
        data = replace(data, spec=TensorSpec(data.spec.shape, "bfloat16"), blob=Inside(upper))
    return replace(data, device=device, requires_grad=requires_grad is True)


def _from_type(builder: Builder, function: Any, _kind: Any, values: Any, _state: Any = None) -> Any:
    """``_rebuild_from_type_v2(function, subclass, arguments, state)``: without the subclass."""
    for _ in range(DEEPEST_CALL):
        if MAKERS.get(function) is not _from_type or not isinstance(values, tuple):
            break
        if len(values) not in (3, 4):
            return NotImplemented
        function, _kind, values = values[:3]
    if not isinstance(function, Global) or not isinstance(values, tuple):
        return NotImplemented
    made = call(builder, function, values)
    return NotImplemented if isinstance(made, Record) else made


def inner_file(builder: Builder, content: Any) -> Any:
    """``torch.storage._load_from_bytes(content)``: a whole torch file."""
    if not isinstance(content, bytes | bytearray | memoryview):
        return NotImplemented
    archive = open_inside(memoryview(content), builder.budget)
    for reference, is_called in archive.globals:
        builder.called[reference] = builder.called.get(reference, False) or is_called
    return archive.content


def _device(builder: Builder, kind: Any, index: Any = None) -> Any:
    builder.budget.spend(150)
    if not isinstance(kind, str) or not isinstance(index, int | None):
        return NotImplemented
    return Name("device", kind if index is None else f"{kind}:{index}")


def _layout(_builder: Builder, name: Any) -> Any:
    if not isinstance(name, str):
        return NotImplemented
    return torch_names.NAMES.get(name.removeprefix("torch."), NotImplemented)


DEEPEST_CALL = 16
_U = "torch._utils"
MAKERS: dict[Global, Maker] = {
    **containers.MAKERS,
    **arrays.MAKERS,
    Global(_U, "_rebuild_tensor"): _tensor,
    Global(_U, "_rebuild_tensor_v2"): _tensor_v2,
    Global(_U, "_rebuild_tensor_v3"): _tensor_v3,
    Global(_U, "_rebuild_parameter"): _parameter,
    Global(_U, "_rebuild_parameter_with_state"): _parameter,
    Global("torch.nn.parameter", "Parameter"): _parameter,
    Global("torch.autograd.variable", "Variable"): _variable,
    Global(_U, "_rebuild_sparse_tensor"): _sparse,
    Global(_U, "_rebuild_sparse_csr_tensor"): _sparse,
    Global(_U, "_rebuild_qtensor"): _quantised_tensor,
    Global(_U, "_rebuild_nested_tensor"): _nested_tensor,
    Global(_U, "_rebuild_meta_tensor_no_storage"): _meta_tensor,
    Global(_U, "_rebuild_wrapper_subclass"): _wrapper,
    Global(_U, "_rebuild_device_tensor_from_numpy"): _from_numpy,
    Global(_U, "_rebuild_device_tensor_from_cpu_tensor"): _from_numpy,
    Global(_U, "_rebuild_xla_tensor"): _from_numpy,
    Global(_U, "_rebuild_mlc_tensor"): _from_numpy,
    Global("torch._tensor", "_rebuild_from_type_v2"): _from_type,
    Global("torch._tensor", "_rebuild_from_type"): _from_type,
    Global("torch.tensor", "_rebuild_from_type"): _from_type,
    Global("torch.storage", "_load_from_bytes"): inner_file,
    Global("torch", "device"): _device,
    Global("torch.serialization", "_get_layout"): _layout,
}


@dataclass(frozen=True, slots=True)
class Known:
    """A function of the table.

    Attributes:
        make: does what it does.
        least: how many arguments it takes; with another number, a call stays a Record.
        most: likewise.
        forgets: nothing that it is called with lives on in what it gives, but shapes and strides.
    """

    make: Maker
    least: int
    most: int
    forgets: bool


def _known(function: Global, make: Maker) -> Known:
    code, takes_any = make.__code__, 4
    most = code.co_argcount - 1
    least = most - len(make.__defaults__ or ())
    return Known(
        make, least, 1000 if code.co_flags & takes_any else most, function.name in _FORGETS
    )


_FORGETS = frozenset(("_rebuild_tensor", "_rebuild_tensor_v2", "_rebuild_tensor_v3"))
KNOWN = {function: _known(function, make) for function, make in MAKERS.items()}
# Classes that pickles call as functions, whose instances are plain data.
_CLASSES = frozenset(
    Global(module, name)
    for module, names in (
        ("pathlib", "Path PosixPath WindowsPath PurePath PurePosixPath PureWindowsPath"),
        ("pathlib._local", "Path PosixPath WindowsPath PurePath PurePosixPath PureWindowsPath"),
        ("datetime", "datetime date time timedelta timezone"),
        ("decimal", "Decimal"),
        ("fractions", "Fraction"),
        ("uuid", "UUID"),
        ("types", "SimpleNamespace MappingProxyType"),
        ("argparse", "Namespace"),
        ("zoneinfo", "ZoneInfo"),
    )
    for name in names.split()
)


def call(builder: Builder, function: Global, values: tuple[Any, ...]) -> Any:
    """Return what a call gives: from the table, or a Record of it.

    Raises:
        Broken: the arguments contradict each other.
    """
    known = KNOWN.get(function)
    if known is not None and known.least <= len(values) <= known.most:
        made = known.make(builder, *values)
        if made is not NotImplemented:
            return made
    return record(builder, function, values, is_call=True)


def record(
    builder: Builder,
    made_by: Any,
    values: tuple[Any, ...],
    keywords: Mapping[str, Any] | None = None,
    is_call: bool = False,
) -> Record:
    """Return the Record of a call or an instance that is not in the table."""
    builder.budget.spend(COST_OF_RECORD)
    if isinstance(made_by, Name):
        made_by = Global("torch", made_by.value)
    if not isinstance(made_by, Global):
        made_by, values, is_call = CALLED, (made_by, *values), True
    return Record(made_by, values, keywords or {}, is_call and made_by not in _CLASSES)
