"""What a file has and a model has not: beside it, or inside its blocks. Pure; no torch here.

A head, a loss or a second network beside the one that was loaded is no harm. A third block where
the model has two, or a layer more in each block, is: the weights are those of another network.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable

from luthier.adapt.names import Parts, Specs, split
from luthier.files.wording import numbered

# Buffers that are computed and that some versions save. Whole numbers are no weights at all.
_COMPUTED = frozenset({"inv_freq", "masked_bias", "attn_mask", "causal_mask"})


def inside(leftover: Iterable[str], used: Collection[str], file: Specs) -> tuple[str, ...]:
    """Return the leftover tensors that belong to blocks out of which others were used.

    Args:
        leftover: names of the file that the model has no place for.
        used: names of the file that it has.
        file: the file's tensors.
    """
    names = list(leftover)
    blocks = _Blocks(used if names else ())
    return tuple(
        name
        for name in names
        if file[name].dtype.startswith(("float", "bfloat", "complex"))
        and name.rpartition(".")[2] not in _COMPUTED
        and blocks.hold(split(name))
    )


class _Blocks:
    """The modules of the tensors that were used."""

    def __init__(self, used: Iterable[str]) -> None:
        paths = [split(name)[:-1] for name in used]
        self._root = _common(paths)
        self._families: dict[Parts, set[str]] = defaultdict(set)
        for path in set(paths):
            for length in range(len(path) + 1):
                family = self._families[path[:length]]
                if length < len(path) and (found := numbered(path[length])):
                    family.add(found[0])

    def hold(self, name: Parts) -> bool:
        *path, _ = name
        if not self._families or tuple(path[: len(self._root)]) != self._root:
            return False
        length = len(path)
        while tuple(path[:length]) not in self._families:
            length -= 1
        if any(map(numbered, path[len(self._root) : length])):
            return True
        following = numbered(path[length]) if length < len(path) else None
        return following is not None and following[0] in self._families[tuple(path[:length])]


def _common(paths: Iterable[Parts]) -> Parts:
    """Return the longest beginning of all paths."""
    paths = list(paths)
    first, last = (min(paths), max(paths)) if paths else ((), ())
    same = 0
    while same < min(len(first), len(last)) and first[same] == last[same]:
        same += 1
    return first[:same]
