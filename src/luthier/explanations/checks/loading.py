"""Errors of saving and loading files, and of putting what they hold into a model."""

from __future__ import annotations

import ast
import pickletools
import re

from luthier.explanations.checks.places import file_of, is_absolute, path_of, raised_in
from luthier.explanations.checks.state_dicts import (  # noqa: F401 - the table names them
    in_load_state_dict,
    module_for_state,
    only_missing,
    only_unexpected,
    other_channels,
    other_head,
    other_head_form,
    other_keys,
    other_positions,
    other_sizes,
    other_vocabulary,
    path_for_state,
    prefixed,
    unprefixed,
    whole_checkpoint,
)
from luthier.explanations.values import Case, Facts

_LAYERS = "torch/nn/modules/module.py"
_TORCH_FILES = ("torch/serialization.py", "torch/_weights_only_unpickler.py")
_JIT = "torch/jit/_serialization.py"
_SAFETENSORS = ("safetensors/torch.py", "safetensors/numpy.py", "safetensors/__init__.py")
_OPCODES = {ord(opcode.code): opcode.name for opcode in pickletools.opcodes}


def of_users_line(case: Case) -> Facts | None:
    """Accept an error that a line of the user meets, and does not raise itself."""
    frames = case.raised.frames
    if frames and (frames[-1].is_library or frames[-1].source.startswith("raise")):
        return None
    return {}


def no_model(case: Case) -> Facts | None:
    """Return which dict was used as a model, as far as the line of code says it."""
    found = of_users_line(case)
    frames = case.raised.frames
    if found is None or not frames:
        return None
    used = re.search(r"([A-Za-z_]\w*)(?:\.\w+)?\($", frames[-1].source.partition("(")[0] + "(")
    attribute = case.found.get("attribute")
    name = re.search(rf"([A-Za-z_][\w.]*)\.{attribute}\b", frames[-1].source) if attribute else used
    return {"name": name[1]} if name else {}


def refused(case: Case) -> Facts | None:
    """Return the class or function that weights_only refuses, and where it comes from."""
    if not raised_in(case, _TORCH_FILES):
        return None
    module, _, name = case.found["refused"].rpartition(".")
    return {
        "name": name,
        "module": None if module in ("", "__main__", "builtins", "__builtin__") else module,
    } | path_of(case)


def refused_opcode(case: Case) -> Facts | None:
    """Return the name of a pickle instruction that weights_only does not know."""
    if not raised_in(case, _TORCH_FILES):
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
    """Accept what torch.save, torch.load and torch.jit raise; return the file where it is known."""
    places = (*_TORCH_FILES, _JIT, *_SAFETENSORS)
    return path_of(case) if raised_in(case, places) else None


def in_torch_load(case: Case) -> Facts | None:
    """Accept what is raised under torch.load; its words alone say too little."""
    loads = any(frame.function in ("load", "_load", "_legacy_load") for frame in case.raised.frames)
    return path_of(case) if loads and raised_in(case, _TORCH_FILES, alone=False) else None


def in_torch_save(case: Case) -> Facts | None:
    """Accept what is raised under torch.save; its words alone say too little."""
    frames = case.raised.frames
    saves = any(frame.function in ("save", "_save", "_legacy_save") for frame in frames)
    if not saves or not raised_in(case, _TORCH_FILES, alone=False):
        return None
    lines = " ".join(frame.source for frame in frames if not frame.is_library)
    named = re.search(r"torch\.save\((\w+),", lines)
    return path_of(case) | {"whole": named[1] if named else "model"}


def in_safetensors(case: Case) -> Facts | None:
    """Accept what safetensors raises; return the file where it is known."""
    return path_of(case) if raised_in(case, _SAFETENSORS) else None


def in_hub(case: Case) -> Facts | None:
    """Accept what is raised while torch.hub downloads."""
    found = raised_in(case, ("torch/hub.py",), alone="invalid hash" in case.raised.message)
    url = case.variable("url")
    return {"url": url if isinstance(url, str) else None} if found else None


