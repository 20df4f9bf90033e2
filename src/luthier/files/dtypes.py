"""The dtypes of tensors: one table for every format. No torch here.

A dtype is known by torch's name of it, such as ``"bfloat16"``.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Dtype:
    """What formats call a dtype.

    Attributes:
        name: torch's.
        itemsize: bytes of an element.
        safetensors: that format's code; None where it has none.
        numpy: numpy's, without the byte order; None where numpy has none.
        storage: torch's class of typed storages, as old files name it; None where it has none.
    """

    name: str
    itemsize: int
    safetensors: str | None
    numpy: str | None
    storage: str | None


DTYPES = {
    dtype.name: dtype
    for dtype in (
        Dtype("float64", 8, "F64", "f8", "DoubleStorage"),
        Dtype("float32", 4, "F32", "f4", "FloatStorage"),
        Dtype("float16", 2, "F16", "f2", "HalfStorage"),
        Dtype("bfloat16", 2, "BF16", None, "BFloat16Storage"),
        Dtype("float8_e4m3fn", 1, "F8_E4M3", None, None),
        Dtype("float8_e5m2", 1, "F8_E5M2", None, None),
        Dtype("float8_e4m3fnuz", 1, "F8_E4M3FNUZ", None, None),
        Dtype("float8_e5m2fnuz", 1, "F8_E5M2FNUZ", None, None),
        Dtype("float8_e8m0fnu", 1, "F8_E8M0", None, None),
        Dtype("complex32", 4, None, None, None),
        Dtype("complex64", 8, "C64", "c8", "ComplexFloatStorage"),
        Dtype("complex128", 16, None, "c16", "ComplexDoubleStorage"),
        Dtype("int64", 8, "I64", "i8", "LongStorage"),
        Dtype("int32", 4, "I32", "i4", "IntStorage"),
        Dtype("int16", 2, "I16", "i2", "ShortStorage"),
        Dtype("int8", 1, "I8", "i1", "CharStorage"),
        Dtype("uint64", 8, "U64", "u8", None),
        Dtype("uint32", 4, "U32", "u4", None),
        Dtype("uint16", 2, "U16", "u2", None),
        Dtype("uint8", 1, "U8", "u1", "ByteStorage"),
        Dtype("bool", 1, "BOOL", "b1", "BoolStorage"),
    )
}
BY_SAFETENSORS = {d.safetensors: d for d in DTYPES.values() if d.safetensors}
BY_NUMPY = {d.numpy: d for d in DTYPES.values() if d.numpy}
BY_STORAGE = {d.storage: d for d in DTYPES.values() if d.storage}
# Quantised storages are named so that they can be refused by name.
QUANTISED = frozenset(
    {"QInt8Storage", "QUInt8Storage", "QInt32Storage", "QUInt4x2Storage", "QUInt2x4Storage"}
)
