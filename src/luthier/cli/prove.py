"""``luthier prove DATA`` and ``luthier prove -- COMMAND``."""

from __future__ import annotations

import argparse
import json

from luthier.cli.finetune import add_recipe_flags
from luthier.recipe import ENTRIES


def add(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments: those of ``finetune``, or a command after ``--``."""
    parser.usage = (
        "luthier prove [--kills N] [--out FOLDER] [--json] DATA [--FLAG VALUE ...]\n"
        "       luthier prove [--kills N] [--out FOLDER] [--json] -- COMMAND ..."
    )
    parser.add_argument("data", metavar="DATA", nargs="?", help=ENTRIES["data"].knob.help)
    parser.add_argument("--kills", type=int, default=5, metavar="N", help="kills at random [5]")
    parser.add_argument("--out", metavar="FOLDER", help="new folder for the runs [runs/proof]")
    parser.add_argument("--json", action="store_true", help="print what was found as JSON")
    add_recipe_flags(parser)


def run(arguments: argparse.Namespace) -> int:
    """Prove, and print what was found; 1 if the bits differ."""
    from luthier.run.prove import prove  # noqa: PLC0415 - torch comes with it

    flags: list[str] = []
    for entry in ENTRIES.values():
        value = getattr(arguments, entry.name)
        if entry.name == "data" or value is None:
            continue
        if isinstance(value, bool):
            flags.append(entry.flag if value else entry.flag.replace("--", "--no-", 1))
        else:
            flags += [entry.flag, *map(str, value if isinstance(value, list) else [value])]
    proof = prove(
        arguments.data,
        command=arguments.after,
        kills=arguments.kills,
        out=arguments.out,
        flags=flags,
    )
    print(json.dumps(proof.as_dict()) if arguments.json else proof)
    return 0 if proof.identical else 1
