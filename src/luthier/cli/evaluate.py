"""``luthier evaluate MODEL DATA``."""

from __future__ import annotations

import argparse
import json

from luthier.cli.predict import MODEL, add_predictor_flags, predictor_settings


def add(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("file", metavar="MODEL", help=MODEL)
    parser.add_argument("data", metavar="DATA", help="labelled images, as finetune takes them")
    parser.add_argument(
        "--split",
        metavar="train|val|all",
        help="which images [val where the data has a split, or the run has made one; else all]",
    )
    parser.add_argument("--against", metavar="OTHER", help="another model, on the same images")
    parser.add_argument(
        "--calibrate",
        action="store_true",
        help="fit a temperature to these images and write it into MODEL",
    )
    parser.add_argument("--json", action="store_true", help="print everything as one JSON object")
    add_predictor_flags(parser)


def run(arguments: argparse.Namespace) -> int:
    """Print how good the model is; 1 if an image cannot be read."""
    from luthier.handover.evaluate import evaluate  # noqa: PLC0415 - torch comes with it

    found = evaluate(
        arguments.file,
        arguments.data,
        split=arguments.split,
        calibrate=arguments.calibrate,
        against=arguments.against,
        **predictor_settings(arguments),
    )
    print(json.dumps(found.as_dict()) if arguments.json else found)
    return 1 if found.unreadable else 0
