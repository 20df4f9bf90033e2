"""How often the expensive things are done, counted: what keeps runs fast, and no clock measures."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import luthier
from conftest import LENET
from luthier.data import Decoded
from luthier.models import Split
from luthier.report import Console
from luthier.training import Precision

EPOCHS = 3
TRAIN, VAL = 28, 11  # photos


def finetune(photos: Path, out: Path, **knobs: Any) -> luthier.Result:
    small = {"model": LENET, "image_size": 32, "batch_size": 4, "epochs": EPOCHS, "workers": 2}
    return luthier.finetune(photos, out=out, console=Console(quiet=True), **(small | knobs))


@pytest.fixture(scope="module")
def start(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    run = tmp_path_factory.mktemp("start") / "run"
    return str(finetune(photos, run, weights="none", epochs=1).model)


def counted(
    monkeypatch: pytest.MonkeyPatch, owner: type, name: str, count: Callable[..., int]
) -> list[int]:
    """Count what each call of a method is given, and let it do its work."""
    method, calls = getattr(owner, name), []

    def counting(self: Any, *given: Any, **named: Any) -> Any:
        calls.append(count(*given))
        return method(self, *given, **named)

    monkeypatch.setattr(owner, name, counting)
    return calls


def decodes_of_the_run(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Note each photo that is decoded until the run is finished; its page then shows some."""
    decode, decoded = Decoded.decode, list[Path]()
    first: list[Decoded] = []

    def noting(self: Decoded, path: Path, *given: Any, **named: Any) -> Any:
        first.append(self)
        if self is first[0]:
            decoded.append(path)
        return decode(self, path, *given, **named)

    monkeypatch.setattr(Decoded, "decode", noting)
    return decoded


@pytest.mark.parametrize("augment", ["crop-flip", "none"])
def test_a_run_decodes_each_photo_once(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, augment: str
) -> None:
    decodes = decodes_of_the_run(monkeypatch)
    finetune(photos, tmp_path / "run", weights="none", augment=augment)
    assert len(decodes) == TRAIN + VAL


@pytest.mark.parametrize(("memory", "disk", "epochs"), [(0, 0, EPOCHS), (0, 1, 1)])
def test_without_memory_photos_are_decoded_each_time_or_kept_on_the_disk(
    photos: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    memory: float,
    disk: float,
    epochs: int,
) -> None:
    decodes = decodes_of_the_run(monkeypatch)
    finetune(photos, tmp_path / "run", weights="none", cache_memory=memory, cache_disk=disk)
    assert len(decodes) == (TRAIN + VAL) * (1 + epochs)  # the first look comes before the run


def test_a_frozen_trunk_sees_each_training_photo_once_an_epoch_and_the_others_once_a_run(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, start: str
) -> None:
    seen = counted(monkeypatch, Split, "features", len)
    finetune(photos, tmp_path / "run", weights=start, strategy="frozen")
    checked = 2 * 4  # the first batch is compared with the model itself, and must come out twice
    assert sum(seen) == EPOCHS * TRAIN + VAL + checked


def test_a_batch_is_made_where_it_is_needed(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place, moved = Precision.place, []

    def watched(self: Precision, tensor: torch.Tensor) -> torch.Tensor:
        placed = place(self, tensor)
        moved.append(placed.data_ptr() != tensor.data_ptr())
        return placed

    monkeypatch.setattr(Precision, "place", watched)
    finetune(photos, tmp_path / "run", weights="none")
    assert len(moved) == EPOCHS * 2 * (TRAIN // 4 + -(-VAL // 4))
    assert not any(moved)


def test_a_checkpoint_of_a_frozen_trunk_writes_little_beside_the_head(
    photos: Path, tmp_path: Path, start: str
) -> None:
    run = finetune(photos, tmp_path / "run", weights=start, strategy="frozen").run
    first, last = sorted((run / "checkpoints").iterdir())[-2:]
    linked = {path.stat().st_ino for path in first.iterdir()}
    written = sum(p.stat().st_size for p in last.iterdir() if p.stat().st_ino not in linked)
    whole = sum(path.stat().st_size for path in last.iterdir())
    assert written < 0.4 * whole  # of LeNet, most of whose file is plain JSON about the run
