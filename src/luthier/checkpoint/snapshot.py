"""A copy of tensors at one moment, made while training goes on.

Parameters and optimizer state change in an optimizer's step and nowhere else, so they may be
copied during the forward and backward that follow a save; the next step waits for the copy. What
changes at other moments is copied before training goes on. Where a tensor was changed too early
all the same, its version counter shows it, and the copy is not used.
"""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Executor, Future
from dataclasses import dataclass, field

import torch

from luthier.checkpoint.parts import Captured
from luthier.files.image import Image, copy_bits, key_of


@dataclass(frozen=True)
class File:
    """A file of a checkpoint and the tensors that go into it.

    Attributes:
        later: of ``Captured``: copied while training goes on.
        now: of ``Captured``: copied at once.
    """

    later: Mapping[str, torch.Tensor]
    now: Mapping[str, torch.Tensor]

    @property
    def tensors(self) -> dict[str, torch.Tensor]:
        """All of them."""
        return {**self.later, **self.now}


def files_of(part: str, captured: Captured) -> dict[str, File]:
    """Lay a part out in files: one, or two where some of its tensors are not being trained."""
    names = captured.later.keys() | captured.now.keys()
    if not names:
        return {}
    still = captured.still & names
    if not still or still == names:
        return {f"{part}.safetensors": File(captured.later, captured.now)}
    shards = still, names - still
    return {
        f"{part}-{number:05d}-of-00002.safetensors": File(
            {name: t for name, t in captured.later.items() if name in shard},
            {name: t for name, t in captured.now.items() if name in shard},
        )
        for number, shard in enumerate(shards, start=1)
    }


@dataclass
class Snapshot:
    """A copy under way; ``settle`` ends it.

    Attributes:
        images: the files' content, by name.
    """

    images: Mapping[str, Image]
    _versions: list[tuple[str, torch.Tensor, int]] = field(default_factory=list)
    _copying: Future[None] | None = None
    _events: list[torch.cuda.Event] = field(default_factory=list)

    def settle(self) -> list[str]:
        """Wait until what a step changes has been copied.

        A device waits by itself; the host goes on.

        Returns:
            names of tensors that have changed since the moment of the snapshot and before this
            call: if there are any, the copy holds two moments and must not be used.
        """
        if self._copying is not None:
            self._copying.result()
        for event in self._events:
            event.wait()
        return [name for name, tensor, version in self._versions if tensor._version != version]

    def arrived(self) -> None:
        """Wait until everything is on the host; only after ``settle``."""
        for event in self._events:
            event.synchronize()


class Copier:
    """Makes snapshots, one at a time, in buffers that are kept from one to the next.

    Args:
        thread: copies on the host while training goes on.
    """

    def __init__(self, thread: Executor) -> None:
        self._thread = thread
        self._images: dict[str, Image] = {}

    def begin(self, files: Mapping[str, File], *, at_once: bool = False) -> Snapshot:
        """Copy what may change at any time, begin to copy the rest, and return.

        The snapshot before this one must no longer be in use: the buffers are the same.

        Args:
            files: by name.
            at_once: copy everything before returning.

        Raises:
            TypeError: a tensor of a kind that safetensors cannot hold; it is named.
        """
        self._images = {name: self._image(name, file) for name, file in files.items()}
        snapshot = Snapshot(self._images)
        waiting: list[tuple[torch.Tensor, torch.Tensor]] = []
        for name, file in files.items():
            places = self._images[name].tensors
            for key, tensor in file.now.items():
                _copy_now(places[key], tensor)
            for key, tensor in file.later.items():
                if at_once or tensor.is_inference() or tensor.device.type not in ("cpu", "cuda"):
                    _copy_now(places[key], tensor)
                    continue
                snapshot._versions.append((key, tensor, tensor._version))
                waiting.append((places[key], tensor))
        on_host = [(place, t) for place, t in waiting if t.device.type == "cpu"]
        if on_host:
            snapshot._copying = self._thread.submit(_copy_all, on_host)
        on_device = [(place, t) for place, t in waiting if t.device.type != "cpu"]
        snapshot._events += _copy_beside(on_device)
        return snapshot

    def _image(self, name: str, file: File) -> Image:
        tensors = file.tensors
        for key, tensor in tensors.items():
            if tensor.layout != torch.strided or tensor.is_quantized:
                kind = "quantized" if tensor.is_quantized else tensor.layout
                raise TypeError(f"tensor {key!r} is {kind}, which safetensors cannot hold")
        kept = self._images.get(name)
        if kept is not None and kept.key == key_of(tensors):
            return kept
        return Image(tensors, pinned=any(t.is_cuda for t in tensors.values()))


def _copy_now(place: torch.Tensor, tensor: torch.Tensor) -> None:
    if tensor.device.type == "cpu":
        copy_bits(place, tensor)
    else:
        place.copy_(tensor.detach())


def _copy_all(pairs: list[tuple[torch.Tensor, torch.Tensor]]) -> None:
    for place, tensor in pairs:
        copy_bits(place, tensor)


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
