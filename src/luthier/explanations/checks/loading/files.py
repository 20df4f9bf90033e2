"""Errors of saving and loading files."""

from __future__ import annotations

import ast
import pickletools
import re

from luthier.explanations.checks.loading.places import is_absolute, path_of, raised_under
from luthier.explanations.values import Case, Facts

_MODULE = "torch/nn/modules/module.py"
_TORCH_FILES = ("torch/serialization.py", "torch/_weights_only_unpickler.py")
_JIT = "torch/jit/_serialization.py"
_SAFETENSORS = ("safetensors/torch.py", "safetensors/numpy.py", "safetensors/__init__.py")
_TORCHS_WORDS = re.compile(
    r"[Tt]orch|inline_container|weights_only|magic number|mmap|Error while|expected 'f'|safetensors"
)
_OPCODES = {ord(opcode.code): opcode.name for opcode in pickletools.opcodes}


def of_users_line(case: Case) -> Facts | None:
    """Accept an error that a line of the user meets, and does not raise itself."""
    frames = case.raised.frames
    if frames and (frames[-1].is_library or frames[-1].source.startswith("raise")):
        return None
    return {}


def refused(case: Case) -> Facts | None:
    """Return the class or function that weights_only refuses, and where it comes from."""
    if not raised_under(case, _TORCH_FILES):
        return None
    module, _, name = case.found["refused"].rpartition(".")
    return {
        "name": name,
        "module": None if module in ("", "__main__", "builtins", "__builtin__") else module,
    } | path_of(case)


def refused_opcode(case: Case) -> Facts | None:
    """Return the name of a pickle instruction that weights_only does not know."""
    if not raised_under(case, _TORCH_FILES):
        return None
    opcode = _OPCODES.get(int(case.found["operand"]))
    return None if opcode is None else {"opcode": opcode} | path_of(case)


def starts_as_page(case: Case) -> Facts | None:
    """Accept a file that begins as HTML or XML does."""
    return _starting(case, b"<")


def starts_as_pointer(case: Case) -> Facts | None:
    """Accept a file that begins as a pointer of Git LFS does: ``version https://…``."""
    return _starting(case, b"v")


def starts_compressed(case: Case) -> Facts | None:
    """Accept a file that begins as those of gzip do."""
    return _starting(case, b"\x1f")


def starts_as_text(case: Case) -> Facts | None:
    """Accept a file that begins as JSON does."""
    return _starting(case, b"{")


def is_safetensors(case: Case) -> Facts | None:
    """Accept a file that torch cannot read and whose name is that of a safetensors file."""
    path = path_of(case)
    if _first_byte(case) is None or not str(path.get("path", "")).endswith(".safetensors"):
        return None
    return path


def starts_otherwise(case: Case) -> Facts | None:
    """Return the first byte of a file that is no pickle."""
    first = _first_byte(case)
    return None if first is None else {"first": f"0x{first:02x}"} | path_of(case)


def in_torch_files(case: Case) -> Facts | None:
    """Accept what torch and safetensors raise of files; return the file where it is known."""
    places = (*_TORCH_FILES, _JIT, *_SAFETENSORS)
    alone = bool(_TORCHS_WORDS.search(case.raised.message))
    return path_of(case) if raised_under(case, places, alone=alone) else None


def in_torch_load(case: Case) -> Facts | None:
    """Accept what is raised under torch.load; its words alone say too little."""
    loads = any(frame.function in ("load", "_load", "_legacy_load") for frame in case.raised.frames)
    return path_of(case) if loads and raised_under(case, _TORCH_FILES, alone=False) else None


def in_torch_save(case: Case) -> Facts | None:
    """Accept what is raised under torch.save; its words alone say too little."""
    frames = case.raised.frames
    saves = any(frame.function in ("save", "_save", "_legacy_save") for frame in frames)
    if not saves or not raised_under(case, _TORCH_FILES, alone=False):
        return None
    lines = " ".join(frame.source for frame in case.raised.own)
    named = re.search(r"torch\.save\((\w+),", lines)
    return path_of(case) | {"whole": named[1] if named else "model"}


def in_safetensors(case: Case) -> Facts | None:
    """Accept what safetensors raises; return the file where it is known."""
    return path_of(case) if raised_under(case, _SAFETENSORS) else None


def in_hub(case: Case) -> Facts | None:
    """Accept what is raised while torch.hub downloads."""
    found = raised_under(case, ("torch/hub.py",), alone="invalid hash" in case.raised.message)
    url = case.variable("url")
    return {"url": url if isinstance(url, str) else None} if found else None


def by_pickle(case: Case) -> Facts | None:
    """Accept a file of torch, as its name says, that Python's own pickle was to read."""
    frames = case.raised.frames
    if not frames or frames[-1].is_library or not re.search(r"\bloads?\(", frames[-1].source):
        return None
    path = path_of(case)
    return path if re.search(r"\.(?:pth?|ckpt|bin)$", str(path.get("path", ""))) else None


