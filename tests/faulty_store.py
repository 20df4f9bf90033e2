"""A store on this disk, through fsspec, in which operations go wrong as a test says."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any, ClassVar

import fsspec
from fsspec.implementations.local import LocalFileSystem


class Faulty(LocalFileSystem):
    """A file system whose changes are counted, and fail from one on, for so many.

    Attributes:
        changes: how many there were, with their paths.
        at: the first that fails.
        count: how many fail.
        kill: the process ends in the middle of it.
    """

    protocol = "faulty"
    cachable = False
    changes: ClassVar[list[str]] = []
    at, count, kill = -1, 0, False

    @classmethod
    def plan(cls, at: int = -1, count: int = 1, *, kill: bool = False) -> None:
        cls.changes.clear()
        cls.at, cls.count, cls.kill = at, count, kill

    @classmethod
    def _strip_protocol(cls, path: Any) -> Any:
        return super()._strip_protocol(str(path).removeprefix("faulty://"))

    def put_file(self, lpath: str, rpath: str, **more: Any) -> None:
        self._befall(rpath, Path(lpath).read_bytes())
        super().put_file(lpath, rpath, **more)

    def pipe_file(self, path: str, value: bytes, **more: Any) -> None:
        self._befall(path, value)
        super().pipe_file(path, value, **more)

    def cp_file(self, path1: str, path2: str, **more: Any) -> None:
        self._befall(path2, Path(path1).read_bytes()[:1])
        super().cp_file(path1, path2, **more)

    def mv(self, path1: str, path2: str, **more: Any) -> None:
        self._befall(path2)
        super().mv(path1, path2, **more)

    def rm_file(self, path: str) -> None:
        self._befall(path)
        super().rm_file(path)

    def _befall(self, path: str, content: bytes | None = None) -> None:
        if path.endswith(".claim"):  # when it is renewed is a matter of chance
            return
        number = len(self.changes)
        self.changes.append(path)
        if not self.at <= number < self.at + self.count or self.at < 0:
            return
        if content is not None:
            Path(path).write_bytes(content[: len(content) // 2])
        if self.kill:
            os.kill(os.getpid(), signal.SIGKILL)
        raise OSError("the store is out of order")


fsspec.register_implementation("faulty", Faulty, clobber=True)
