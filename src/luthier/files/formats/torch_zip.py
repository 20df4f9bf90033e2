"""What ``torch.save`` writes since torch 1.6: a zip archive with a pickle and its storages.

In one folder lie ``data.pkl``, a record ``data/KEY`` of each storage, and what says how they were
written (``version``, ``byteorder``). No torch here; the storages stay on the disk.
"""

from __future__ import annotations

from typing import Any

from luthier.errors import DamagedError
from luthier.files.entries import Archive
from luthier.files.limits import Broken, Budget
from luthier.files.mapped import Blob, Held, MappedFile
from luthier.files.parsing.zips import Zip
from luthier.files.pickles.inside import budget_of
from luthier.files.pickles.reader import Unpickled, read_pickle
from luthier.files.pickles.rebuild import Storage, StorageId, storage_id

_LONGEST_NOTE = 64  # bytes of a record that says one thing
_ORDERS = {b"little": False, b"big": True}


class Records:
    """The records of a zip archive that torch wrote.

    Args:
        file: the archive.
        budget: what everything in it may cost.

    Attributes:
        zip: the archive's entries.
        budget: see Args.
        big_endian: its storages were written by a machine of that kind.

    Raises:
        DamagedError: it contradicts itself. UnsupportedFileError: see ``Zip``.
    """

    def __init__(self, file: MappedFile, budget: Budget) -> None:
        self.zip = Zip(file, budget)
        self.budget = budget
        roots = {name.partition("/")[0] for name in self.zip.members}
        if len(roots) != 1 or any("/" not in name for name in self.zip.members):
            raise self.damaged(
                f"its records lie in {len(roots)} places, and torch writes them into one folder"
            )
        self._root = roots.pop()
        order = self.note("byteorder") or b"little"
        if order not in _ORDERS:
            raise self.damaged(f"its byteorder is {order!r}, expected b'little' or b'big'")
        self.big_endian = _ORDERS[order]

    def __contains__(self, record: str) -> bool:
        return f"{self._root}/{record}" in self.zip.members

    def names(self) -> list[str]:
        """Return the names of the records, as they lie in the archive's folder."""
        return [name[len(self._root) + 1 :] for name in self.zip.members]

    def blob(self, record: str) -> Blob:
        """Return the bytes of a record.

        Raises:
            DamagedError: there is no such record.
        """
        if record not in self:
            raise self.damaged(f"it has no record {record!r}")
        return self.zip.blob(f"{self._root}/{record}")

    def content(self, record: str) -> memoryview:
        """Return a record's bytes; what must be inflated for it goes on the budget.

        Raises:
            DamagedError: there is no such record, or it is damaged, or too much.
        """
        blob = self.blob(record)
        if self.zip.members[f"{self._root}/{record}"].is_deflated:
            self.budget.spend(blob.nbytes)
        return blob.view()

    def note(self, record: str) -> bytes:
        """Return a short record; ``b""`` where it is missing."""
        name = f"{self._root}/{record}"
        return self.zip.read(name, _LONGEST_NOTE).strip() if record in self else b""

    def unpickled(self, record: str = "data.pkl", folder: str = "data") -> Unpickled:
        """Read a pickle, inertly.

        Args:
            record: the pickle.
            folder: where the storages lie that it refers to.

        Raises:
            DamagedError: see ``read_pickle``; or a storage is not there or of another size.
        """
        content = self.content(record)
        return read_pickle(content, self.budget, lambda found: self._storage(found, folder))

    def _storage(self, found: Any, folder: str) -> Storage:
        asked = storage_id(found)
        if asked.part is not None:
            raise Broken(f"it refers to a part of the storage {asked.key!r}")
        blob = self._stored(asked, f"{folder}/{asked.key}")
        return Storage(blob, asked.dtype, asked.device, self.big_endian)

    def _stored(self, asked: StorageId, record: str) -> Blob:
        if record not in self:
            if asked.count:
                raise Broken(f"it has no record {record!r} of {asked.nbytes} bytes")
            return Held(bytearray())
        blob = self.blob(record)
        if blob.nbytes // asked.itemsize != asked.count:
            raise Broken(
                f"its record {record!r} has {blob.nbytes} bytes, and is said to hold"
                f" {asked.count} elements of {asked.itemsize}"
            )
        return blob

    def facts(self) -> tuple[tuple[str, str], ...]:
        """Return what the archive says of itself."""
        found = []
        version = self.note("version") or self.note(".data/version")
        if version:
            found.append(("format version", version.decode("ascii", "backslashreplace")))
        if self.big_endian:
            found.append(("byte order", "big"))
        unchecked = sum(not member.is_checked for member in self.zip.members.values())
        if unchecked:
            found.append(("without a checksum", f"{unchecked} of {len(self.zip.members)} records"))
        return tuple(found)

    def damaged(self, what: str) -> DamagedError:
        """Build the error about it."""
        return DamagedError(
            f"torch file {self.zip.file.path} is truncated or damaged: {what}",
            cure="fetch or copy it again",
        )


def read(file: MappedFile) -> Archive:
    """Read the pickle; the tensors stay on the disk.

    Raises:
        DamagedError: it contradicts itself, or is over a limit.
        UnsupportedFileError: see ``Zip``.
    """
    records = Records(file, budget_of(file))
    found = records.unpickled()
    return Archive(
        file.path,
        "torch",
        found.value,
        facts=records.facts(),
        globals=found.globals,
        check=records.zip.check,
    )
