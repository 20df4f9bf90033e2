"""A fuzz target over every reader of files, for atheris (coverage-guided, on libFuzzer).

    pip install 'luthier[fuzz]'
    python tests/fuzz/readers.py -max_total_time=3600 [CORPUS]

The first byte of an input says what the rest is: a whole file, or the part of one that a checksum
would otherwise keep from being reached (a pickle inside a sound zip file, the header of a
safetensors file, …). Whatever the bytes are, opening, walking, describing and checking them ends in
a result or in one of luthier's own errors, within the limits of memory and time, and runs nothing.
The first input that ends in any other way is kept in the folder ``luthier-findings`` of the
temporary folder, one for each place in the code; what was found is a test in
``tests/test_fuzz_findings.py``.
"""

from __future__ import annotations

import io
import pickle
import resource
import struct
import sys
import tempfile
import traceback
import zipfile
from collections.abc import Callable
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["luthier"]):
    from luthier.errors import LuthierError
    from luthier.files import entries, opening
    from luthier.files.contents.candidates import candidates, suspicious
    from luthier.files.tensors import tensor
    from luthier.run.verify import verify
    from luthier.weights import inspect

ROOM = 64 << 20  # bytes beside the file's size
SMALL = 1 << 16  # bytes of a tensor that is read
PLACE = Path(tempfile.mkdtemp(prefix="luthier-fuzz-"))
FINDINGS = Path(tempfile.gettempdir()) / "luthier-findings"


def in_zip(name: str) -> Callable[[bytes], bytes]:
    """Return what puts a pickle where torch has one, in a zip file that is sound."""

    def wrap(content: bytes) -> bytes:
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr(f"archive/{name}", content)
            archive.writestr("archive/byteorder", b"little")
            archive.writestr("archive/version", b"3\n")
            for number in range(3):
                archive.writestr(f"archive/data/{number}", bytes(range(64)))
        return file.getvalue()

    return wrap


def as_header(content: bytes) -> bytes:
    """Put bytes where safetensors has its header."""
    return len(content).to_bytes(8, "little") + content + bytes(256)


def as_npy(content: bytes) -> bytes:
    """Put bytes where numpy has its header."""
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(content) & 0xFFFF) + content + bytes(256)


