"""What an explanation says to write is run where the error was, with the names that are there."""

from __future__ import annotations

import pickle
import traceback
import types
from pathlib import Path

import pytest
import safetensors
import torch
from torch import nn

import luthier
from known_errors import Raises, saving
from known_errors import loading as files
from known_errors import state_dicts as of
from known_errors.loading import CURED, KNOWN, RECORDED
from known_errors.state_dicts import Net
from luthier.explanations import Explanation

PROGRAMS = tuple(f"known_errors/{name}.py" for name in ("loading", "saving", "state_dicts"))
CURES = [
    pytest.param(name, raises, id=f"{name}-{raises.__name__}")
    for name, several in CURED.items()
    for raises in several
]


def caught(raises: Raises, folder: Path) -> tuple[BaseException, dict[str, object]]:
    """Return the error, and the names where the program met it."""
    with pytest.raises(BaseException) as error:  # noqa: PT011 - the catalogue says which
        raises(folder)
    frames = [frame for frame, _ in traceback.walk_tb(error.value.__traceback__)]
    programs = [frame for frame in frames if frame.f_code.co_filename.endswith(PROGRAMS)]
    place = programs[-1]
    given = [frame.f_locals for frame in frames if frame.f_code.co_name == "load_state_dict"]
    if given and isinstance(given[-1]["state_dict"], dict):
        torch.save(dict(given[-1]["state_dict"]), folder / "checkpoint.pt")
    names = {"luthier": luthier, "torch": torch, "safetensors": safetensors, "nn": nn}
    return error.value, {**names, **place.f_globals, "model": Net(), **place.f_locals}


def explained(error: BaseException) -> Explanation:
    found = luthier.explain(error, lang="en")
    assert found is not None
    return found


def python(found: Explanation) -> types.CodeType:
    lines = [line for line in found.code.splitlines() if not line.startswith("$ ")]
    return compile("\n".join(lines), "cure.py", "exec")


