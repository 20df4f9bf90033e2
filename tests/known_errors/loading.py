"""What raises the errors of reading files of weights, and all others of loading."""

from __future__ import annotations

import argparse
import collections
import contextlib
import gzip
import io
import os
import pathlib
import pickle
import sys
import zipfile
from pathlib import Path

import numpy
import safetensors.torch
import torch
from torch import nn

from known_errors import Known, Raises, Recorded, saving, state_dicts
from known_errors.naming import module_named, named, quiet
from known_errors.state_dicts import Net


class Command:
    """Pickled as a call."""

    def __init__(self, function: object, *arguments: str) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> tuple[object, tuple[str, ...]]:
        return self.call


def loaded(content: object, *, weights_only: bool = True) -> Raises:
    def load(folder: Path) -> None:
        torch.save(content, folder / "last.pt")
        torch.load(folder / "last.pt", weights_only=weights_only)

    return load


def whole_optimizer(folder: Path) -> None:
    model = Net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    torch.save({"model": model.state_dict(), "optimizer": optimizer}, folder / "last.pt")
    torch.load(folder / "last.pt")


def layer_saved_whole(folder: Path) -> None:
    model = nn.Linear(3, 2)
    torch.save(model, folder / "last.pt")
    torch.load(folder / "last.pt")


def path_of_a_file(folder: Path) -> None:
    net = Net()
    torch.save(net.state_dict(), "net.pt")
    net.load_state_dict(folder / "net.pt")  # type: ignore[arg-type]


def commands(folder: Path) -> None:
    loaded(Command(os.system, "true"))(folder)


def weights_of(content: bytes, name: str = "net.pt", *, weights_only: bool = True) -> Raises:
    """Return what loads a file of such bytes."""

    def load(folder: Path) -> None:
        (folder / name).write_bytes(content)
        torch.load(str(folder / name), weights_only=weights_only)

    return load


def both(label: str, content: bytes, name: str = "net.pt") -> list[Raises]:
    """Return what loads a file of such bytes, with weights_only and without."""
    return [
        named(f"{label}_weights_only_{only}", weights_of(content, name, weights_only=only))
        for only in (True, False)
    ]


def own_file(folder: Path) -> Path:
    torch.save({"weight": torch.ones(1000), "bias": torch.ones(1000)}, folder / "net.pt")
    return folder / "net.pt"


def cut(keep: int, *, legacy: bool = False, weights_only: bool = True) -> Raises:
    """Return what loads a file of torch.save without its end; ``keep`` counts as a slice does."""

    def load(folder: Path) -> None:
        path = folder / "net.pt"
        torch.save({"weight": torch.ones(1000)}, path, _use_new_zipfile_serialization=not legacy)
        path.write_bytes(path.read_bytes()[:keep])
        torch.load(str(path), weights_only=weights_only)

    return named(f"cut_at_{keep}_{legacy}_{weights_only}".replace("-", "minus_"), load)


def buffer_at_its_end(_folder: Path) -> None:
    buffer = io.BytesIO()
    torch.save({"weight": torch.ones(3)}, buffer)
    torch.load(buffer)


def cut_for_jit(folder: Path) -> None:
    path = own_file(folder)
    path.write_bytes(path.read_bytes()[:500])
    torch.jit.load(str(path))


def script(folder: Path) -> str:
    torch.jit.script(nn.Linear(3, 2)).save(str(folder / "script.pt"))
    return str(folder / "script.pt")


def script_by_load(folder: Path) -> None:
    torch.load(script(folder), weights_only=True)


def weights_by_jit(folder: Path) -> None:
    path = own_file(folder)
    torch.jit.load(str(path))


def archive_of_something(folder: Path) -> None:
    with zipfile.ZipFile(folder / "net.zip", "w") as archive:
        archive.write(own_file(folder), "net.pt")
    torch.load(folder / "net.zip")


def archive_without(part: str) -> Raises:
    def load(folder: Path) -> None:
        with (
            zipfile.ZipFile(own_file(folder)) as whole,
            zipfile.ZipFile(folder / "damaged.pt", "w") as damaged,
        ):
            for name in whole.namelist():
                if not name.endswith(part):
                    damaged.writestr(name.replace("net/", "damaged/", 1), whole.read(name))
        torch.load(folder / "damaged.pt")

    return named(f"archive_without_{part.replace('/', '_')}", load)


