"""Open any weights file: what it is, is told by its content and never by its name. No torch here."""

from __future__ import annotations

import importlib
from pathlib import Path

from luthier.errors import DamagedError, UnsupportedFileError
from luthier.files.entries import Archive
from luthier.files.mapped import MappedFile


def open_archive(path: Path) -> Archive:
    """Open a file, or a folder of files that belong together, without running anything in it.

    Tensors stay on the disk until they are asked for.

    Raises:
        UnsupportedFileError: it does not exist, or is of a kind that luthier does not read.
        DamagedError: it is truncated or contradicts itself.
    """
    if not path.exists():
        raise UnsupportedFileError(f"weights file {path} does not exist")
    file = MappedFile(path)
    head = file.read(0, min(file.size, 64))
    if not head:
        raise DamagedError(f"weights file {path} is empty")
    archive: Archive = importlib.import_module(_reader_of(path, head)).read(file)
    return archive


def _reader_of(path: Path, head: bytes) -> str:
    formats = "luthier.files.formats"
    if head[8:9] == b"{":
        return f"{formats}.safetensors"
    if head[:4] == b"PK\x03\x04":
        return f"{formats}.torch_zip"
    if head[:1] == b"\x80":
        return f"{formats}.torch_legacy"
    raise UnsupportedFileError(f"{path} is no weights file: it begins with {head[:8]!r}")