def lost_in_main(case: Case) -> Facts | None:
    """Accept a class that was defined in the program that saved it, and is not in this one."""
    return unpickled(case) if _was_main(case) else None


def lost_in_module(case: Case) -> Facts | None:
    """Accept a class that is no longer in the module that it is said to be of."""
    return None if _was_main(case) else unpickled(case)


def unpickled(case: Case) -> Facts | None:
    """Accept a name that is not there while a file of torch is read."""
    frames = case.raised.frames
    if frames and frames[-1].file.endswith(_TORCH_FILES):
        return in_torch_load(case)
    return by_pickle(case)


def _was_main(case: Case) -> bool:
    """Return whether a class was of the program itself: ``python -m`` gives it another name."""
    return "__main__" in (case.found["module"].rpartition(".")[2], case.variable("mod_name"))


def other_path(case: Case) -> Facts | None:
    """Return what a path is here, where a file holds one of another system."""
    loads = any(frame.file.endswith(_TORCH_FILES) for frame in case.raised.frames)
    here = {"PosixPath": "WindowsPath", "WindowsPath": "PosixPath"}[case.found["kind"]]
    own = case.raised.frames and not case.raised.frames[-1].is_library
    return {"here": here} if loads and not own else None


def older_layer(case: Case) -> Facts | None:
    """Return the layer that lacks what its class sets when it is built."""
    frames = case.raised.frames
    files = [frame.file for frame in frames[-2:]]
    if len(files) < len(("forward", "__getattr__")) or not files[1].endswith(_MODULE):
        return None
    if "torch/nn/modules/" not in files[0] or files[0].endswith((_MODULE, "container.py")):
        return None
    module = case.innermost_module()
    return {"layer": module.path or None} if module is not None else {}


def absent_file(case: Case) -> Facts | None:
    """Return the file that is not there, and whether its path is relative."""
    if raised_under(case, (_JIT, *_SAFETENSORS), alone=False):
        found: Facts | None = {}
    else:
        found = in_torch_load(case)
    path = case.found.get("absent") or case.found.get("absent_too")
    if found is None or path is None:
        return None
    return {"path": path, "relative": None if is_absolute(path) else path}


def no_space(case: Case) -> Facts | None:
    """Return whether the system itself said that there is no room, and for which file."""
    found = in_torch_files(case)
    said = re.search(r"No space left on device|Disk quota exceeded", case.raised.message)
    return None if found is None else {**found, "system": said[0] if said else None}


def cut_off(case: Case) -> Facts | None:
    """Accept a zip archive without its end; return whether torch.jit.load was to read it."""
    found = in_torch_files(case) if "said" in case.found else in_torch_load(case)
    if found is None:
        return None
    jit = any("torch/jit/" in frame.file for frame in case.raised.frames)
    return {**found, "jit": "torch.jit.load" if jit else None}


def empty(case: Case) -> Facts | None:
    """Accept a file that ended before the number with which torch's files begin."""
    begins = any("magic_number" in frame.source for frame in case.raised.frames)
    return in_torch_load(case) if begins else None


def no_magic_number(case: Case) -> Facts | None:
    """Accept a pickle whose first object is not the number with which torch's files begin."""
    if case.raised.name != "ValueError":
        return in_torch_files(case)
    compared = [frame.function for frame in case.raised.frames[-1:]] == ["_legacy_load"]
    return in_torch_load(case) if compared else None


def ends_early(case: Case) -> Facts | None:
    """Accept a file that ends in the middle; return until which torch its form was written."""
    found = in_torch_load(case)
    legacy = any(frame.function == "_legacy_load" for frame in case.raised.frames)
    return None if found is None else {**found, "since": "1.6" if legacy else None}


def absent_folder(case: Case) -> Facts | None:
    """Return the folder that is not there to be saved into, if its path is relative."""
    path = case.found.get("folder") or case.found.get("file_there")
    if path is None:
        return in_safetensors(case)
    found = in_torch_files(case) if "folder" in case.found else in_torch_save(case)
    return None if found is None else {"relative": None if is_absolute(path) else path}


def opened_as_text(case: Case) -> Facts | None:
    """Return how a file object is to be opened that gives or takes text in place of bytes."""
    if case.raised.name == "TypeError":
        saves = in_torch_save(case) is not None
        return {"mode": "wb", "call": "torch.save(state, opened)"} if saves else None
    probed = any(frame.function == "_is_zipfile" for frame in case.raised.frames)
    if not probed or in_torch_load(case) is None:
        return None
    return {"mode": "rb", "call": "state = torch.load(opened, weights_only=True)"}


def _first_byte(case: Case) -> int | None:
    """Return the byte at which torch.load gave up, if it begins no instruction of a pickle."""
    if not raised_under(case, _TORCH_FILES, alone=False):
        return None
    key, operand = case.found.get("key"), case.found.get("operand")
    if operand is None:
        return ord(ast.literal_eval(f"'{key}'")) if key else None
    return None if int(operand) in _OPCODES else int(operand)


def _starting(case: Case, first: bytes) -> Facts | None:
    return path_of(case) if _first_byte(case) == first[0] else None
