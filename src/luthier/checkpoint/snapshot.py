"""A copy of tensors at one moment, made while training goes on.

Parameters and optimizer state change in an optimizer's step and nowhere else, so they may be
copied during the forward and backward that follow a save; the next step waits for the copy. What
changes at other moments is copied before training goes on. Where a tensor was changed too early
all the same, its version counter shows it, and the copy is not used. The counter does not see what
is written past it, by ``tensor.data`` or through numpy, so a few elements of each parameter are
looked at as well.
"""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Executor, Future
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch.nn import Parameter

from luthier.checkpoint.layout import File
from luthier.distributed.pieces import collect, is_cut
from luthier.errors import UnsupportedStateError
from luthier.files.image import Array, Image, bits_of, copy_bits, some_bits


@dataclass
class Snapshot:
    """A copy under way; ``settle`` ends it.

    Attributes:
        images: the files' content, by name.
    """

    images: Mapping[str, Image]
    _versions: list[tuple[str, torch.Tensor, int]] = field(default_factory=list)
    _copying: Future[list[str]] | None = None
    _events: list[torch.cuda.Event] = field(default_factory=list)

    def settle(self) -> list[str]:
        """Wait until what a step changes has been copied.

        A device waits by itself; the host goes on.

        Returns:
            names of tensors that have changed since the moment of the snapshot and before this
            call: if there are any, the copy may hold two moments and must not be used.
        """
        changed = self._copying.result() if self._copying is not None else []
        for event in self._events:
            event.wait()
        versions = self._versions
        return changed + [name for name, tensor, version in versions if tensor._version != version]

    def arrived(self) -> None:
        """Wait until everything is on the host; only after ``settle``."""
        for event in self._events:
            event.synchronize()


class Copier:
    """Makes snapshots, one at a time, in buffers that are kept from one to the next.

    Args:
        thread: copies on the host while training goes on.
        rank: of this process, which copies what goes into the files that it writes.
    """

    def __init__(self, thread: Executor, rank: int = 0) -> None:
        self._thread, self._rank = thread, rank
        self._images: dict[str, Image] = {}

    def begin(self, files: Mapping[str, File], *, at_once: bool = False) -> Snapshot:
        """Copy what may change at any time, begin to copy the rest, and return.

        The snapshot before this one must no longer be in use: the buffers are the same. Of tensors
        that are cut, each process gives its rows to who writes them.

        Args:
            files: of all processes, by name.
            at_once: copy everything before returning.

        Raises:
            UnsupportedStateError: a tensor of a kind that safetensors cannot hold; it is named.
        """
        own = {name: file for name, file in files.items() if file.writer == self._rank}
        self._images = {name: self._image(name, file) for name, file in own.items()}
        for name, file in files.items():
            _put_together(file, self._images[name].tensors if name in own else None)
        snapshot = Snapshot(self._images)
        on_host: list[_Later] = []
        on_device: list[tuple[torch.Tensor, torch.Tensor]] = []
        for name, file in own.items():
            image = self._images[name]
            now = {key: tensor for key, tensor in file.now.items() if not is_cut(tensor)}
            for key, given in file.later.items():
                if is_cut(given):
                    continue
                # Whose data is swapped for other data goes on with that; the copy does not.
                is_parameter = isinstance(given, Parameter) or given.requires_grad
                tensor = given.detach() if is_parameter else given
                on_cpu = tensor.is_cpu
                if at_once or not (on_cpu or tensor.is_cuda) or tensor.is_inference():
                    now[key] = tensor
                    continue
                snapshot._versions.append((key, tensor, tensor._version))
                if on_cpu:
                    was = some_bits(bits_of(tensor)) if is_parameter else None
                    on_host.append(_Later(key, image.bits[key], tensor, was))
                else:
                    on_device.append((image.tensors[key], tensor))
            _copy_now(image, now)
        if on_host:
            snapshot._copying = self._thread.submit(_copy_all, on_host)
        snapshot._events += _copy_beside(on_device)
        return snapshot

    def _image(self, name: str, file: File) -> Image:
        tensors = file.tensors
        kept = self._images.get(name)
        if kept is not None and kept.fits(tensors):
            return kept
        for key, tensor in tensors.items():
            kind = _strange_kind(tensor)
            if kind is not None:
                raise UnsupportedStateError(
                    f"tensor {key!r} is {kind}, which safetensors cannot hold"
                )
        return Image(tensors, pinned=any(tensor.is_cuda for tensor in tensors.values()))


def _put_together(file: File, places: Mapping[str, torch.Tensor] | None) -> None:
    """Collect the tensors of a file of which each process has some rows, in all processes at once.

    Args:
        file: of a checkpoint.
        places: on the host, in the process that writes the file; None in the others.
    """
    for key, tensor in file.tensors.items():
        if is_cut(tensor):
            collect(tensor, None if places is None else places[key], file.writer)


def _strange_kind(tensor: torch.Tensor) -> str | None:
    if tensor.is_nested or tensor.is_quantized:
        return "nested" if tensor.is_nested else "quantized"
    if tensor.is_meta:
        return "on the device meta, without values"
    return None if tensor.layout == torch.strided else str(tensor.layout)


def _copy_now(image: Image, tensors: Mapping[str, torch.Tensor]) -> None:
    if not tensors:
        return
    with torch.no_grad():  # one call: a model has many small buffers
        places = [image.tensors[name] for name in tensors]
        torch._foreach_copy_(places, list(tensors.values()))


class _Later(NamedTuple):
    name: str
    place: Array
    tensor: torch.Tensor
    was: bytes | None  # ``some_bits`` of a parameter at the moment of the snapshot


def _copy_all(waiting: list[_Later]) -> list[str]:
    for later in waiting:
        copy_bits(later.place, bits_of(later.tensor))
    return [w.name for w in waiting if w.was is not None and some_bits(w.place) != w.was]


def _copy_beside(pairs: list[tuple[torch.Tensor, torch.Tensor]]) -> list[torch.cuda.Event]:
    """Copy to the host on a stream of its own, after what has been asked of the device so far."""
    events = []
    for device in sorted({tensor.device for _, tensor in pairs}, key=str):
        stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(stream):
            for place, tensor in pairs:
                if tensor.device == device:
                    place.copy_(tensor.detach(), non_blocking=True)
                    tensor.record_stream(stream)
        event = torch.cuda.Event()  # type: ignore[no-untyped-call]
        event.record(stream)
        events.append(event)
    return events
