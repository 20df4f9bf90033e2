"""A temperature goes into a model file, beside what the file says of itself already."""

from __future__ import annotations

from pathlib import Path

from luthier.errors import UnsupportedFileError
from luthier.files import tensors, writing
from luthier.files.opening import open_archive
from luthier.weights.save import refusals, stored_of


def check_can_hold_temperature(path: Path) -> None:
    """Raise UnsupportedFileError where a model is not one file."""
    if not path.is_file() or path.suffix != ".safetensors":
        raise UnsupportedFileError(
            f"{path} cannot be given a temperature: it is no single .safetensors file",
            cure="make it one first: luthier convert",
        )


def write_temperature(path: Path, temperature: float) -> None:
    """Let a model file name a temperature; it is replaced in one step.

    Every tensor keeps its bytes, and the rest of the description stays as it is.

    Raises:
        CannotWriteError: the disk is full or refuses; the file is as it was.
    """
    archive = open_archive(path)
    stored = stored_of(tensors.weights(archive))
    with refusals(path, stored.nbytes):
        writing.write(path, stored, {**archive.metadata, "temperature": temperature})
