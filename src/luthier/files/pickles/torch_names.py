"""References of pickles that stand for a value of torch: dtypes, layouts, classes of storages."""

from __future__ import annotations

from luthier.files.dtypes import BY_STORAGE, DTYPES, QUANTISED
from luthier.files.entries import Global, Name

_SHORT = {
    "float": "float32",
    "double": "float64",
    "half": "float16",
    "cfloat": "complex64",
    "cdouble": "complex128",
    "chalf": "complex32",
    "int": "int32",
    "long": "int64",
    "short": "int16",
}
_QUANTISED_DTYPES = ["qint8", "quint8", "qint32", "quint4x2", "quint2x4"]
_SPARSE = ("coo", "csr", "csc", "bsr", "bsc")
_SCHEMES = [
    f"per_{what}_{how}" for what in ("tensor", "channel") for how in ("affine", "symmetric")
]
_VALUES = {
    "dtype": [*DTYPES, *_QUANTISED_DTYPES],
    "layout": ["strided", "jagged", *(f"sparse_{kind}" for kind in _SPARSE)],
    "memory_format": ["contiguous_format", "preserve_format", "channels_last", "channels_last_3d"],
    "qscheme": ["per_channel_affine_float_qparams", *_SCHEMES],
    "storage class": [*BY_STORAGE, *QUANTISED, "UntypedStorage"],
}
NAMES = {value: Name(kind, value) for kind, values in _VALUES.items() for value in values} | {
    short: Name("dtype", value) for short, value in _SHORT.items()
}
_UNTYPED = ("UntypedStorage", "_UntypedStorage")


def named(reference: Global) -> Global | Name:
    """Return the value of torch that a reference stands for, else the reference."""
    if reference.module in ("torch", "torch.cuda"):
        return NAMES.get(reference.name, reference)
    if reference.module == "torch.storage" and reference.name in _UNTYPED:
        return Name("storage class", "UntypedStorage")
    return reference
