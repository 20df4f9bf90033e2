"""What the fuzz target has found, each as the smallest input that shows it."""

from __future__ import annotations

import resource
import runpy
from pathlib import Path

import pytest

from luthier.errors import DamagedError, LuthierError
from luthier.files.opening import open_archive


@pytest.mark.parametrize(
    "content",
    [
        # A length beyond what C counts with, met before the machine comes to it.
        pytest.param(b"\x80\x04\x8e\xff\xff\xff\xff\xff\xff\xff\xff.", id="length of 64 bits"),
        # The second byte of a format without a signature was looked at, and there was none.
        pytest.param(b"\x08", id="one byte of ONNX"),
    ],
)
def test_what_was_found_is_an_error_of_luthiers(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "found"
    path.write_bytes(content)
    with pytest.raises(LuthierError, match="found"):
        open_archive(path)


def test_the_fuzz_target_takes_every_kind_of_input() -> None:
    pytest.importorskip("atheris", reason="the extra fuzz is not installed")
    target = runpy.run_path(str(Path(__file__).parent / "fuzz" / "readers.py"))
    for kind in range(len(target["FILES"]) + len(target["FOLDERS"])):
        target["attempt"](bytes([kind]) + b"}q\x00.")


@pytest.mark.parametrize(
    "where", [b'"a.safetensors"', b"[]", b"{}", b'{"w": "\\ud800"}', b'{"w": 1}', b"3"]
)
def test_an_index_that_names_no_files_is_damaged(where: bytes, tmp_path: Path) -> None:
    path = tmp_path / "found.index.json"
    path.write_bytes(b'{"weight_map": ' + where + b"}")
    with pytest.raises(DamagedError, match="weight_map says"):
        open_archive(path)


def test_what_an_hdf5_file_says_lies_behind_its_end_is_not_made_up(tmp_path: Path) -> None:
    pytest.importorskip("h5py", reason="the extra hdf5 is not installed")
    content = bytearray(300)
    content[:8] = b"\x89HDF\r\n\x1a\n"
    # Widths of its numbers, sizes of its trees, and an object of 2.5 GB: the library by itself
    # would fill that up with zeros.
    for at, value in {13: 8, 14: 8, 16: 4, 18: 16, 48: 255, 262: 149}.items():
        content[at] = value
    path = tmp_path / "found.h5"
    path.write_bytes(content)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(DamagedError, match="found"):
        open_archive(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 << 10
