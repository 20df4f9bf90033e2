"""``torch.export``: a program that torch runs without the model's code."""

from __future__ import annotations

import io
import warnings
from pathlib import Path

import torch

from luthier.exporting import graph
from luthier.exporting.subject import Opened, Subject
from luthier.files import durable
from luthier.files.layout import METADATA_KEY


def write(subject: Subject, path: Path, with_preprocessing: bool) -> None:
    """Write the program, with its description among the extra files.

    Raises:
        ModelError: see ``graph.program``. OSError: the disk refuses.
    """
    made = graph.program(subject, with_preprocessing)
    made.example_inputs = None  # zeros, and the only pickle in the file
    content = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.export.save(made, content, extra_files={METADATA_KEY: subject.about_json})
    durable.write_bytes(path, content.getbuffer())


def opened(_: Subject, path: Path, with_preprocessing: bool) -> Opened:
    """Load what was written, as its user will."""
    with path.open("rb") as file, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        call = torch.export.load(io.BytesIO(file.read())).module()
    return graph.opened(call, with_preprocessing)
