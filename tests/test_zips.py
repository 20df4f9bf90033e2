"""Zip archives: what sound writers write is read; what could be read in two ways is refused."""

from __future__ import annotations

import contextlib
import io
import random
import struct
import subprocess
import sys
import tracemalloc
import zipfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from luthier.errors import DamagedError, LuthierError, UnsupportedFileError
from luthier.files.limits import Budget
from luthier.files.mapped import MappedFile
from luthier.files.parsing.zips import Zip
from zips_by_hand import Part, deflated, pack


def opened(path: Path) -> Zip:
    file = MappedFile(path)
    return Zip(file, Budget.of_size(file.size, str(path)))


def contents(path: Path) -> dict[str, bytes]:
    archive = opened(path)
    archive.check()
    return {name: bytes(archive.blob(name).view()) for name in archive.members}


# --- what sound writers write ---------------------------------------------------------------------

NAMES = st.lists(
    st.text("abc/é", min_size=1, max_size=6).filter(lambda name: "" not in name.split("/")),
    unique=True,
    max_size=5,
)


class Unseekable(io.RawIOBase):
    """A pipe: sizes can only be written behind the contents."""

    def __init__(self) -> None:
        self.written = b""

    def writable(self) -> bool:
        return True

    def write(self, content: Any) -> int:
        self.written += bytes(content)
        return len(content)


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(names=NAMES, data=st.data())
def test_what_the_standard_library_writes_is_read(
    tmp_path: Path, names: list[str], data: st.DataObject
) -> None:
    pipe = Unseekable()
    target: Any = pipe if data.draw(st.booleans()) else tmp_path / "a.zip"
    expected = {name: data.draw(st.binary(max_size=3000)) for name in names}
    with zipfile.ZipFile(target, "w") as archive:
        archive.comment = data.draw(st.sampled_from([b"", b"a comment"]))
        for name, content in expected.items():
            info = zipfile.ZipInfo(name)
            info.compress_type = data.draw(st.sampled_from([0, 8]))
            with archive.open(info, "w", force_zip64=data.draw(st.booleans())) as file:
                file.write(content)
    if target is pipe:
        (tmp_path / "a.zip").write_bytes(pipe.written)
    assert contents(tmp_path / "a.zip") == expected


