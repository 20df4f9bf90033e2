"""One folder of objects under a URL; every operation on a store goes through it."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from luthier.errors import MissingExtraError, RecipeError, StorageError, missing_extra

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+(://|::)")  # one letter is a drive of Windows
_PART = ".tmp-"  # beginning of a name under which an object is not whole yet


def is_url(place: str | Path | None) -> bool:
    """Tell whether a run's place is the URL of a store, and no folder of this machine."""
    return isinstance(place, str) and _URL.match(place) is not None


class Bucket:
    """A folder of objects. Names are relative to it, with ``/`` between their parts.

    Whatever goes wrong is a ``StorageError``, but that an object is not there: that is a
    ``FileNotFoundError``. Credentials, endpoints and the tries of one request are fsspec's own.

    Args:
        url: any of fsspec's, such as ``s3://bucket/runs/ants``.

    Attributes:
        url: without a slash at its end.

    Raises:
        MissingExtraError: fsspec, or the package for this kind of URL, is not installed.
        RecipeError: there is no such kind of URL.
    """

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        self._fs, root = _opened(self.url)
        self._root = root.rstrip("/")
        # Stores of objects are asynchronous, put each object in its place whole and have no
        # folders. The others are file systems.
        self._is_flat = bool(getattr(self._fs, "async_impl", False))

    def names(self, under: str = "") -> dict[str, int]:
        """Return the size in bytes of each object, by name; names that no file can have are not."""
        with self._naming("listed"):
            try:
                self._fs.invalidate_cache()
                found = self._fs.find(self._path(under), detail=True)
            except FileNotFoundError:
                return {}
        sizes = {self._name(path): int(facts["size"] or 0) for path, facts in found.items()}
        return {name: size for name, size in sizes.items() if _is_files(name)}

    def read(self, name: str) -> bytes:
        """Return an object's content."""
        with self._naming(f"read ({name})"):
            self._fs.invalidate_cache()
            content: bytes = self._fs.cat_file(self._path(name))
            return content

    def download(self, name: str, path: Path) -> None:
        """Write an object's content to a file."""
        with self._naming(f"read ({name})"):
            self._fs.get_file(self._path(name), str(path))

    def write(self, name: str, content: bytes) -> None:
        """Give an object a content; readers see the old or the new, and never a part."""
        with self._writing(name) as place:
            self._fs.pipe_file(place, content)

    def upload(self, path: Path, name: str) -> None:
        """Write a file, as ``write`` does; it must not change meanwhile."""
        with self._writing(name) as place:
            self._fs.put_file(str(path), place)

    def create(self, name: str, content: bytes) -> bool:
        """Give a new object a content.

        Returns:
            False where it is there already. A store without exclusive creation may return True to
            two at once.
        """
        try:
            self._make_folder(name)
            self._fs.pipe_file(self._path(name), content, mode="create")
        except Exception:  # one says that it exists, another that it cannot be done so
            if name in self.names():
                return False
            self.write(name, content)
        return True

    def copy(self, name: str, to: str) -> bool:
        """Copy an object inside the store; False where that cannot be done, and nothing was."""
        try:
            self._make_folder(to)
            self._fs.cp_file(self._path(name), self._path(to))
        except Exception:  # its kind cannot, or the object is gone: then it is uploaded
            return False
        return True

    def remove(self, names: Iterable[str]) -> None:
        """Remove objects, one after another; those that are gone are passed over."""
        for name in names:
            with (
                self._naming(f"changed ({name} is not removed)"),
                contextlib.suppress(FileNotFoundError),
            ):
                self._fs.rm_file(self._path(name))

    def remove_folder(self, folder: str, first: str) -> None:
        """Remove all objects of a folder; the one named ``first`` before any other."""
        names = sorted(self.names(folder), key=lambda name: name != f"{folder}/{first}")
        self.remove(names)
        if not self._is_flat:
            with contextlib.suppress(Exception):  # an empty folder means nothing
                self._fs.rmdir(self._path(folder))

    @contextlib.contextmanager
    def _writing(self, name: str) -> Iterator[str]:
        with self._naming(f"written to ({name})"):
            try:
                path = self._path(name)
                self._make_folder(name)
                if self._is_flat:
                    yield path
                    return
                folder, _, last = path.rpartition("/")
                yield (part := f"{folder}/{_PART}{last}")
                self._fs.mv(part, path)
            except FileNotFoundError as error:
                raise OSError(f"there is no such place: {_said(error)}") from error

    def _make_folder(self, name: str) -> None:
        if not self._is_flat:  # in a store of objects it would make a bucket
            self._fs.makedirs(self._path(name).rpartition("/")[0] or "/", exist_ok=True)

    def _path(self, name: str) -> str:
        return "/".join(part for part in (self._root, name) if part)

    def _name(self, path: str) -> str:
        return str(path).removeprefix(self._root).lstrip("/")

    @contextlib.contextmanager
    def _naming(self, done: str) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError:
            raise
        except Exception as error:  # each package has errors of its own
            raise StorageError(
                f"{self.url} cannot be {done}: {_said(error)}",
                cure="see that it can be reached, and the credentials that its package looks for",
            ) from error


def _is_files(name: str) -> bool:
    parts = name.split("/")
    return not parts[-1].startswith(_PART) and not any(
        part in ("", ".", "..") or "\\" in part for part in parts
    )


def _said(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def _opened(url: str) -> tuple[Any, str]:
    try:
        from fsspec.core import url_to_fs  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise missing_extra("fsspec", "storage", f"a run at {url}") from error
    try:
        fs, root = url_to_fs(url)
    except ImportError as error:
        raise _no_package(url, error) from error
    except ValueError as error:
        raise RecipeError(
            f"{url} cannot be opened: {_said(error)}",
            cure="give a folder, or a URL such as s3://, gs://, az:// or file://",
        ) from error
    return fs, str(root)


def _no_package(url: str, error: ImportError) -> MissingExtraError:
    from fsspec.registry import known_implementations  # noqa: PLC0415

    protocol = re.split("://|::", url, maxsplit=1)[0]
    package = known_implementations.get(protocol, {}).get("class", "").split(".")[0]
    if package in ("", "fsspec"):
        return MissingExtraError(f"a run at {url} needs a package that is not here: {error}")
    return MissingExtraError(
        f"a run at {url} needs the package {package!r}, which is not installed",
        cure=f"install it with: pip install {package}",
    )
