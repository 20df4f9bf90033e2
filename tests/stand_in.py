"""The stand-in for NVIDIA's library, which reports the devices that a test describes."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

GIB = 2**30
HERE = Path(__file__).parent


def uuid_of(number: int, kind: str = "GPU") -> str:
    return f"{kind}-{number:08x}-1234-5678-9abc-def012345678"


class Driver:
    """The stand-in for NVIDIA's library, and a file that describes its devices."""

    def __init__(self, folder: Path, *without: str) -> None:
        compiler = shutil.which("cc")
        if compiler is None:
            pytest.skip("no C compiler to make the stand-in driver with")
        library = folder / "libnvidia-ml.so.1"
        source = HERE / "nvml" / "nvml.c"
        flags = [f"-DWITHOUT_{name}=1" for name in without]
        subprocess.run([compiler, "-shared", "-fPIC", *flags, "-o", library, source], check=True)
        self.folder, self._devices = folder, folder / "devices.txt"

    def has(self, *lines: str) -> None:
        self._devices.write_text("\n".join(lines) + "\n")

    @property
    def environment(self) -> dict[str, str]:
        hidden = {"CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER", "LUTHIER_LEASED", "LUTHIER_PROMISED"}
        own = {k: v for k, v in os.environ.items() if k not in hidden}
        leases = str(self.folder / "leases")
        return own | {
            "LD_LIBRARY_PATH": str(self.folder),
            "STAND_IN_NVML": str(self._devices),
            "LUTHIER_LEASES": leases,
        }

    def call(self, *words: str, status: int = 0, **variables: str) -> str:
        done = subprocess.run(
            [sys.executable, *words],
            env=self.environment | variables,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == status, done.stderr
        return done.stdout + done.stderr

    def devices(self, **variables: str) -> dict[str, object]:
        text = self.call("-m", "luthier", "devices", "--json", **variables)
        return json.loads(text)  # type: ignore[no-any-return]


def line_of(number: int, free: int = 80 * GIB, use: int = 0, is_split: int = 0) -> str:
    place = f"00000000:{number:02X}:00.0"
    facts = f"{80 * GIB} {free} {use} {30 + number} 8.0 {is_split}"
    return f"card {uuid_of(number)} NVIDIA_A100 {place} {facts}"