def test_folders_are_left_out(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.mkdir("a")
        archive.writestr("a/b", b"x")
    assert contents(tmp_path / "a.zip") == {"a/b": b"x"}


def test_names_in_the_code_page_of_dos(tmp_path: Path) -> None:
    part = Part("naïve".encode("cp437"), b"x", local={"flags": 0}, central={"flags": 0})
    (tmp_path / "a.zip").write_bytes(pack([part]))
    assert contents(tmp_path / "a.zip") == {"naïve": b"x"}


@pytest.mark.parametrize("shape", ["<4xLLL", "<LLL", "<4xLQQ", "<LQQ"])
def test_sizes_behind_the_content_in_all_their_shapes(tmp_path: Path, shape: str) -> None:
    true = Part(b"a", b"content").fields({})
    numbers = (true["crc"], true["packed"], true["size"])
    behind = struct.pack(shape, *numbers)
    behind = b"PK\x07\x08" + behind[4:] if "x" in shape else behind
    flags = {"flags": 0x808}
    sound = Part(b"a", b"content", local={**flags, "crc": 0, "packed": 0, "size": 0})
    sound.central, sound.behind = flags, behind
    (tmp_path / "a.zip").write_bytes(pack([sound, Part(b"b", b"")]))
    assert contents(tmp_path / "a.zip") == {"a": b"content", "b": b""}
    sound.behind = behind[:-1] + b"\1"
    (tmp_path / "b.zip").write_bytes(pack([sound, Part(b"b", b"")]))
    with pytest.raises(DamagedError, match="differs from what the central directory"):
        opened(tmp_path / "b.zip")


def test_a_content_is_the_same_memory_while_somebody_holds_it(tmp_path: Path) -> None:
    parts = [Part(b"stored", b"x" * 99), Part(b"packed", b"y" * 99, deflate=True)]
    (tmp_path / "a.zip").write_bytes(pack(parts))
    archive = opened(tmp_path / "a.zip")
    for name in ("stored", "packed"):
        blob = archive.blob(name)
        assert blob is archive.blob(name)
        first, second = blob.view(), blob.view()
        first[0] = ord("z")
        assert second[0] == ord("z")


def test_nothing_that_is_inflated_stays_in_memory(tmp_path: Path) -> None:
    content = random.Random(1).randbytes(1 << 20)
    parts = [Part(b"%d" % number, content, deflate=True) for number in range(5)]
    (tmp_path / "a.zip").write_bytes(pack(parts))
    archive = opened(tmp_path / "a.zip")
    tracemalloc.start()
    try:
        for name in archive.members:
            assert len(archive.blob(name).view()) == len(content)
        assert tracemalloc.get_traced_memory()[1] < 3 * len(content)
        tracemalloc.reset_peak()
        archive.check()
        assert tracemalloc.get_traced_memory()[1] < 4 * len(content)
    finally:
        tracemalloc.stop()


# --- damage ---------------------------------------------------------------------------------------

SOUND = pack(
    [
        Part(b"a/data.pkl", b"\x80\x02}."),
        Part(b"a/data/0", bytes(range(200))),
        Part(b"a/code", b"x = 1\n" * 40, deflate=True),
        Part(b"a/version", b"3\n"),
    ]
)


def test_every_truncation_is_noticed_at_once(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    for size in range(len(SOUND)):
        path.write_bytes(SOUND[:size])
        with pytest.raises(DamagedError, match="truncated or damaged"):
            opened(path)


def test_a_bit_that_flips_is_noticed_or_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    path.write_bytes(SOUND)
    expected = contents(path)
    silent = 0
    for at in range(len(SOUND)):
        flipped = bytearray(SOUND)
        flipped[at] ^= 1 << at % 8
        path.write_bytes(flipped)
        try:
            found = contents(path)
        except (DamagedError, UnsupportedFileError):
            continue
        assert found == expected
        silent += 1
    # Versions, times, dates and attributes say nothing here.
    assert silent < 4 * 30


@settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_no_lie_in_a_header_is_anything_but_an_error_of_luthier(
    tmp_path: Path, data: st.DataObject
) -> None:
    content = bytearray(SOUND)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(content) - 8))
        raw = data.draw(st.sampled_from([b"\0\0\0\0", b"\xff\xff\xff\xff", b"\xff\xff", b"PK"]))
        content[at : at + len(raw)] = raw
    path = tmp_path / "a.zip"
    path.write_bytes(content)
    with contextlib.suppress(LuthierError):
        contents(path)


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (deflated(b"x" * 50)[:-1], "ends elsewhere"),
        (deflated(b"x" * 50) + b"more", "ends elsewhere"),
        (deflated(b"x" * 49), "49 bytes of content, expected 50"),
        (deflated(b"x" * 51), "51 bytes of content, expected 50|ends elsewhere"),
        (b"\xff" * 30, "cannot be inflated"),
        (deflated(b"y" * 50), "CRC-32"),
    ],
)
def test_deflated_contents_that_are_others(tmp_path: Path, raw: bytes, message: str) -> None:
    lies = {"method": 8}
    part = Part(b"a", b"x" * 50, raw=raw, local=lies, central=lies)
    (tmp_path / "a.zip").write_bytes(pack([part]))
    archive = opened(tmp_path / "a.zip")
    for use in (archive.check, archive.blob("a").view, archive.blob("a").view):
        with pytest.raises(DamagedError, match=message):
            use()


def test_a_small_entry_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "a.zip").write_bytes(pack([Part(b"a", b"x" * 50)]))
    with pytest.raises(DamagedError, match="has 50 bytes, at most 49 expected"):
        opened(tmp_path / "a.zip").read("a", 49)


# --- without torch --------------------------------------------------------------------------------


def test_zips_need_neither_torch_nor_numpy() -> None:
    code = (
        "import sys, luthier.files.parsing.zips\nassert not {'torch', 'numpy'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
