"""Decide which tensor of a file goes where in a model. Pure: nothing is changed here."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from luthier.adapt.plan import Assignment, HeadFit, LoadPlan
from luthier.values import TensorSpec

# Counts that files from before torch 0.4.1 lack; their absence changes nothing in inference.
_OPTIONAL = "num_batches_tracked"


def match(
    model: Mapping[str, TensorSpec],
    file: Mapping[str, TensorSpec],
    head: HeadFit | Collection[str] = (),
) -> LoadPlan:
    """Match the tensors of a file to those of a model by name and shape.

    Args:
        model: the model's tensors, in the order of its ``state_dict``.
        file: the file's tensors.
        head: what becomes of the head; or model tensors that keep their initial value.
    """
    if isinstance(head, HeadFit):
        head = head.tensors if head.mode == "replace" else ()
    wanted = [name for name in model if name not in head]
    found = [name for name in wanted if name in file]
    fits = [name for name in found if file[name].shape == model[name].shape]
    return LoadPlan(
        assignments=tuple(
            Assignment(
                n,
                (n,),
                cast=None
                if file[n].dtype == model[n].dtype
                else (file[n].dtype, model[n].dtype),
            )
            for n in fits
        ),
        kept=tuple(n for n in model if n in head or (n not in file and n.endswith(_OPTIONAL))),
        missing=tuple(n for n in wanted if n not in file and not n.endswith(_OPTIONAL)),
        misshapen=tuple((n, str(file[n]), str(model[n])) for n in found if n not in fits),
        unexpected=tuple(name for name in file if name not in model),
        dropped=tuple(name for name in file if name in head),
    )
