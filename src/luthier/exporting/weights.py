"""The weights alone: safetensors with their description, or a plain state_dict."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path

import torch

from luthier.exporting.subject import Opened, Subject
from luthier.files import durable, tensors, writing
from luthier.files.contents.candidates import contents
from luthier.files.entries import TensorEntry
from luthier.files.opening import open_archive


def write_safetensors(subject: Subject, path: Path, _: bool = False) -> None:
    """Write weights and description; the bits are those of the model's file."""
    durable.write_chunks(path, writing.chunks("safetensors", _stored(subject), subject.about))


def write_torch(subject: Subject, path: Path, _: bool = False) -> None:
    """Write a plain state_dict."""
    durable.write_chunks(path, writing.chunks("torch", _stored(subject)))


def _stored(subject: Subject) -> writing.Stored:
    return writing.stored({n: writing.source_of(n, t) for n, t in subject.state.items()})


def opened(subject: Subject, path: Path, _: bool = False) -> Opened:
    """Put what was written into a copy of the model."""
    model = copy.deepcopy(subject.model)
    with torch.no_grad():
        for tensor in model.state_dict().values():
            tensor.zero_()  # a tensor that is not there shows
    model.load_state_dict(_read(path))
    return Opened(scores=model)


def _read(path: Path) -> Mapping[str, torch.Tensor]:
    entries = contents(open_archive(path)).candidates[0].entries
    return {n: tensors.tensor(e, n) for n, e in entries.items() if isinstance(e, TensorEntry)}
