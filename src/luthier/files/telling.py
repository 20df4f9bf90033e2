"""Tell what a file is by its content, never by its name. No torch here.

What luthier does not read is named, with what to do about it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from luthier.errors import DamagedError, UnsupportedFileError
from luthier.files.formats.safetensors import LONGEST_HEADER
from luthier.files.limits import Budget
from luthier.files.mapped import MappedFile
from luthier.files.parsing.zips import Zip
from luthier.files.wording import plain, some

HEAD = 2048  # bytes that are looked at
_READ = {
    b"\x93NUMPY": "numpy",
    b"GGUF": "gguf",
    b"L119547037146038801333356L": "torch_legacy",  # torch's magic number, by protocols 0 and 1
    b"\x89HDF\r\n\x1a\n": "hdf5",
}
_PACKED = {
    b"\x1f\x8b": ("gzip", "gunzip"),
    b"\x28\xb5\x2f\xfd": ("zstandard", "unzstd"),
    b"\xfd7zXZ\x00": ("xz", "unxz"),
    b"BZh": ("bzip2", "bunzip2"),
    b"\x04\x22\x4d\x18": ("lz4", "unlz4"),
    b"7z\xbc\xaf\x27\x1c": ("7-Zip", "7z x"),
    b"Rar!": ("RAR", "unrar x"),
}
_CONVERT_GGML = "convert it to GGUF with the scripts of llama.cpp"
_EXPORT = (
    "luthier reads the weights of PyTorch models: save them as safetensors from where it is from"
)
_OTHERS = {
    b"lmgg": ("a GGML file, from before GGUF", _CONVERT_GGML),
    b"fmgg": ("a GGML file, from before GGUF", _CONVERT_GGML),
    b"tjgg": ("a GGML file, from before GGUF", _CONVERT_GGML),
    b"\x89PNG": ("a PNG image", "give a file of weights"),
    b"\xff\xd8\xff": ("a JPEG image", "give a file of weights"),
    b"%PDF": ("a PDF document", "give a file of weights"),
    b"\x7fELF": ("a program", "give a file of weights"),
    b"SQLite format 3": ("an SQLite database", "give a file of weights"),
    b"\x08\x01\x12": ("a SavedModel of TensorFlow", _EXPORT),
}
_OLD_TORCH = {b"sys_info", b"pickle", b"storages", b"tensors"}  # in the tar files before torch 0.4
_FETCH = "fetch it again, with the login that the place may ask for"


def format_of(file: MappedFile) -> str:
    """Return the name of the module in ``files.formats`` that reads a file.

    Raises:
        UnsupportedFileError: luthier reads no such files; what it is and what to do is said.
        DamagedError: it is empty, or filled with zeros.
    """
    head = file.read(0, min(file.size, HEAD))
    if not head.strip(b"\0"):
        what = (
            f"holds nothing but zeros at its beginning, of {file.size} bytes"
            if head
            else "is empty"
        )
        raise DamagedError(f"weights file {file.path} {what}", cure=_FETCH)
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= LONGEST_HEADER:
        return "safetensors"  # before all others: the length may look like their signatures
    if head[:4] == b"PK\x03\x04" or head[:4] == b"PK\x05\x06":
        return _zip_format(file)
    if head[:1] == b"\x80" and head[1:2] < b"\x10":
        return "torch_legacy"  # a pickle, with its protocol
    found = next((name for start, name in _READ.items() if head.startswith(start)), None)
    if found is not None:
        return found
    if head[8:9] == b"{" and not _is_text(head):
        return "safetensors"
    _refuse_others(file, head)
    return _less_certain(file, head)


def _less_certain(file: MappedFile, head: bytes) -> str:
    """Tell the formats without a signature of their own."""
    if head[257:262] == b"ustar":
        # The first file's name is at the beginning, or behind a header of its attributes.
        names = {head[at : at + 100].split(b"\0")[0].lstrip(b"./") for at in range(0, HEAD, 512)}
        if names & _OLD_TORCH:
            return "torch_legacy"
        raise _packed(file, "a tar archive", "tar -xf")
    if _may_be_onnx(head):
        return "onnx"
    if head[:1] in (b"(", b"c", b"}", b"]") and file.read(file.size - 1, 1) == b".":
        return "torch_legacy"  # a pickle of protocol 0 or 1
    if _is_text(head):
        return _text_format(file, head)
    raise UnsupportedFileError(
        f"{file.path} is no weights file: it begins with {head[:8]!r}",
        cure="luthier reads safetensors, PyTorch, NumPy, ONNX, GGUF and HDF5 files",
    )


def _refuse_others(file: MappedFile, head: bytes) -> None:
    for start, (what, how) in _PACKED.items():
        if head.startswith(start):
            raise _packed(file, f"compressed with {what}", how)
    for start, (what, cure) in _OTHERS.items():
        if head.startswith(start):
            raise UnsupportedFileError(f"{file.path} is {what}, no weights file", cure=cure)
    if head[4:8] == b"TFL3":
        raise UnsupportedFileError(f"{file.path} is a model of TensorFlow Lite", cure=_EXPORT)


def _packed(file: MappedFile, what: str, how: str) -> UnsupportedFileError:
    return UnsupportedFileError(
        f"{file.path} is {what}", cure=f"unpack it first: {how} {file.path}"
    )


def _is_text(head: bytes) -> bool:
    try:
        text = head.decode("utf-8")
    except UnicodeDecodeError as error:
        if len(head) < HEAD or error.start < len(head) - 3:  # else a character is cut
            return False
        text = head[: error.start].decode("utf-8")
    return not re.search(r"[\x00-\x08\x0e-\x1a\x1c-\x1f]", text)


def _text_format(file: MappedFile, head: bytes) -> str:
    start = head.lstrip(b"\xef\xbb\xbf \t\r\n")
    if start.startswith(b"version https://git-lfs"):
        raise UnsupportedFileError(
            f"{file.path} is a pointer of Git LFS: the file itself was not fetched",
            cure="run `git lfs pull` in the repository that it is from",
        )
    if re.match(rb"(?i)<!doctype html|<html|<\?xml|<head", start):
        raise UnsupportedFileError(
            f"{file.path} is a web page: the place gave it in place of the file", cure=_FETCH
        )
    if start[:1] == b"{":
        return "sharded"  # an index of shards, or JSON that it refuses
    line = start.split(b"\n")[0][:60].decode("utf-8", "replace").strip()
    raise UnsupportedFileError(f"{file.path} is text, no weights file: it begins with {line!r}")


def _may_be_onnx(head: bytes) -> bool:
    # A ModelProto begins with its version of the format, and the field behind it is a text, a
    # number or a message of ModelProto.
    return re.match(rb"\x08[\x02-\x3f][\x12\x1a\x22\x28\x32\x3a\x42]", head) is not None


def _zip_format(file: MappedFile) -> str:
    names = Zip(file, Budget.of_size(file.size, str(file.path))).members.keys()
    inner = {name.partition("/")[2] for name in names}
    if {"archive_format", "serialized_exported_program.json"} & (inner | names):
        return "exported"
    if "constants.pkl" in inner:
        return "torchscript"
    if "data.pkl" in inner:
        return "torch_zip"
    if names and all(name.endswith(".npy") for name in names):
        return "numpy"
    raise UnsupportedFileError(
        f"{file.path} is a zip archive, but none that luthier knows: it holds {_some(names)}",
        cure=f"if weights lie in it, unpack it first: unzip {file.path}",
    )


def _some(names: Iterable[str]) -> str:
    known = sorted(names)
    return some((plain(name, 60) for name in known), len(known), 3) or "nothing"