def in_npz(content: bytes) -> bytes:
    """Put bytes in a zip file as an array."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.npy", as_npy(content))
    return file.getvalue()


def as_legacy(content: bytes) -> bytes:
    """Put a pickle behind the three with which torch began its files before 1.6."""
    before = (0x1950A86A20F9469CFC6C, 1001, {"protocol_version": 1001, "little_endian": True})
    return b"".join(pickle.dumps(value, 2) for value in before) + content


def as_index(content: bytes) -> bytes:
    """Put bytes where an index says which shard has which tensor."""
    return b'{"metadata": {}, "weight_map": ' + content


FILES: tuple[Callable[[bytes], bytes], ...] = (
    lambda content: content,
    lambda content: b"\x80\x02" + content,
    in_zip("data.pkl"),
    as_header,
    as_npy,
    in_npz,
    as_legacy,
    lambda content: b"GGUF\x03\x00\x00\x00" + content,
    lambda content: b"\x08\x08" + content,  # ONNX
    lambda content: b"\x89HDF\r\n\x1a\n" + content,
)
FOLDERS: tuple[Callable[[bytes], dict[str, bytes]], ...] = (
    lambda content: {".metadata": content, "__0_0.distcp": bytes(256)},
    lambda content: {
        "model.safetensors.index.json": as_index(content),
        "a.safetensors": as_header(b'{"w":{"dtype":"U8","shape":[256],"data_offsets":[0,256]}}'),
    },
)


def written(content: bytes) -> Path:
    """Write what an input stands for, and return where."""
    shape, rest = content[0] % (len(FILES) + len(FOLDERS)), content[1:]
    path = PLACE / "input"
    if shape < len(FILES):
        path.write_bytes(FILES[shape](rest))
        return path
    folder = PLACE / f"folder-{shape}"
    folder.mkdir(exist_ok=True)
    for name, held in FOLDERS[shape - len(FILES)](rest).items():
        (folder / name).write_bytes(held)
    return folder


def look(path: Path) -> None:
    """Do with a file what the commands do."""
    archive = opening.open_archive(path)
    for _place, value in entries.walk(archive.content):
        if isinstance(value, entries.TensorEntry) and value.nbytes <= SMALL:
            tensor(value)
    candidates(archive)
    suspicious(archive)
    archive.check()


def attempt(content: bytes) -> None:
    """Try one input.

    Raises:
        Exception: whatever is no error of luthier's own, or MemoryError.
    """
    path = written(content)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for use in (look, verify, inspect.inspect):
        try:
            str(use(path))
        except LuthierError as error:
            str(error)
    grown = 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
    if grown > ROOM + len(content) + 4096:
        raise MemoryError(f"{grown} bytes for a file of {len(content)}")


def one(content: bytes) -> None:
    """Try one input; keep it where it is the first to end in this way, and go on."""
    if not content:
        return
    try:
        attempt(content)
    except Exception as error:
        frames = [f for f in traceback.extract_tb(error.__traceback__) if "luthier" in f.filename]
        place = f"{Path(frames[-1].filename).stem}-{frames[-1].lineno}" if frames else "fuzz"
        kept = FINDINGS / f"{type(error).__name__}-{place}"
        if not kept.exists():
            kept.write_bytes(content)
            print(f"FOUND {kept.name}: {error!r:.200}", flush=True)


def onnx_model() -> bytes:
    """Return a small model as ONNX."""
    import numpy as np  # noqa: PLC0415
    from onnx import helper, numpy_helper  # noqa: PLC0415

    weights = [numpy_helper.from_array(np.ones((2, 3), np.float32), "w")]
    model: bytes = helper.make_model(
        helper.make_graph([], "g", [], [], weights)
    ).SerializeToString()
    return model


def gguf_model() -> bytes:
    """Return a small model as GGUF."""
    import gguf  # noqa: PLC0415
    import numpy as np  # noqa: PLC0415

    path = PLACE / "seed.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_tensor("w", np.ones((2, 3), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path.read_bytes()


def hdf5_file() -> bytes:
    """Return a small file of HDF5."""
    import h5py  # noqa: PLC0415

    path = PLACE / "seed.h5"
    with h5py.File(path, "w") as file:
        file["layer/w"] = [[1.0, 2.0]]
    return path.read_bytes()


def seeds(folder: Path) -> None:
    """Write small sound files of every format, from which the fuzzer begins."""
    import collections  # noqa: PLC0415

    import numpy as np  # noqa: PLC0415
    import torch  # noqa: PLC0415
    import torch.distributed.checkpoint as distributed  # noqa: PLC0415
    from safetensors.torch import save  # noqa: PLC0415

    folder.mkdir(parents=True, exist_ok=True)
    weights = torch.nn.Linear(2, 3).state_dict()
    trees = [weights, {"state_dict": weights, "epoch": 3}, torch.nn.Linear(2, 2), [1, "a", (2.5,)]]
    for number, tree in enumerate(trees):
        for is_zip in (True, False):
            file = io.BytesIO()
            torch.save(tree, file, _use_new_zipfile_serialization=is_zip)
            (folder / f"torch-{number}-{is_zip}").write_bytes(b"\x00" + file.getvalue())
            if is_zip:
                inner = zipfile.ZipFile(file)
                member = next(n for n in inner.namelist() if n.endswith("data.pkl"))
                (folder / f"zip-{number}").write_bytes(b"\x02" + inner.read(member))
    for protocol in range(6):
        value = collections.OrderedDict(a=[1, 2.5, None, b"x"], b={"c": (1, True)}, d={1, 2})
        (folder / f"pickle-{protocol}").write_bytes(b"\x00" + pickle.dumps(value, protocol))
        array = pickle.dumps(np.arange(4, dtype=np.float32), protocol)
        (folder / f"array-{protocol}").write_bytes(b"\x00" + array)
    scripted = io.BytesIO()
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 3)), scripted)
    (folder / "torchscript").write_bytes(b"\x00" + scripted.getvalue())
    place = folder.parent / "luthier-distributed"
    distributed.save(dict(weights), checkpoint_id=place)
    (folder / "distributed").write_bytes(b"\x0a" + (place / ".metadata").read_bytes())
    (folder / "index").write_bytes(b'\x0b{"w": "a.safetensors"}}')
    for name, written in (("onnx", onnx_model()), ("gguf", gguf_model()), ("hdf5", hdf5_file())):
        (folder / name).write_bytes(b"\x00" + written)
    whole = save(weights)
    length = int.from_bytes(whole[:8], "little")
    (folder / "safetensors").write_bytes(b"\x00" + whole)
    (folder / "header").write_bytes(b"\x03" + whole[8 : 8 + length])
    file = io.BytesIO()
    np.savez(file, a=np.arange(4), b=np.zeros((2, 2), np.float16))
    (folder / "npz").write_bytes(b"\x00" + file.getvalue())
    file = io.BytesIO()
    np.save(file, np.arange(4, dtype=">f4"))
    (folder / "npy").write_bytes(b"\x00" + file.getvalue())
    (folder / "npy-header").write_bytes(b"\x04" + file.getvalue()[10:])


if __name__ == "__main__":
    FINDINGS.mkdir(exist_ok=True)
    corpus = Path(tempfile.gettempdir()) / "luthier-corpus"
    arguments = [*sys.argv, "-timeout=20", "-max_len=16384", "-detect_leaks=0"]
    if all(word.startswith("-") for word in sys.argv[1:]):
        arguments.append(str(corpus))
        seeds(corpus)
    atheris.Setup(arguments, one)
    atheris.Fuzz()
