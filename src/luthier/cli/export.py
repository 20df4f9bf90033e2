"""``luthier export MODEL OUT``."""

from __future__ import annotations

import argparse
import json


def add(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("file", metavar="MODEL", help="a model file of luthier, or a run's folder")
    parser.add_argument(
        "out",
        metavar="OUT",
        help="NAME.onnx, .pt2, .safetensors or .pt; a new folder for timm and hf",
    )
    parser.add_argument(
        "--to",
        metavar="FORMAT",
        help="onnx, pt2 (torch.export), safetensors, pt, timm, hf (transformers) [by the suffix]",
    )
    parser.add_argument(
        "--with-preprocessing",
        action="store_true",
        help="let the graph take uint8 photos of any size (onnx, pt2)",
    )
    parser.add_argument(
        "--check",
        metavar="PATH",
        nargs="+",
        default=[],
        help="images or folders to compare on [validation images of the model's run]",
    )
    parser.add_argument(
        "--card", metavar="PATH", help="write a model card there (timm and hf: always, inside)"
    )
    parser.add_argument(
        "--model", metavar="NAME", help="of a model of your own: package.module:callable"
    )
    parser.add_argument("--force", action="store_true", help="replace OUT if it is a file")
    parser.add_argument("--json", action="store_true", help="print what was done as JSON")


def run(arguments: argparse.Namespace) -> int:
    """Export, and print what was written and how far it is from the model."""
    from luthier.handover.export import export  # noqa: PLC0415 - torch comes with it

    exported = export(
        arguments.file,
        arguments.out,
        to=arguments.to,
        with_preprocessing=arguments.with_preprocessing,
        check=arguments.check,
        card=arguments.card,
        model=arguments.model,
        force=arguments.force,
    )
    print(json.dumps(exported.as_dict()) if arguments.json else exported)
    return 0
