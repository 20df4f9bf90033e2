"""The formats by name, and which of them is meant."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from luthier.errors import RecipeError, UnsupportedFileError, nearest
from luthier.exporting import hf, onnx, pt2, timm, weights
from luthier.exporting.subject import Opened, Subject


@dataclass(frozen=True)
class Format:
    """How a format is written, and read by the program that it is for.

    Attributes:
        name: of ``--to``.
        suffixes: of its files; () of a folder.
        write: (subject, place, whether preprocessing is in it); the place is new, or an empty
            folder.
        opened: loads it, of the same.
        takes_preprocessing: whether preprocessing can be in the graph.
    """

    name: str
    suffixes: tuple[str, ...]
    write: Callable[[Subject, Path, bool], None]
    opened: Callable[[Subject, Path, bool], Opened]
    takes_preprocessing: bool = False

    @property
    def is_folder(self) -> bool:
        """Whether it is a folder of files."""
        return not self.suffixes


_ALL = (
    Format("onnx", (".onnx",), onnx.write, onnx.opened, takes_preprocessing=True),
    Format("pt2", (".pt2",), pt2.write, pt2.opened, takes_preprocessing=True),
    Format("safetensors", (".safetensors",), weights.write_safetensors, weights.opened),
    Format("pt", (".pt", ".pth", ".bin"), weights.write_torch, weights.opened),
    Format("timm", (), timm.write, timm.opened),
    Format("hf", (), hf.write, hf.opened),
)
FORMATS = {one.name: one for one in _ALL}


def format_of(out: Path, to: str | None) -> Format:
    """Return the format that is meant by ``--to``, or else by the suffix.

    Raises:
        RecipeError: there is none of that name, or the suffix is another format's.
        UnsupportedFileError: nothing says which.
    """
    by_suffix = next((one for one in _ALL if out.suffix in one.suffixes), None)
    known = ", ".join(FORMATS)
    if to is None:
        if by_suffix is None:
            raise UnsupportedFileError(
                f"the name {out} does not say what is to be written", cure=f"give --to: {known}"
            )
        return by_suffix
    if to not in FORMATS:
        raise RecipeError(f"--to {to} is no format{nearest(to, FORMATS)}", cure=f"known: {known}")
    found = FORMATS[to]
    if by_suffix not in (None, found):
        raise RecipeError(
            f"--to {to} and the name {out} contradict each other",
            cure=f"name it NAME{found.suffixes[0]}" if found.suffixes else "name a new folder",
        )
    return found
