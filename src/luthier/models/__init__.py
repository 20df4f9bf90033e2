"""A model by name: built, its head found and replaced, its published weights fetched."""

from luthier.models.agreement import Difference, check_split
from luthier.models.build import build
from luthier.models.described import build_described, check_arguments
from luthier.models.heads import Head, check_head, find_head, replace_head
from luthier.models.prefix import Split, split_frozen
from luthier.models.published import Start, start_weights

__all__ = [
    "Difference",
    "Head",
    "Split",
    "Start",
    "build",
    "build_described",
    "check_arguments",
    "check_head",
    "check_split",
    "find_head",
    "replace_head",
    "split_frozen",
    "start_weights",
]
