"""ONNX, by torch's exporter; run by onnxruntime."""

from __future__ import annotations

import contextlib
import importlib
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from luthier.errors import ModelError, missing_extra
from luthier.exporting import graph
from luthier.exporting.subject import Opened, Subject
from luthier.files import durable
from luthier.files.layout import METADATA_KEY

_LARGEST = 2_000_000_000  # a little less than what a protobuf message may have


def write(subject: Subject, path: Path, with_preprocessing: bool) -> None:
    """Write one file, with the model's description in its ``metadata_props``.

    Raises:
        MissingExtraError: onnx, onnxscript or onnxruntime is not installed.
        ModelError: the model is no graph, has an operator that ONNX lacks, or is too large.
        OSError: the disk refuses.
    """
    for package in ("onnx", "onnxscript", "onnxruntime"):
        _needed(package)
    nbytes = sum(tensor.nbytes for tensor in subject.model.state_dict().values())
    if nbytes > _LARGEST:
        raise ModelError(
            f"the weights take {nbytes / 1e9:.1f} GB, and an ONNX file holds 2 GB at most",
            cure="use --to pt2",
        )
    made = graph.program(subject, with_preprocessing)
    durable.write_bytes(path, _content(made, subject, with_preprocessing))


def _content(
    made: torch.export.ExportedProgram, subject: Subject, with_preprocessing: bool
) -> bytes:
    name = graph.PHOTO_INPUT if with_preprocessing else graph.FLOAT_INPUT
    try:
        with _quiet():
            converted = torch.onnx.export(
                made, dynamo=True, input_names=[name], output_names=[graph.OUTPUT], verbose=False
            )
    except Exception as error:  # torch has many kinds
        reason = (str(error).strip().splitlines() or [""])[0]
        raise ModelError(
            f"{type(subject.model).__name__} cannot be written as ONNX: {reason:.300}",
            cure="use --to pt2, which has all of torch's operators",
        ) from error
    assert converted is not None  # noqa: S101 - with dynamo it is a program
    proto: Any = converted.model_proto
    _tidy(proto, ["batch", "height", "width"] if with_preprocessing else ["batch"])
    proto.metadata_props.add(key=METADATA_KEY, value=subject.about_json)
    content: bytes = proto.SerializeToString(deterministic=True)
    return content


def _tidy(proto: Any, names: list[str]) -> None:
    """Name the input's dynamic dimensions, and drop notes of how the graph came to be."""
    given = proto.graph.input[0].type.tensor_type.shape.dim
    dynamic = [d.dim_param for d in given if d.dim_param]
    known = dict(zip(dynamic, names, strict=True))
    values = (*proto.graph.input, *proto.graph.output, *proto.graph.value_info)
    for value in values:
        del value.metadata_props[:]
        for dimension in value.type.tensor_type.shape.dim:
            if dimension.dim_param:
                dimension.dim_param = known.get(dimension.dim_param, dimension.dim_param)
    for owner in (proto, proto.graph, *proto.graph.node, *proto.graph.initializer):
        with contextlib.suppress(AttributeError):  # older files have none
            del owner.metadata_props[:]
    for node in proto.graph.node:
        node.doc_string = ""


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Let the exporter warn of nothing: whether it went well is what the check says."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def opened(_: Subject, path: Path, with_preprocessing: bool) -> Opened:
    """Load what was written with onnxruntime, on the CPU."""
    runtime = _needed("onnxruntime")
    settings = runtime.SessionOptions()
    settings.log_severity_level = 3
    session = runtime.InferenceSession(str(path), settings, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name

    def call(batch: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy(session.run(None, {name: batch.contiguous().numpy()})[0])

    return graph.opened(call, with_preprocessing)


def _needed(package: str) -> ModuleType:
    try:
        return importlib.import_module(package)
    except ModuleNotFoundError:
        raise missing_extra(package, "onnx", "ONNX") from None
