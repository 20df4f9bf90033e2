"""``luthier predict MODEL IMAGE``."""

from __future__ import annotations

import argparse
import csv
import io
import json
import os
import sys
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from luthier.errors import RecipeError
from luthier.values import Prediction, Unreadable

if TYPE_CHECKING:
    from luthier.handover.predict import Predictor

MODEL = "a model file of luthier, or the folder of a run"


def add(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("file", metavar="MODEL", help=MODEL)
    parser.add_argument(
        "images",
        metavar="IMAGE",
        nargs="+",
        help="a file, a folder, a pattern such as 'a/**/*.jpg', or - for paths on standard input",
    )
    parser.add_argument("--top", type=int, default=5, metavar="K", help="classes an image [5]")
    many = parser.add_mutually_exclusive_group()
    many.add_argument("--json", action="store_true", help="print one JSON object")
    many.add_argument("--csv", action="store_true", help="print image,rank,class,probability")
    parser.add_argument(
        "--null", action="store_true", help="paths on standard input end in NUL (find -print0)"
    )
    add_predictor_flags(parser)


def add_predictor_flags(parser: argparse.ArgumentParser) -> None:
    """Declare what says how a model file is used."""
    parser.add_argument(
        "--model",
        metavar="NAME",
        help="package.module:callable that makes a model of your own; a file is not believed which",
    )
    parser.add_argument(
        "--device", default="auto", metavar="NAME", help="auto, cpu, cuda, cuda:N or mps [auto]"
    )
    parser.add_argument(
        "--precision", metavar="fp32|bf16", help="[that of the validation, if the file says it]"
    )
    parser.add_argument(
        "--batch-size", type=int, default=16, metavar="N", help="images at once [16]"
    )
    parser.add_argument(
        "--tta",
        default="none",
        metavar="none|flip|ten-crop",
        help="mean probability of several views: of the image and its mirror image, or of the"
        " centre, the corners and the mirror images of all five [none]",
    )
    parser.add_argument(
        "--no-temperature",
        dest="temperature",
        action="store_false",
        help="do not divide scores by the temperature in the file",
    )


def predictor_settings(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return what the flags ask for, as ``luthier.Predictor`` takes it."""
    names = ("model", "device", "precision", "batch_size", "tta", "temperature")
    return {name: getattr(arguments, name) for name in names}


def run(arguments: argparse.Namespace) -> int:
    """Print what the model says of each image; 1 if one cannot be read."""
    if arguments.top < 1:
        raise RecipeError(f"--top {arguments.top}: expected 1 or more")
    if arguments.null and "-" not in arguments.images:
        raise RecipeError(
            "--null has no effect without - among the images, which stands for standard input"
        )
    # Names of files that are no text go out as they came in.
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="surrogateescape")
    from luthier.data.finding import find_photos  # noqa: PLC0415 - torch comes with it
    from luthier.handover.predict import Predictor  # noqa: PLC0415

    words = [[w] if w == "-" else find_photos(w) for w in arguments.images]
    with Predictor(arguments.file, **predictor_settings(arguments)) as predictor:
        print(predictor, file=sys.stderr)
        unreadable: list[Unreadable] = []
        paths = _paths(words, b"\0" if arguments.null else b"\n")
        found = _readable(predictor.stream(paths), unreadable)
        if arguments.json:
            _print_json(predictor, found, unreadable, arguments.top)
        elif arguments.csv:
            _print_csv(found, arguments.top)
        else:
            _print_lines(found, arguments.top)
    return 1 if unreadable else 0


def _paths(words: Iterable[list[str]], end: bytes) -> Iterator[str]:
    for paths in words:
        if paths == ["-"]:
            yield from _read_paths(end)
        else:
            yield from paths


def _read_paths(end: bytes) -> Iterator[str]:
    rest = b""
    while piece := os.read(sys.stdin.fileno(), 1 << 16):
        *paths, rest = (rest + piece).split(end)
        yield from (os.fsdecode(path) for path in paths if path)
    if rest:
        yield os.fsdecode(rest)


def _readable(
    found: Iterable[Prediction | Unreadable], unreadable: list[Unreadable]
) -> Iterator[Prediction]:
    """Give the predictions, and say of every other image why there is none."""
    for one in found:
        if isinstance(one, Unreadable):
            print(f"luthier: {one.image} cannot be read: {one.reason}", file=sys.stderr)
            unreadable.append(one)
        else:
            yield one


def _print_lines(found: Iterable[Prediction], top: int) -> None:
    for one in found:
        best = ", ".join(f"{name} {100 * value:.2f} %" for name, value in one.ranked[:top])
        print(f"{one.image}  {best}", flush=True)


def _print_csv(found: Iterable[Prediction], top: int) -> None:
    rows = csv.writer(sys.stdout, lineterminator="\n")
    rows.writerow(("image", "rank", "class", "probability"))
    for one in found:
        for rank, (name, value) in enumerate(one.ranked[:top], start=1):
            rows.writerow((one.image, rank, name, value))
        sys.stdout.flush()


def _print_json(
    predictor: Predictor, found: Iterable[Prediction], unreadable: list[Unreadable], top: int
) -> None:
    images = [
        {
            "image": one.image,
            "predictions": [{"class": n, "probability": value} for n, value in one.ranked[:top]],
        }
        for one in found
    ]
    told = {
        "model": str(predictor.path),
        "classes": list(predictor.classes),
        "temperature": predictor.temperature,
        "tta": predictor.tta,
        "images": images,
        "unreadable": [asdict(one) for one in unreadable],
    }
    print(json.dumps(told))
