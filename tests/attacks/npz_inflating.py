"""Sixty-four megabytes of zeros, deflated into as many kilobytes.

What an entry inflates to must fit the file's size plus 48 MiB, whatever it says before.
"""

from __future__ import annotations

import zipfile
from pathlib import Path


def build(folder: Path, marker: Path) -> Path:  # noqa: ARG001
    path = folder / "weights.npz"
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("a.npy", "w") as to,
    ):
        header = b"{'descr': '|u1', 'fortran_order': False, 'shape': (67108864,), }"
        to.write(b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header)
        for _ in range(64):
            to.write(bytes(1 << 20))
    return path
