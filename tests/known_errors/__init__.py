"""What raises each error of the catalogue, by the entry's name; see ``test_explanations``.

Each area has its own module with KNOWN: entry → functions of an empty folder that raise the real
error; and RECORDED: entry → names of errors in ``tests/recorded/*.json``, of those that need what
not every machine has.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

Raises = Callable[[Path], object]
Known = Mapping[str, Sequence[Raises]]
Recorded = Mapping[str, Sequence[str]]