@pytest.mark.filterwarnings("ignore:.*deprecated:DeprecationWarning")
@pytest.mark.parametrize(("name", "raises"), CURES)
def test_the_code_cures(
    name: str, raises: Raises, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    error, names = caught(raises, tmp_path)
    found = explained(error)
    assert found.name == name
    assert found.code
    exec(python(found), names)  # noqa: S102 - it is what a person would do


def said(raises: Raises, folder: Path) -> Explanation:
    """Return what a program is told of its own error."""
    return explained(caught(raises, folder)[0])


@pytest.mark.parametrize(
    ("raises", "cause", "code"),
    [
        (of.of_compiled_in_data_parallel, '"module._orig_mod."', "net.load_state_dict(bare)"),
        (of.of_an_average, "was inside AveragedModel", "the other 1 are no part"),
        (of.of_a_part("backbone"), "a part under this name, and Net", "the other 2 are no part"),
        (of.into_a_larger_module, '"backbone."', "task.load_state_dict(prefixed)"),
        (of.whole_checkpoint, 'under "model"', 'net.load_state_dict(ckpt["model"])'),
        (of.head_of_another_size, "head fc has 1000 classes in the file and 2 in Net", '"fc."'),
        (of.two_heads_of_another_size, "aux, fc has 10 classes", '("aux.", "fc.")'),
        (of.vocabulary, "100 rows in the file and 120 in Holder", ""),
        (of.rows_of_an_embedding, "users.weight has 100 rows in the file and 120", ""),
        (of.detector_of_other_classes, "bbox_pred, predictor.cls_score has 91 classes", ""),
        (of.positions, "3 x 3 patches, that of Positions of 4 x 4", ""),
        (of.gray_images, "conv1.weight reads 3 channels in the file and 1", "repeat(1, 1, 1, 1)"),
        (of.wider, "7 tensors are of other sizes, such as conv.weight: [8, 3, 3, 3]", ""),
        (of.nothing, "none of the 6 parameters of Net", ""),
        (of.trunk_alone, 'lacks "fc.weight", "fc.bias" (2 in all)', "net.load_state_dict(trunk"),
        (of.counters, "a profiler (thop)", "net.load_state_dict(weights, strict=False)"),
        (of.module_for_state, "a whole model (Net)", "net.load_state_dict(teacher.state_dict())"),
        (of.none_for_state, "was given None", ""),
        (files.commands, "calls posix.system", "$ luthier inspect "),
        (files.older_gelu, "the layer 1 (GELU)", ""),
        (saving.local_class, "local_class.<locals>.Local", "torch.save(net.state_dict(), folder"),
        (saving.into_no_folder, "folder runs/1 does not exist", "Path('runs/1/net.pt').parent"),
        (saving.arguments_swapped, "takes the object first", "torch.save(net, path)"),
        (files.no_such_file, "no file weights/net.pt in the folder", '"weights/net.pt"'),
        (saving.full_disk, "598 bytes were taken where 704 were due", "$ df"),
        (files.class_not_in_main, "the class Encoder that was defined in the program", ""),
        (files.class_moved, "old_layers has no Encoder", "old_layers.Encoder = Encoder"),
        (files.module_not_found, "module old_models, which cannot be imported", "old_models"),
        (saving.tied_weights, "embedding.weight", "save_model(net, folder / 'net.safetensors')"),
        (files.cut(-2000, legacy=True), "ends 2000 bytes or more too early", ""),
    ],
)
def test_the_facts_and_names_are_the_programs_own(
    raises: Raises, cause: str, code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    found = said(raises, tmp_path)
    assert cause in found.cause
    assert code in found.code


def test_a_live_model_says_how_much_of_it_fits(tmp_path: Path) -> None:
    assert "4 of the 6 parameters of Net fit" in said(of.head_of_another_size, tmp_path).checked
    assert (
        "what was given is a module with 6 parameters"
        in said(of.module_for_state, tmp_path).checked
    )


def test_the_file_is_named(tmp_path: Path) -> None:
    told = said(files.cut(500), tmp_path)
    assert str(tmp_path / "net.pt") in told.cause
    assert str(tmp_path / "net.pt") in told.code
    page = tmp_path / "best model.pt"
    page.write_bytes(b"<html>")
    with pytest.raises(pickle.UnpicklingError) as error:
        torch.load(page)
    told = explained(error.value)
    assert f"the file that was opened is {page}" in told.checked
    assert f"$ head -c 300 '{page}'" in told.code  # as a shell needs it


def test_a_text_has_the_facts_of_its_lines(tmp_path: Path) -> None:
    error, _ = caught(of.head_of_another_size, tmp_path)
    told = luthier.explain("".join(traceback.format_exception(error)), lang="en")
    assert told is not None
    assert "head fc has 1000 classes in the file and 2 in Net" in told.cause
    assert "pretrained.items()" in told.code
    assert not any("parameters" in line for line in told.checked)  # they were not looked at


def traced(error: str, *frames: tuple[str, str, str]) -> str:
    lines = [f'  File "{file}", line 3, in {name}\n    {code}\n' for file, name, code in frames]
    return f"Traceback (most recent call last):\n{''.join(lines)}{error}\n"


MINE = "/home/user/train.py"
LIB = "/usr/lib/python3.11/site-packages"
LOADING = (f"{LIB}/torch/serialization.py", "load", "return _load(")
SIZES = (
    "size mismatch for fc.weight: copying a param with shape torch.Size([9, 8]) from checkpoint,"
    " the shape in current model is torch.Size([2, 8])."
)


@pytest.mark.parametrize(
    "text",
    [
        # the user's own errors, with torch's words
        traced(
            f"RuntimeError: Error(s) in loading state_dict for Net:\n\t{SIZES}",
            (MINE, "load", 'raise RuntimeError("Error(s) in loading state_dict for Net:…")'),
        ),
        traced(
            "RuntimeError: Parent directory runs does not exist.",
            (MINE, "save", 'raise RuntimeError(f"Parent directory {folder} does not exist.")'),
        ),
        traced(
            "AttributeError: 'GELU' object has no attribute 'approximate'",
            (MINE, "forward", "raise AttributeError(text)"),
        ),
        traced(
            "AttributeError: '_IncompatibleKeys' object has no attribute 'eval'",
            (MINE, "load", "raise AttributeError(text)"),
        ),
        # the same errors of other things
        traced("EOFError: Ran out of input", (MINE, "<module>", "frame = pickle.load(file)")),
        "EOFError: Ran out of input",
        "PermissionError: [Errno 13] Permission denied: '/data/out.csv'",
        "OSError: [Errno 28] No space left on device",
        "FileNotFoundError: [Errno 2] No such file or directory: 'net.pt'",
        traced(
            "OSError: [Errno 28] No space left on device",
            (f"{LIB}/pandas/io/common.py", "close", "handle.close()"),
        ),
        traced(
            "FileNotFoundError: [Errno 2] No such file or directory: 'net.pt'",
            (MINE, "<module>", 'open("net.pt")'),
        ),
        traced(
            "_pickle.UnpicklingError: invalid load key, '<'.",
            (f"{LIB}/pandas/io/pickle.py", "read_pickle", "return pickle.load(handle)"),
        ),
        traced(
            "AttributeError: Can't get attribute 'work' on <module '__main__' (built-in)>",
            ("/usr/lib/python3.11/multiprocessing/spawn.py", "_main", "self = pickle.load(f)"),
        ),
        traced(
            "AttributeError: Can't pickle local object 'main.<locals>.work'",
            ("/usr/lib/python3.11/multiprocessing/reduction.py", "dump", "Pickler(file).dump(o)"),
        ),
        traced(
            "TypeError: cannot pickle '_thread.lock' object",
            ("/usr/lib/python3.11/copy.py", "deepcopy", "rv = reductor(4)"),
        ),
        traced(
            "ModuleNotFoundError: No module named 'models'", (MINE, "<module>", "import models")
        ),
        # a module that the class's module lacks: not the class's own
        traced(
            "ModuleNotFoundError: No module named 'cv2'",
            (MINE, "<module>", 'torch.load("net.pt", weights_only=False)'),
            LOADING,
            (f"{LIB}/ultralytics/nn/tasks.py", "<module>", "import cv2"),
        ),
        # what a class of the user raises while it is unpickled
        traced(
            "RuntimeError: Invalid magic number; corrupt file?",
            (MINE, "<module>", 'torch.load("net.pt", weights_only=False)'),
            LOADING,
            (MINE, "__setstate__", 'raise RuntimeError("Invalid magic number; corrupt file?")'),
        ),
        traced(
            "AttributeError: Can't get attribute 'Basket' on <module 'shop' from 'shop.py'>",
            (MINE, "<module>", 'pickle.load(open("basket.pkl", "rb"))'),
        ),
        traced(
            "UnicodeDecodeError: 'ascii' codec can't decode byte 0x8b in position 0",
            (MINE, "<module>", 'torch.load("py2.pt", weights_only=False)'),
            LOADING,
            (f"{LIB}/torch/serialization.py", "_legacy_load", "result = unpickler.load()"),
        ),
    ],
)
def test_a_near_miss_is_not_taken_for_an_error_of_loading(text: str) -> None:
    told = luthier.explain(text, lang="en")
    assert told is None or told.name not in {*KNOWN, *RECORDED}
