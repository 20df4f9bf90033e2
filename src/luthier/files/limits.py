"""What a file may cost: memory for the objects it describes, time for the keys it repeats."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from luthier.errors import DamagedError

# What the objects of a file may take beyond its size, by the account kept here, which does not see
# the allocator's own waste: 8 MiB are left for that.
ALLOWANCE = 56 << 20

DEEPEST_FILE = 4  # files inside files


class Broken(Exception):  # noqa: N818 - never leaves the readers
    """What a part of a file contradicts; who reads the file adds where, as a DamagedError."""


@dataclass
class Budget:
    """An account of the memory that the objects of one file take.

    Nothing is given back to it except by who knows that an object is gone.

    Attributes:
        limit: in bytes; ``Budget.of_size`` gives the usual one.
        name: of the file, for errors.
        spent: in bytes.
        expanded: bytes that views declare beyond the storages they look at.
        depth: how many files the one being read is inside of.
    """

    limit: int
    name: str = "the file"
    spent: int = 0
    expanded: int = 0
    depth: int = 0

    @classmethod
    def of_size(cls, size: int, name: str) -> Budget:
        """Return the budget for a file of ``size`` bytes: as much again, and 56 MiB."""
        return cls(size + ALLOWANCE, name)

    def spend(self, cost: int) -> None:
        """Enter ``cost`` bytes.

        Raises:
            DamagedError: it is more than is left.
        """
        self.spent += cost
        if self.spent > self.limit:
            self.refuse()

    def check(self, cost: int) -> None:
        """Raise the error of ``spend`` if ``cost`` bytes are more than is left; enter nothing."""
        if self.spent + cost > self.limit:
            self.refuse()

    def refuse(self) -> None:
        """Raise the error for what is over the limit."""
        raise DamagedError(
            f"{self.name} describes objects that would take more than {self.limit:,} bytes of"
            " memory, far more than it holds",
            cure="if the file can be trusted, write its tensors again, without the other objects",
        )

    def expand(self, nbytes: int) -> bool:
        """Enter what a view declares beyond its storage; tell whether it is within the limit."""
        if self.expanded + nbytes > self.limit:
            return False
        self.expanded += nbytes
        return True


_SIMPLE = frozenset({str, bytes, bool, type(None), float})
_SMALLEST_SHARED_HASH = (1 << 61) - 1  # from here on, different ints have the same hash
_MOST_PARTS = 1_000
_DEEPEST_KEY = 50
_MOST_ALIKE = 64
_COST_OF_A_KEY = 250
_FREE_WORK = 1 << 20


@dataclass
class Keys:
    """Admits what is put into dicts and sets, so that hashing and comparing stay linear.

    The hash of a tuple is computed anew each time, in time exponential in a file that nests shared
    ones; and tuples, complex numbers and long ints can be chosen so that all have one hash.
    """

    budget: Budget
    work: int = 0
    _seen: dict[int, list[Any]] = field(default_factory=dict)

    def admit(self, key: Any, consumed: int) -> Any:
        """Return what can be the key.

        Args:
            key: from the file.
            consumed: bytes of the file so far; the work with keys is kept in proportion.

        Raises:
            Broken: it cannot be hashed, or not in reasonable time.
        """
        kind = type(key)
        if kind in _SIMPLE:
            return key
        if kind is int and -_SMALLEST_SHARED_HASH < key < _SMALLEST_SHARED_HASH:
            return key
        if kind is memoryview:
            self.budget.spend(len(key))
            return bytes(key)
        self._count(key, consumed)
        return key

    def admit_all(self, keys: Iterable[Any], consumed: int) -> list[Any]:
        """Return ``keys``, each admitted."""
        return [key if type(key) is str else self.admit(key, consumed) for key in keys]

    def _count(self, key: Any, consumed: int) -> None:
        self.work += _weight(key)
        try:
            alike = self._seen.setdefault(hash(key), [])
        except (TypeError, ValueError) as error:
            raise Broken(f"a key is of a kind that has no hash ({type(key).__name__})") from error
        self.work += len(alike)
        if self.work > _FREE_WORK + 16 * consumed:
            raise Broken("its keys are so large and so often repeated that it would take for ever")
        if any(known is key or known == key for known in alike):
            return
        if len(alike) == _MOST_ALIKE:
            raise Broken(f"more than {_MOST_ALIKE} keys are made to have the same hash")
        self.budget.spend(_COST_OF_A_KEY)
        alike.append(key)


def _weight(key: Any) -> int:
    """Count the values in a key, each as often as hashing it meets it."""
    weight = 1
    level = [key]
    for _ in range(_DEEPEST_KEY):
        weight += sum(value.bit_length() >> 6 for value in level if type(value) is int)
        nested = [value for value in level if isinstance(value, tuple | frozenset)]
        if not nested:
            return weight
        weight += sum(map(len, nested))
        if weight > _MOST_PARTS:
            raise Broken(f"a key holds more than {_MOST_PARTS} values")
        level = [value for holder in nested for value in holder]
    raise Broken(f"a key is nested deeper than {_DEEPEST_KEY} levels")
