"""Attacks on torch's containers: each is answered with what is wrong, and runs nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from attack_runner import attack
from luthier.errors import DamagedError, UnsupportedFileError
from luthier.files.entries import RefusedEntry
from luthier.files.opening import open_archive

ATTACKS = Path(__file__).parent / "attacks"

ANSWERS = {
    "dcp_above": "which is not one of its folder",
    "dcp_corners": "have other dimensions than 40",
    "dcp_far": "a place in its state is 2000000000",
    "dcp_link_out": "is a link out of the folder",
    "dcp_overlap": "do not make up its shape",
    "exported_above": "its record is in another folder",
    "exported_deep": "nested too deeply",
    "legacy_long_storage": "its storages end at byte",
    "legacy_part_outside": "reaches beyond it",
    "torchscript_cyclic": "nested deeper than 1000 levels",
    "torchscript_shared": "would take more than",
    "torch_byteorder": "its byteorder is b'middle'",
    "torch_small_record": "'data/0' has 4 bytes, and is said to hold 1073741824 elements",
    "zip64_beside_sizes": "a zip64 field that does not belong to its sizes",
    "zip64_missing": "no zip64 field for its sizes",
    "zip64_overflow": "does not fit between",
    "zip64_two_ends": "its two end records say",
    "zip_before_the_beginning": "begins at byte 14, expected 0",
    "zip_behind_the_end": "central directory is said to end",
    "zip_bomb": "over the limit of",
    "zip_bomb_that_lies": "ends elsewhere than its content",
    "zip_bytes_of_nobody": "no entry holds the bytes from",
    "zip_count_that_lies": "cannot hold 4294967296 entries",
    "zip_empty_that_lies": "over the limit of 2064",
    "zip_encrypted": "is encrypted",
    "zip_folder_with_content": "a folder and a file of .* bytes at once",
    "zip_in_its_comment": "several end records",
    "zip_inside_another": "or another one lies there",
    "zip_longer_than_the_file": "does not fit between",
    "zip_many_entries": "would take more than",
    "zip_name_above": "leads out of the file",
    "zip_name_absolute": "leads out of the file",
    "zip_name_with_nul": "leads out of the file",
    "zip_other_method": "compressed with zstandard",
    "zip_overlap": "it overlaps another|another one lies there",
    "zip_past_the_end": "is said to begin at byte 1073741824",
    "zip_symbolic_link": "a link or device",
    "zip_two_checksums": "differs from what the central directory",
    "zip_two_folders": "its records lie in 2 places",
    "zip_two_methods": "differs from what the central directory",
    "zip_two_names": "differs from what the central directory",
    "zip_two_of_a_name": "two entries 'archive/data.pkl'",
    "zip_two_sizes": "differs from what the central directory",
    "zip_wrong_checksum": "expected 12345678",
}


@pytest.mark.parametrize("name", ANSWERS)
def test_an_attack_is_answered_with_what_is_wrong(tmp_path: Path, name: str) -> None:
    path, marker = attack(name, tmp_path)
    with pytest.raises((DamagedError, UnsupportedFileError), match=ANSWERS[name]):
        open_archive(path).check()
    assert not marker.exists()


# What is opened, and what a pickle loader would have called.
OPENED = {
    "dcp_payload": "os.mkdir",
    "dcp_terabytes": "",
    "exported_payload": "os.mkdir",
    "legacy_source": "",
    "torchscript_code": "",
    "torchscript_constants": "os.mkdir",
}


@pytest.mark.parametrize("name", OPENED)
def test_what_an_attack_would_have_called_is_named(tmp_path: Path, name: str) -> None:
    path, marker = attack(name, tmp_path)
    archive = open_archive(path)
    archive.check()
    called = " ".join(str(found) for found, is_called in archive.globals if is_called)
    assert OPENED[name].replace("os.", "") in called
    assert not marker.exists()


def test_a_tensor_far_larger_than_its_folder_is_refused(tmp_path: Path) -> None:
    path, _ = attack("dcp_terabytes", tmp_path)
    refused = open_archive(path).content["a"]
    assert isinstance(refused, RefusedEntry)
    assert "1,099,511,627,776 bytes" in refused.why


def test_every_attack_on_torchs_files_is_answered() -> None:
    kinds = ("dcp", "exported", "legacy", "torch", "zip")
    names = {path.stem for path in ATTACKS.glob("*.py") if path.stem.startswith(kinds)}
    assert names == ANSWERS.keys() | OPENED.keys()
