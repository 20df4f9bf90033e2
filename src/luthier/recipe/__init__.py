"""The recipe: the one description of a run.

The fields below are at the same time the keys of ``recipe.toml``, the flags of
``luthier finetune`` and the keyword arguments of ``luthier.finetune``: one list, so that a
flag cannot exist that nothing reads. A field that is ``None`` has not been decided;
``resolve`` decides it. A field that would have no effect beside the others is an error.
"""

from luthier.recipe.deciding import (
    Interval,
    overlay,
    parse_fold,
    parse_interval,
    parse_log,
    resolve,
)
from luthier.recipe.fields import (
    ENTRIES,
    STRATEGIES,
    Data,
    Entry,
    Optimizer,
    Recipe,
    Regularisation,
    Schedule,
    decided,
    given,
    replace,
    values,
)
from luthier.recipe.text import from_toml, read, to_toml

__all__ = [
    "ENTRIES",
    "STRATEGIES",
    "Data",
    "Entry",
    "Interval",
    "Optimizer",
    "Recipe",
    "Regularisation",
    "Schedule",
    "decided",
    "from_toml",
    "given",
    "overlay",
    "parse_fold",
    "parse_interval",
    "parse_log",
    "read",
    "replace",
    "resolve",
    "to_toml",
    "values",
]
