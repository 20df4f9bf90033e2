"""Published weights, fetched from a real server of this machine."""

from __future__ import annotations

import contextlib
import functools
import gc
import hashlib
import http.server
import json
import shutil
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from luthier import vision
from luthier.adapt import load
from luthier.errors import DamagedError, ModelError, WeightsUnavailableError
from luthier.files import durable, tensors
from luthier.models import build, start_weights
from luthier.models.published import IMAGENET_MEAN, IMAGENET_STD, fetch

MOBILENET = "mobilenet_v2-b0353104.pth"
RESNET = "resnet18-f37072fd.pth"
TORCHVISION = "https://download.pytorch.org/models/"


class Handler(http.server.SimpleHTTPRequestHandler):
    """Serves a folder and remembers what was asked for."""

    def __init__(self, *args: Any, asked: list[str], **named: Any) -> None:
        self.asked = asked
        super().__init__(*args, **named)

    def do_GET(self) -> None:
        self.asked.append(self.path)
        super().do_GET()

    def log_message(self, *args: object) -> None:
        pass


class Garbage(http.server.BaseHTTPRequestHandler):
    """Answers what is no HTTP."""

    def handle(self) -> None:
        self.rfile.readline()
        self.wfile.write(b"220 mail.example ready\r\n")


@contextlib.contextmanager
def serving(handler: Any) -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


class Mirror:
    """A folder that is served, the cache beside it, and what was asked for."""

    def __init__(self, folder: Path, cache: Path) -> None:
        self.folder, self.cache = folder, cache
        self.asked: list[str] = []
        self.handler = functools.partial(Handler, directory=str(folder), asked=self.asked)

    def cached(self) -> list[str]:
        return sorted(path.name for path in self.cache.glob("*"))


