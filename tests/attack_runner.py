"""Opens what the files under attacks/ build, each in a process of its own, and tells the answer.

    python tests/attack_runner.py [NAME ...]

A line of JSON for each: ``answer`` is "opened" or the kind of error, ``said`` its text, ``ran``
whether the payload did, ``called`` what a pickle loader would have called, ``memory`` the bytes
beyond the size of the file that it took, ``seconds`` of processor time.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from luthier.errors import LuthierError
from luthier.files.entries import walk
from luthier.files.formats import numpy, safetensors, torch_legacy, torch_zip  # noqa: F401
from luthier.files.opening import open_archive

ATTACKS = Path(__file__).parent / "attacks"
EXTRAS = {"hdf5": "h5py", "onnx": "onnx", "gguf": "gguf"}  # a format, the package that reads it
MOST_SECONDS = 60


def attack(name: str, folder: Path) -> tuple[Path, Path]:
    """Build an attack in a folder of its own; return the file and the payload's marker."""
    spec = importlib.util.spec_from_file_location(name, ATTACKS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    (folder / "inside").mkdir(parents=True)
    return module.build(folder / "inside", folder / "marker"), folder / "marker"


def build(name: str, folder: Path) -> None:
    path, _ = attack(name, folder / name)
    (folder / name / "path").write_text(str(path))


def peak() -> int:
    found = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return found if sys.platform == "darwin" else found << 10


def size(path: Path) -> int:
    return sum(file.lstat().st_size for file in (path, *path.rglob("*")))


def opened(path: Path) -> dict[str, Any]:
    resource.setrlimit(resource.RLIMIT_CPU, (MOST_SECONDS, MOST_SECONDS))
    before = peak()
    found: dict[str, Any] = {"answer": "opened", "said": "", "called": []}
    try:
        archive = open_archive(path)
        found["called"] = [str(reference) for reference, is_called in archive.globals if is_called]
        values = [value for _, value in walk(archive.content)]
        found["said"] = " ".join({value.why for value in values if hasattr(value, "why")})
        archive.check()
    except LuthierError as error:
        found |= {"answer": type(error).__name__, "said": str(error)}
    used = resource.getrusage(resource.RUSAGE_SELF)
    memory = peak() - before - size(path)
    return found | {"memory": memory, "seconds": used.ru_utime + used.ru_stime}


def run(place: Path) -> dict[str, Any]:
    """Open a file in a process of its own."""
    receive, send = os.pipe()
    child = os.fork()
    if not child:
        try:
            with contextlib.suppress(ImportError):
                importlib.import_module(EXTRAS.get(place.name.partition("_")[0], "json"))
            os.write(send, json.dumps(opened(Path((place / "path").read_text()))).encode())
        finally:
            os._exit(0)
    os.close(send)
    with os.fdopen(receive, "rb") as pipe:
        content = pipe.read()
    _, status = os.waitpid(child, 0)
    found = json.loads(content) if content else {"answer": f"died with status {status}"}
    return {"name": place.name, "ran": (place / "marker").exists()} | found


def main(names: list[str]) -> None:
    if names[:1] == ["--opened"]:
        for place in sorted(Path(names[1]).iterdir()):
            print(json.dumps(run(place)), flush=True)
        return
    with tempfile.TemporaryDirectory() as folder:
        for name in names or sorted(path.stem for path in ATTACKS.glob("*.py")):
            build(name, Path(folder))
        # What builds them may import torch; what opens them starts anew, and is small.
        subprocess.run([sys.executable, __file__, "--opened", folder], check=True)


if __name__ == "__main__":
    main(sys.argv[1:])