def torch_file_by_pickle(folder: Path) -> None:
    own_file(folder)
    pickle.loads(Path("net.pt").read_bytes())  # noqa: S301 - it is to fail


def torch_file_by_safetensors(folder: Path) -> None:
    own_file(folder)
    safetensors.torch.load_file("net.pt")


def json_by_safetensors(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes((10).to_bytes(8, "little") + b"a" * 10)
    safetensors.torch.load_file(path)


def safetensors_cut(keep: int) -> Raises:
    def load(folder: Path) -> None:
        path = folder / "model.safetensors"
        safetensors.torch.save_file({"weight": torch.ones(100)}, path)
        path.write_bytes(path.read_bytes()[:keep])
        safetensors.torch.load_file(path)

    return named(f"safetensors_cut_at_{keep}".replace("-", "minus_"), load)


def safetensors_bytes() -> bytes:
    return safetensors.torch.save({"weight": torch.ones(100)})


def safetensors_as_stream(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(safetensors_bytes())
    torch.load(io.BytesIO(Path("model.safetensors").read_bytes()), weights_only=False)


def hash_of_download(folder: Path) -> None:
    (folder / "net-12345678.pth").write_bytes(b"a login page")
    url = (folder / "net-12345678.pth").as_uri()
    torch.hub.load_state_dict_from_url(url, str(folder / "hub"), progress=False, check_hash=True)


def download_refused(folder: Path) -> None:
    torch.hub.load_state_dict_from_url("http://127.0.0.1:9/net.pth", str(folder))


def saved_class(folder: Path, module: str, *, by_pickle: bool = False) -> Path:
    """Save an object whose class says that it is of some module, which is gone after."""
    kind = type("Encoder", (nn.Module,), {"__module__": module, "__qualname__": "Encoder"})
    main = sys.modules["__main__"]
    with contextlib.ExitStack() as stack:
        if module == "__main__":
            main.Encoder = kind  # type: ignore[attr-defined]
            stack.callback(delattr, main, "Encoder")
        else:
            stack.enter_context(module_named(module, Encoder=kind))
        if by_pickle:
            (folder / "net.pt").write_bytes(pickle.dumps(kind()))
        else:
            torch.save(kind(), folder / "net.pt")
    return folder / "net.pt"


def class_not_in_main(folder: Path) -> None:
    path = saved_class(folder, "__main__")
    torch.load(path, weights_only=False)


def class_not_in_main_by_pickle(folder: Path) -> None:
    saved_class(folder, "__main__", by_pickle=True)
    pickle.loads(Path("net.pt").read_bytes())  # noqa: S301 - it is to fail


def class_moved(folder: Path) -> None:
    path = saved_class(folder, "old_layers")
    with module_named("old_layers"):
        torch.load(path, weights_only=False)


def name_that_torch_lacks(folder: Path) -> None:
    kind = type("Newer", (), {"__module__": "torch._utils", "__qualname__": "Newer"})
    torch._utils.Newer = kind  # type: ignore[attr-defined]
    try:
        torch.save(kind(), folder / "net.pt")
    finally:
        del torch._utils.Newer  # type: ignore[attr-defined]
    torch.load(folder / "net.pt", weights_only=False)


def path_of_another_system(folder: Path) -> None:
    torch.save({"path": Command(pathlib.WindowsPath, "a")}, folder / "net.pt")
    torch.load(folder / "net.pt", weights_only=False)


def module_not_found(folder: Path) -> None:
    path = saved_class(folder, "old_models")
    torch.load(path, weights_only=False)


def module_not_found_by_pickle(folder: Path) -> None:
    saved_class(folder, "old_models", by_pickle=True)
    pickle.loads(Path("net.pt").read_bytes())  # noqa: S301 - it is to fail


def older_gelu(folder: Path) -> None:
    net = nn.Sequential(nn.Linear(3, 3), nn.GELU())
    del net[1].approximate  # as torch 1.11 saved it
    torch.save(net, folder / "net.pt")
    torch.load(folder / "net.pt", weights_only=False)(torch.ones(1, 3))


def no_such_file(_folder: Path) -> None:
    torch.load("weights/net.pt")


def no_such_absolute_file(folder: Path) -> None:
    torch.load(folder / "net.pt")


def no_such_safetensors(folder: Path) -> None:
    safetensors.torch.load_file(folder / "net.safetensors")


def no_such_script(_folder: Path) -> None:
    torch.jit.load("script.pt")


def folder_to_load(folder: Path) -> None:
    torch.load(folder)


def load_text(folder: Path) -> None:
    own_file(folder)
    with open("net.pt") as file:
        torch.load(file)  # type: ignore[arg-type]


def bytes_to_load(folder: Path) -> None:
    data = own_file(folder).read_bytes()
    torch.load(data)  # type: ignore[arg-type]


def none_to_load(_folder: Path) -> None:
    torch.load(None)  # type: ignore[arg-type]


def dict_to_load(_folder: Path) -> None:
    torch.load({"model": {}})  # type: ignore[arg-type]


class Response(io.RawIOBase):
    """What cannot go back, as an answer of the network."""


def stream_to_load(_folder: Path) -> None:
    torch.load(Response())


def mapped_object(folder: Path) -> None:
    with own_file(folder).open("rb") as file:
        torch.load(file, mmap=True)


def mapped_old_form(folder: Path) -> None:
    torch.save({}, folder / "net.pt", _use_new_zipfile_serialization=False)
    torch.load(str(folder / "net.pt"), mmap=True)


KNOWN: Known = {
    **state_dicts.KNOWN,
    **saving.KNOWN,
    "weights-only-code": [commands, named("evaluated", loaded(Command(eval, "1")))],
    "weights-only-numpy": [
        named("of_a_scalar", loaded({"accuracy": numpy.float64(0.5)})),
        named("of_an_array", loaded({"losses": numpy.ones(3)})),
    ],
    "weights-only-whole-model": [
        layer_saved_whole,
        named("of_layers", loaded(nn.Sequential(nn.ReLU()))),
    ],
    "weights-only-settings": [
        named("of_arguments", loaded({"args": argparse.Namespace(lr=0.1)})),
        named("of_a_path", loaded({"path": pathlib.PurePosixPath("a")})),
        named("of_a_defaultdict", loaded(collections.defaultdict(list, a=[1]))),
    ],
    "weights-only-torch-object": [whole_optimizer],
    "weights-only-own-class": [
        named("of_a_model", loaded(Net())),
        named("of_a_function", loaded({"state_dict": Net().state_dict(), "make": own_file})),
    ],
    "pickle-of-a-newer-protocol": [
        quiet(named("of_pickle", weights_of(pickle.dumps({"a": 1}, 4)))),
        quiet(named("of_numpy", weights_of(pickle.dumps(numpy.ones(3))))),
    ],
    "safetensors-as-torch-file": [
        named("of_another_ending", safetensors_as_stream),
    ],
    "web-page-as-weights": both("page", b"<!DOCTYPE html><html></html>"),
    "git-lfs-pointer": both("pointer", b"version https://git-lfs.github.com/spec/v1\noid sha256:1"),
    "compressed-file": both("gzip", gzip.compress(b"weights" * 100)),
    "text-as-weights": both("json", b'{"error": "not found"}'),
    "no-torch-file": both("noise", bytes(range(200, 256))),
    "weights-only-unknown-instruction": [
        named("of_protocol_0", weights_of(pickle.dumps({"a": 1}, 0))),
        named("of_text", weights_of(b"Not Found")),
    ],
    "torchscript-by-torch-load": [quiet(script_by_load)],
    "torch-file-by-jit-load": [quiet(weights_by_jit)],
    "tar-of-old-torch": [named("of_zeros", weights_of(bytes(2000)))],
    "torch-file-as-safetensors": [torch_file_by_safetensors, json_by_safetensors],
    "safetensors-cut-off": [safetensors_cut(0), safetensors_cut(20), safetensors_cut(-10)],
    "zip-cut-off": [cut(50), cut(2000), cut(-10, weights_only=False), quiet(cut_for_jit)],
    "zip-of-something-else": [archive_of_something, archive_without("/data.pkl")],
    "zip-with-damage": [archive_without("data/0")],
    "empty-file": [*both("empty", b""), cut(5, legacy=True), buffer_at_its_end],
    "pickle-cut-off": [
        cut(at, legacy=True, weights_only=only) for at in (30, 100, -2000) for only in (True, False)
    ],
    "damaged-pickle": [
        named("text", weights_of(b"Not Found", weights_only=False)),
        named("array", weights_of(b"\x93NUMPY\x01\x00", weights_only=False)),
    ],
    "pickle-by-torch-load": [
        *both("pickle", pickle.dumps({"a": 1}, 2)),
        named("array_pickle", weights_of(pickle.dumps(numpy.ones(3)), weights_only=False)),
    ],
    "torch-file-by-pickle": [torch_file_by_pickle],
    "hash-of-download": [hash_of_download],
    "download-failed": [download_refused],
    "class-not-in-main": [class_not_in_main, class_not_in_main_by_pickle],
    "class-moved": [class_moved],
    "module-of-class-not-found": [module_not_found, module_not_found_by_pickle],
    "torch-of-another-version": [name_that_torch_lacks],
    "path-of-another-system": [path_of_another_system],
    "layer-of-another-version": [older_gelu],
    "no-such-file": [
        no_such_file,
        no_such_absolute_file,
        no_such_safetensors,
        quiet(no_such_script),
    ],
    "folder-in-place-of-file": [folder_to_load, saving.folder_to_save],
    "file-opened-as-text": [load_text, saving.save_text],
    "none-to-load": [none_to_load],
    "bytes-to-load": [bytes_to_load],
    "no-file-to-load": [stream_to_load, dict_to_load],
    "mmap-of-a-file-object": [mapped_object, mapped_old_form],
}


CURED: Known = {  # what the explanation says to write can be run as it is
    **{
        name: state_dicts.KNOWN[name]
        for name in (
            "module-prefix",
            "missing-module-prefix",
            "whole-checkpoint",
            "head-of-another-size",
            "input-of-other-channels",
            "head-of-another-form",
            "values-that-are-no-tensors",
            "value-not-copied",
            "missing-keys",
            "unexpected-keys",
            "module-as-state-dict",
        )
    },
    "path-as-state-dict": [path_of_a_file],
    "mmap-of-a-file-object": [mapped_old_form],
    "weights-only-whole-model": [layer_saved_whole],
    "weights-only-settings": KNOWN["weights-only-settings"][:2],
    **{
        name: KNOWN[name]
        for name in (
            "weights-only-numpy",
            "weights-only-own-class",
            "weights-only-torch-object",
            "path-of-another-system",
            "pickle-of-a-newer-protocol",
            "torchscript-by-torch-load",
            "torch-file-by-jit-load",
            "pickle-by-torch-load",
            "torch-file-by-pickle",
            "local-object-in-save",
            "class-defined-twice",
            "unpicklable-object-in-save",
            "save-arguments-swapped",
            "folder-for-save",
            "bytes-to-load",
            "shared-tensors-in-safetensors",
            "views-in-safetensors",
            "no-tensors-in-safetensors",
        )
    },
}


RECORDED: Recorded = {
    "certificate-of-download": ["certificate_not_trusted"],
    "path-of-another-system": ["posix_path_on_windows"],
    "pretrained-of-another-size": ["from_pretrained"],
    "numpy-of-another-version": ["numpy_2_in_numpy_1"],
    "read-only-file-system": ["save_read_only", "open_read_only"],
    "no-permission": ["save_no_permission", "load_no_permission"],
    "file-not-openable": ["save_cannot_be_opened"],
    "disk-full": ["save_write_failed", "save_unexpected_pos"],
    "weights-only-numpy": ["numpy_in_2_4"],
    "weights-only-own-class": ["class_in_2_6"],
    "git-lfs-pointer": ["pointer_in_2_6"],
    "torch-file-as-safetensors": ["safetensors_too_large"],
    "safetensors-cut-off": ["safetensors_incomplete"],
    "zip-cut-off": ["not_a_zip"],
    "safetensors-as-torch-file": ["safetensors_in_2_6"],
    "zip-with-damage": ["invalid_header"],
    "layer-of-another-version": ["upsample_of_1_10"],
    "local-object-in-save": ["local_object_in_python_3_12"],
}
