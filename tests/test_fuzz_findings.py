"""What the fuzz target has found, each as the smallest input that shows it."""

from __future__ import annotations

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
