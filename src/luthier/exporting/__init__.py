"""A model → what other programs load: ONNX, torch.export, timm, transformers, plain weights."""

from luthier.exporting.checking import Agreement, Check, check
from luthier.exporting.formats import FORMATS, Format, format_of
from luthier.exporting.subject import Opened, Subject

__all__ = ["FORMATS", "Agreement", "Check", "Format", "Opened", "Subject", "check", "format_of"]