def by_pickle(case: Case) -> Facts | None:
    """Accept a file of torch, as its name says, that Python's own pickle was to read."""
    frames = case.raised.frames
    if not frames or frames[-1].is_library or not re.search(r"\bload\(", frames[-1].source):
        return None
    path = path_of(case)
    return path if re.search(r"\.(?:pth?|ckpt|bin)$", str(path.get("path", ""))) else None


def unpickled(case: Case) -> Facts | None:
    """Accept a class that a pickle names and that is not there; return where it was looked for."""
    frames = case.raised.frames
    finds = bool(frames) and (frames[-1].is_library or not frames[-1].source.startswith("raise"))
    plain = finds and "pickle.load" in (frames[-1].marked or frames[-1].source)
    if not plain and in_torch_load(case) is None:
        return None
    module = case.found.get("module")
    return {"module": None if module == "__main__" else module} | path_of(case)


def older_layer(case: Case) -> Facts | None:
    """Return the layer that lacks what its class sets when it is built."""
    frames = case.raised.frames
    if not frames or not file_of(frames[-1]).endswith(_LAYERS):
        return None
    if not any("torch/nn/modules/" in file_of(f) and f.function == "forward" for f in frames):
        return None
    module = case.innermost_module()
    return {"layer": module.path or None} if module is not None else {}


def absent_file(case: Case) -> Facts | None:
    """Return the file that is not there, and whether its path is relative."""
    if raised_in(case, (_JIT, *_SAFETENSORS), alone=False):
        found: Facts | None = {}
    else:
        found = in_torch_load(case)
    path = case.found.get("absent") or case.found.get("absent_too")
    if found is None or path is None:
        return None
    return {"path": path, "relative": None if is_absolute(path) else path}


def no_space(case: Case) -> Facts | None:
    """Return whether the system itself said that there is no room, and for which file."""
    if not raised_in(case, (*_TORCH_FILES, *_SAFETENSORS), alone="Stream" in case.raised.message):
        return None
    said = case.raised.message if "No space left" in case.raised.message else None
    return {"system": said} | path_of(case)


def cut_off(case: Case) -> Facts | None:
    """Accept a zip archive without its end; return whether torch.jit.load was to read it."""
    found = in_torch_files(case) if "said" in case.found else in_torch_load(case)
    if found is None:
        return None
    jit = any("torch/jit/" in file_of(frame) for frame in case.raised.frames)
    return {**found, "jit": "torch.jit.load" if jit else None}


def empty(case: Case) -> Facts | None:
    """Accept a file that ended before the number with which torch's files begin."""
    begins = any("magic_number" in frame.source for frame in case.raised.frames)
    return in_torch_load(case) if begins else None


def absent_folder(case: Case) -> Facts | None:
    """Return the folder that is not there to be saved into, if its path is relative."""
    path = case.found.get("folder") or case.found.get("file_there")
    if path is None:
        return in_safetensors(case)
    found = in_torch_files(case) if "folder" in case.found else in_torch_save(case)
    return None if found is None else {"relative": None if is_absolute(path) else path}


def opened_as_text(case: Case) -> Facts | None:
    """Accept a file object that gives or takes text where torch reads or writes bytes."""
    if case.raised.name == "TypeError":
        return in_torch_save(case)
    probed = any(frame.function == "_is_zipfile" for frame in case.raised.frames)
    found = in_torch_load(case)
    return None if found is None or not probed else {"reading": found.get("path")}


def _first_byte(case: Case) -> int | None:
    """Return the byte at which torch.load gave up, if it begins no instruction of a pickle."""
    if not raised_in(case, _TORCH_FILES, alone=False):
        return None
    key, operand = case.found.get("key"), case.found.get("operand")
    if operand is None:
        return ord(ast.literal_eval(f"'{key}'")) if key else None
    return None if int(operand) in _OPCODES else int(operand)


def _starting(case: Case, first: bytes) -> Facts | None:
    return path_of(case) if _first_byte(case) == first[0] else None
