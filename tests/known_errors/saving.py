"""What raises the errors of writing files of weights."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path

import safetensors.torch
import torch
from torch import nn

from known_errors import Known, Raises
from known_errors.naming import module_named, named
from known_errors.state_dicts import Net


def local_class(folder: Path) -> None:
    class Local(nn.Module):
        pass

    net = Local()
    torch.save(net, folder / "net.pt")


def local_function(folder: Path) -> None:
    torch.save({"scale": lambda x: x}, folder / "net.pt")


def local_class_in_the_old_form(folder: Path) -> None:
    class Local:
        pass

    torch.save(Local(), folder / "net.pt", _use_new_zipfile_serialization=False)


def class_defined_twice(folder: Path) -> None:
    with module_named("cells") as cells:
        old = type("Cell", (nn.Module,), {"__module__": "cells", "__qualname__": "Cell"})
        cells.Cell = type("Cell", (nn.Module,), {"__module__": "cells"})  # type: ignore[attr-defined]
        net = old()
        torch.save(net, folder / "net.pt")


def with_a(label: str, make: Callable[[], object]) -> Raises:
    def save(folder: Path) -> None:
        torch.save({"weights": torch.ones(3), "other": make()}, folder / "net.pt")

    return named(f"save_with_a_{label}", save)


def arguments_swapped(folder: Path) -> None:
    net, path = Net(), folder / "net.pt"
    torch.save(path, net)  # type: ignore[arg-type]


def into_no_folder(_folder: Path) -> None:
    net = Net()
    torch.save(net.state_dict(), "runs/1/net.pt")


def into_no_folder_in_the_old_form(folder: Path) -> None:
    torch.save({}, folder / "runs" / "net.pt", _use_new_zipfile_serialization=False)


def safetensors_into_no_folder(folder: Path) -> None:
    safetensors.torch.save_file({"a": torch.ones(3)}, folder / "runs" / "net.safetensors")


def folder_to_save(folder: Path) -> None:
    torch.save({}, folder)


def empty_name(_folder: Path) -> None:
    torch.save({}, "")


def full_disk(_folder: Path) -> None:
    torch.save({"a": torch.ones(100_000)}, "/dev/full")


def full_disk_in_the_old_form(_folder: Path) -> None:
    torch.save({"a": torch.ones(100_000)}, "/dev/full", _use_new_zipfile_serialization=False)


def save_text(folder: Path) -> None:
    with (folder / "net.pt").open("w") as file:
        torch.save({}, file)  # type: ignore[arg-type]


def tied() -> nn.Module:
    net = nn.ModuleDict({"embedding": nn.Embedding(5, 3), "out": nn.Linear(3, 5, bias=False)})
    net["out"].weight = net["embedding"].weight  # type: ignore[assignment]
    return net


def tied_weights(folder: Path) -> None:
    net = tied()
    safetensors.torch.save_file(net.state_dict(), folder / "net.safetensors")


def view(folder: Path) -> None:
    state = {"weight": torch.ones(3, 2).t()}
    safetensors.torch.save_file(state, folder / "net.safetensors")


def number_for_safetensors(folder: Path) -> None:
    state = {"weight": torch.ones(3), "epoch": 3}
    safetensors.torch.save_file(state, folder / "net.safetensors")  # type: ignore[arg-type]


KNOWN: Known = {
    "local-object-in-save": [local_class, local_function, local_class_in_the_old_form],
    "class-defined-twice": [class_defined_twice],
    "unpicklable-object-in-save": [
        with_a("lock", threading.Lock),
        with_a("generator", lambda: (n for n in range(3))),
        with_a("module", lambda: os),
    ],
    "save-arguments-swapped": [arguments_swapped],
    "folder-for-save": [
        into_no_folder,
        into_no_folder_in_the_old_form,
        safetensors_into_no_folder,
    ],
    "file-not-openable": [empty_name],
    "disk-full": [full_disk, full_disk_in_the_old_form],
    "shared-tensors-in-safetensors": [tied_weights],
    "views-in-safetensors": [view],
    "no-tensors-in-safetensors": [number_for_safetensors],
}