@pytest.fixture
def mirror(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Mirror]:
    """A mirror that serves until the test closes it or ends."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    found = Mirror(tmp_path / "served", tmp_path / "home" / "hub" / "checkpoints")
    found.folder.mkdir()
    with contextlib.ExitStack() as stack:
        address = stack.enter_context(serving(found.handler))
        monkeypatch.setenv("LUTHIER_WEIGHTS_MIRROR", address + "/")
        found.close = stack.close  # type: ignore[attr-defined]
        yield found


def test_published_weights_are_fetched_once_and_fit(mirror: Any, shared: Path) -> None:
    shutil.copy(shared / "weights" / MOBILENET, mirror.folder)
    start = start_weights("mobilenet_v2", "IMAGENET1K_V1")
    assert mirror.asked == [f"/{MOBILENET}"]
    assert mirror.cached() == [MOBILENET]
    assert "mobilenet_v2" in start.source
    assert "IMAGENET1K_V1" in start.source
    model = build("mobilenet_v2", 3)
    plan = load(model, start.archive)
    assert plan.coverage == 1.0
    assert not plan.unexpected
    whole = torch.load(shared / "weights" / MOBILENET, weights_only=True)
    assert all(torch.equal(t, whole[n]) for n, t in model.state_dict().items())
    mirror.close()
    again = start_weights("mobilenet_v2", "IMAGENET1K_V1")
    assert mirror.asked == [f"/{MOBILENET}"]
    assert again.archive.sha256 == start.archive.sha256
    assert (
        again.archive.sha256
        == hashlib.sha256((shared / "weights" / MOBILENET).read_bytes()).hexdigest()
    )


def test_a_file_of_the_name_of_published_weights_has_their_preprocessing(
    shared: Path, tmp_path: Path
) -> None:
    start = start_weights("mobilenet_v2", str(shared / "weights" / MOBILENET))
    models = vision.load("torchvision.models")
    preset = models.MobileNet_V2_Weights.IMAGENET1K_V1.transforms()
    assert start.mean == tuple(preset.mean)
    assert start.std == tuple(preset.std)
    assert start.interpolation == preset.interpolation.value == "bilinear"
    assert tmp_path.exists()


def test_wrong_bytes_are_damage_and_stay_nowhere(mirror: Any) -> None:
    (mirror.folder / RESNET).write_bytes(b"not these weights")
    with pytest.raises(DamagedError, match=f"{RESNET}.*invalid hash"):
        start_weights("resnet18", "imagenet")
    assert mirror.asked == [f"/{RESNET}"]
    assert mirror.cached() == []


def test_a_damaged_file_in_the_cache_is_refused(mirror: Any) -> None:
    mirror.cache.mkdir(parents=True)
    (mirror.cache / RESNET).write_bytes(b"not these weights")
    with pytest.raises(DamagedError, match=r"expected f37072fd as its name says(.|\n)*remove it"):
        start_weights("resnet18", "imagenet")
    assert mirror.asked == []


def assert_tells_what_to_do(error: pytest.ExceptionInfo[BaseException], mirror: Any) -> None:
    assert TORCHVISION + RESNET in str(error.value)
    assert str(mirror.cache / RESNET) in str(error.value)
    assert mirror.cached() == []


def test_what_the_mirror_lacks_is_told_with_what_to_fetch_and_where_to_put_it(mirror: Any) -> None:
    with pytest.raises(WeightsUnavailableError, match="404") as error:
        start_weights("resnet18", "imagenet")
    assert error.value.__cause__.closed  # type: ignore[union-attr]
    assert_tells_what_to_do(error, mirror)


def test_a_mirror_that_is_gone_is_told_the_same_way(mirror: Any) -> None:
    mirror.close()
    with pytest.raises(WeightsUnavailableError, match="refused") as error:
        start_weights("resnet18", "imagenet")
    assert_tells_what_to_do(error, mirror)


def test_a_mirror_that_speaks_no_http_is_told_the_same_way(
    mirror: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with warnings.catch_warnings():  # urllib leaves this connection to the garbage collector
        warnings.simplefilter("ignore", ResourceWarning)
        with serving(Garbage) as address:
            monkeypatch.setenv("LUTHIER_WEIGHTS_MIRROR", address)
            with pytest.raises(WeightsUnavailableError) as error:
                start_weights("resnet18", "imagenet")
        assert_tells_what_to_do(error, mirror)
        del error
        gc.collect()


def test_a_mirror_that_is_no_address_is_told_the_same_way(
    mirror: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LUTHIER_WEIGHTS_MIRROR", "mirror.example/models")
    with pytest.raises(WeightsUnavailableError, match=r"mirror\.example/models") as error:
        start_weights("resnet18", "imagenet")
    assert_tells_what_to_do(error, mirror)


def test_a_file_put_where_the_message_says_is_taken(mirror: Any) -> None:
    content = b"the weights"
    name = f"small-{hashlib.sha256(content).hexdigest()[:8]}.pth"
    mirror.close()
    with pytest.raises(WeightsUnavailableError):
        fetch(TORCHVISION + name)
    (mirror.cache / name).write_bytes(content)
    assert fetch(TORCHVISION + name) == mirror.cache / name


def test_a_file_whose_name_carries_another_hash_is_damaged(tmp_path: Path) -> None:
    tensors.write(tmp_path / "plain.safetensors", {"a": torch.ones(2)})
    sha256 = durable.sha256(tmp_path / "plain.safetensors")
    right = tmp_path / f"mine-{sha256[:8]}.safetensors"
    wrong = tmp_path / "mine-0123abcd.safetensors"
    shutil.copy(tmp_path / "plain.safetensors", right)
    shutil.copy(tmp_path / "plain.safetensors", wrong)
    assert start_weights("resnet18", str(right)).archive.sha256 == sha256
    with pytest.raises(DamagedError, match=f"begins with {sha256[:8]}, expected 0123abcd"):
        start_weights("resnet18", str(wrong))


def test_an_unknown_name_of_weights_gives_the_nearest_and_all() -> None:
    with pytest.raises(WeightsUnavailableError) as error:
        start_weights("resnet50", "IMAGENET1K_V3")
    assert "did you mean 'IMAGENET1K_V" in str(error.value)
    assert "IMAGENET1K_V1, IMAGENET1K_V2" in str(error.value)


def test_an_unknown_model_has_no_published_weights() -> None:
    with pytest.raises(ModelError, match=r"unknown model 'resnet81'.*'resnet18'"):
        start_weights("resnet81", "imagenet")


def test_an_own_model_has_no_published_weights() -> None:
    with pytest.raises(WeightsUnavailableError, match=r"of own_net:Net(.|\n)*--weights none"):
        start_weights("own_net:Net", "imagenet")


def test_a_file_that_does_not_exist_is_told(tmp_path: Path) -> None:
    with pytest.raises(WeightsUnavailableError, match=r"missing\.pth does not exist"):
        start_weights("resnet18", str(tmp_path / "missing.pth"))
    with pytest.raises(WeightsUnavailableError, match="did you mean 'imagenet'"):
        start_weights("resnet18", "imagnet")


def test_none_is_a_random_start() -> None:
    start = start_weights("resnet18", "none")
    assert start.archive is None
    assert start.source == "random"


@pytest.mark.parametrize(
    ("model", "weights", "interpolation"),
    [
        ("resnet18", "IMAGENET1K_V1", "bilinear"),
        ("efficientnet_b0", "IMAGENET1K_V1", "bicubic"),
        ("efficientnet_v2_l", "IMAGENET1K_V1", "bicubic"),
    ],
)
def test_preprocessing_is_that_of_the_published_weights(
    mirror: Any, monkeypatch: pytest.MonkeyPatch, model: str, weights: str, interpolation: str
) -> None:
    entry = vision.load("torchvision.models").get_model_weights(model)[weights]
    torch.save({"fc.weight": torch.ones(1)}, mirror.folder / "content")
    content = (mirror.folder / "content").read_bytes()
    # The true file is not at hand: the same entry, with the address of a small one.
    name = f"{model}-{hashlib.sha256(content).hexdigest()[:8]}.pth"
    monkeypatch.setattr(entry.value, "url", TORCHVISION + name)
    (mirror.folder / name).write_bytes(content)
    start = start_weights(model, weights)
    preset = entry.transforms()
    assert start.mean == tuple(preset.mean)
    assert start.std == tuple(preset.std)
    assert start.interpolation == preset.interpolation.value == interpolation


def test_a_luthier_file_has_its_own_preprocessing(tmp_path: Path) -> None:
    own = {"mean": [0.5, 0.4, 0.3], "std": [0.1, 0.2, 0.3], "interpolation": "bicubic"}
    path = tmp_path / "model.safetensors"
    tensors.write(path, {"a": torch.ones(2)}, {"preprocessing": own})
    start = start_weights("resnet18", str(path))
    assert (start.mean, start.std) == ((0.5, 0.4, 0.3), (0.1, 0.2, 0.3))
    assert start.interpolation == "bicubic"
    assert start.source == str(path)


def test_a_file_for_a_timm_model_gets_the_preprocessing_of_timm(tmp_path: Path) -> None:
    torch.save({"a": torch.ones(2)}, tmp_path / "w.pt")
    start = start_weights("timm/vit_tiny_patch16_224", str(tmp_path / "w.pt"))
    assert (start.mean, start.std) == ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    assert start.interpolation == "bicubic"


def test_a_foreign_file_gets_the_preprocessing_of_imagenet(tmp_path: Path) -> None:
    torch.save({"a": torch.ones(2)}, tmp_path / "w.pt")
    start = start_weights("resnet18", str(tmp_path / "w.pt"))
    assert (start.mean, start.std) == (IMAGENET_MEAN, IMAGENET_STD)
    assert start.interpolation == "bilinear"


def test_a_description_that_is_none_is_damage(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    for own in ([1], {"mean": 3, "std": 3}, {"mean": [1], "std": [1], "interpolation": "cubic"}):
        tensors.write(path, {"a": torch.ones(2)}, {"preprocessing": own})
        with pytest.raises(DamagedError, match="the preprocessing in its description is"):
            start_weights("resnet18", str(path))


def test_a_start_may_be_a_folder_of_shards(tmp_path: Path) -> None:
    folder = tmp_path / "model-0123abcd.d"
    folder.mkdir()
    tensors.write(folder / "one.safetensors", {"a": torch.ones(2)})
    index = {"weight_map": {"a": "one.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    start = start_weights("resnet18", str(folder))
    assert torch.equal(start.tensors()["a"], torch.ones(2))
    assert start_weights("resnet18", "none").tensors() == {}
