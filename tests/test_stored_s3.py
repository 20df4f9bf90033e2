"""Runs in a server of objects, over HTTP."""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import luthier
from luthier.errors import RunFolderError, StorageError
from luthier.report import Console
from luthier.storage import Bucket, claim
from processes import PATIENCE, Forked
from ranks import free_port
from test_exactness import bits, differences
from test_stored import Told, another_machine, finetune

_MISSING = [n for n in ("s3fs", "moto", "flask") if importlib.util.find_spec(n) is None]
pytestmark = [
    pytest.mark.skipif(
        bool(_MISSING), reason=f"no {', '.join(_MISSING)}: pip install s3fs 'moto[server]'"
    ),
    pytest.mark.filterwarnings("default"),  # of the server's and its client's own
    pytest.mark.long,
]


class Server:
    """A server of objects in a process of its own, with a bucket."""

    def __init__(self) -> None:
        self.endpoint = f"http://127.0.0.1:{(port := free_port())}"
        path = os.pathsep.join(p for p in sys.path if p)
        self.process = subprocess.Popen(
            [sys.executable, "-c", "import moto.server as m; m.main()", "-p", str(port)],
            env={**os.environ, "PYTHONPATH": path},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        until = time.monotonic() + PATIENCE
        while not self.has_bucket():
            assert time.monotonic() < until, "the server does not answer"

    def has_bucket(self) -> bool:
        """Make the bucket if it is not there; tell whether the server has it."""
        place = urllib.request.Request(f"{self.endpoint}/bucket", method="PUT")  # noqa: S310
        try:
            return bool(urllib.request.urlopen(place, timeout=1).status == 200)  # noqa: S310
        except OSError:
            return False


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    told = {"ACCESS_KEY_ID": "x", "SECRET_ACCESS_KEY": "x", "DEFAULT_REGION": "us-east-1"}
    for name, value in told.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    monkeypatch.setenv("LUTHIER_SILENCE", "2")
    another_machine(tmp_path, monkeypatch, "first")
    made = Server()
    monkeypatch.setenv("AWS_ENDPOINT_URL", made.endpoint)
    yield made
    made.process.kill()
    made.process.wait()


def brought_here(url: str, folder: Path) -> Path:
    """Copy all objects to a folder."""
    bucket = Bucket(url)
    for name in bucket.names():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        bucket.download(name, folder / name)
    return folder


def in_a_process(function: Any) -> tuple[int | None, str]:
    # The client keeps threads: nothing may be forked once it was used here.
    process = Forked(lambda: function() and None)
    said = process.communicate(120)[1]
    return process.returncode, said


@pytest.mark.usefixtures("server")
def test_a_run_killed_in_an_upload_goes_on_from_its_url_to_the_same_bits(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = "s3://bucket/runs/ants"

    def victim() -> None:
        names: list[str] = []

        class Patient(Told):
            def say(self, text: str) -> None:
                super().say(text)
                while text.startswith("val   epoch 1/") and not has_one():
                    time.sleep(0.05)

        def has_one() -> bool:
            return any(name.endswith("manifest.json") for name in names)

        def upload(bucket: Bucket, path: Path, name: str) -> None:
            if has_one() and name.startswith("checkpoints/"):
                os.kill(os.getpid(), 9)  # in the middle of one that is not the first
            whole(bucket, path, name)
            names.append(name)

        whole = Bucket.upload
        Bucket.upload = upload  # type: ignore[method-assign]
        finetune(photos, url, console=Patient())

    def go_on() -> None:
        another_machine(tmp_path, monkeypatch, "second")
        luthier.resume(url, console=(told := Told()))
        assert "continues at step" in told
        brought_here(url, tmp_path / "brought")

    finetune(photos, tmp_path / "local")
    status, said = in_a_process(victim)
    assert status == -9, said
    status, said = in_a_process(go_on)
    assert status == 0, said
    assert differences(bits(tmp_path / "local"), bits(tmp_path / "brought")) == []


def test_one_creates_and_a_server_that_is_gone_is_named(server: Server) -> None:
    def job() -> None:
        bucket = Bucket("s3://bucket/x")
        assert bucket.create("a", b"1")
        assert not bucket.create("a", b"2")
        assert bucket.read("a") == b"1"
        with (
            claim.held(bucket, 2.0, None, print),
            pytest.raises(RunFolderError, match="in use"),
            claim.held(Bucket("s3://bucket/x"), 2.0, None, print),
        ):
            pass
        with pytest.raises(StorageError, match=r"no such place: .*bucket does not exist"):
            Bucket("s3://nowhere/x").write("a", b"")
        os.kill(server.process.pid, signal.SIGKILL)
        while server.has_bucket():
            pass
        with pytest.raises(StorageError, match=r"s3://bucket/x cannot be written to \(a\): "):
            bucket.write("a", b"3")

    status, said = in_a_process(job)
    assert status == 0, said


def test_a_photo_folder_is_not_touched_where_the_bucket_is_none(
    server: Server, photos: Path
) -> None:
    def job() -> None:
        with pytest.raises(StorageError, match="bucket does not exist"):
            luthier.finetune(photos, out="s3://nowhere/x", console=Console(quiet=True))

    status, said = in_a_process(job)
    assert status == 0, said
    assert server.process.poll() is None
