"""Every attack is answered: nothing in it runs, and no limit of memory or time is exceeded."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

TESTS = Path(__file__).parent
NAMES = sorted(path.stem for path in (TESTS / "attacks").glob("*.py"))
ROOM = 64 << 20  # bytes beyond the file's size
SECONDS = 30  # of the processor; the largest takes about two on a machine that is not busy

# What is said of the file, or of a tensor in it; or what a pickle loader would have called.
PICKLES: dict[str, str | list[str]] = {
    "pickle_before_the_storage": "a tensor's shape holds -1",
    "pickle_behind_the_storage": "reaches to byte 73786976294838206464 of a storage of 4",
    "pickle_containers": "would take more than",
    "pickle_copies": "would take more than",
    "pickle_copyreg": [
        "copyreg._reconstructor",
        "os.system",
        "copyreg.__newobj__",
        "copyreg.__newobj_ex__",
    ],
    "pickle_cyclic": [],
    "pickle_deep": "nested deeper than 1000",
    "pickle_default_factory": ["collections.defaultdict", "functools.partial"],
    "pickle_digits": "a number has 10000000 digits",
    "pickle_encodings": "would take more than",
    "pickle_escapes": [],
    "pickle_exec": ["builtins.eval", "builtins.exec"],
    "pickle_exponential": [],
    "pickle_exponential_key": "a key holds more than 1000 values",
    "pickle_extension": "extension registry",
    "pickle_frame": "a frame of 4611686018427387904 bytes",
    "pickle_from_type": "nested deeper than 1000",
    "pickle_import_chain": ["builtins.getattr", "builtins.__import__"],
    "pickle_inside": ["torch.storage._load_from_bytes", "posix.system", "pickle.loads"],
    "pickle_inside_for_ever": "more than 4 deep",
    "pickle_inst": ["os.system"],
    "pickle_length": "4611686018427387904 bytes should follow",
    "pickle_many_expanded": "declares 1,048,576 bytes over a storage of 4",
    "pickle_many_inside": "would take more than",
    "pickle_marks": "would take more than",
    "pickle_memo": "would take more than",
    "pickle_memo_far": "nothing was remembered at place 4294967295",
    "pickle_newobj": ["subprocess.Popen"],
    "pickle_obj": ["os.system"],
    "pickle_of_objects": "is a numpy array of objects of Python",
    "pickle_out_of_band": "out of band",
    "pickle_persistent_id": ["posix.system"],
    "pickle_ranges": ["builtins.range", "builtins.slice", "torch.device"],
    "pickle_repeated_key": "so often repeated",
    "pickle_same_hash": "more than 64 keys",
    "pickle_setstate": ["code.InteractiveInterpreter", "posix.system"],
    "pickle_shape_of_a_call": "the shape of a tensor is none",
    "pickle_state_of_a_module": "a state is given to what is no object",
    "pickle_system": ["posix.system"],
    "pickle_terabytes": "declares 4,398,046,511,104 bytes over a storage of 4",
    "pickle_text_for_a_name": "the name of a class or function is no text",
    "pickle_wide": "would take more than",
    "pickle_without_end": "ends too early",
}


@pytest.fixture(scope="session")
def answers() -> dict[str, dict[str, Any]]:
    command = [sys.executable, str(TESTS / "attack_runner.py")]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return {found["name"]: found for found in map(json.loads, done.stdout.splitlines())}


@pytest.mark.parametrize("name", NAMES)
def test_an_attack_runs_nothing_and_keeps_to_the_limits(
    answers: dict[str, dict[str, Any]], name: str
) -> None:
    found = answers[name]
    assert found["answer"] in ("opened", "DamagedError", "UnsupportedFileError"), found
    assert not found["ran"]
    assert found["memory"] < ROOM
    assert found["seconds"] < SECONDS


@pytest.mark.parametrize("name", [name for name in NAMES if name.startswith("pickle")])
def test_a_pickle_is_answered_with_what_is_wrong(
    answers: dict[str, dict[str, Any]], name: str
) -> None:
    found, wanted = answers[name], PICKLES[name]
    if isinstance(wanted, list):
        assert found["answer"] == "opened"
        assert set(wanted) <= set(found["called"])
    else:
        assert re.search(wanted, found["said"]), found
