"""How long ``luthier`` takes to start beside ``import torch``: whole processes, in turn.

python bench/startup.py [RUNS]
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

TORCH = "import torch"
LUTHIER = [sys.executable, "-m", "luthier"]
SAVE = "import sys, torch; torch.save(torch.nn.Linear(64, 64), sys.argv[1])"


def commands(folder: Path) -> dict[str, list[str]]:
    """Return what is measured; the small files that it needs are written into ``folder``."""
    header = {"weight": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}}
    text = json.dumps(header).encode()
    (folder / "safetensors").write_bytes(len(text).to_bytes(8, "little") + text + bytes(16))
    subprocess.run([sys.executable, "-c", SAVE, str(folder / "torch")], check=True)
    return {
        "luthier --help": [*LUTHIER, "--help"],
        "luthier finetune --help": [*LUTHIER, "finetune", "--help"],
        "luthier inspect SAFETENSORS": [*LUTHIER, "inspect", str(folder / "safetensors")],
        "luthier inspect MODULE": [*LUTHIER, "inspect", str(folder / "torch")],
        "python -c pass": [sys.executable, "-c", "pass"],
        TORCH: [sys.executable, "-c", TORCH],
    }


def seconds(command: list[str]) -> float:
    started = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - started


def main() -> None:
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else 7
    with tempfile.TemporaryDirectory() as folder:
        measured = commands(Path(folder))
        for command in measured.values():  # bring the files into memory
            seconds(command)
        rounds = [{name: seconds(one) for name, one in measured.items()} for _ in range(runs)]
    for name in measured:
        times = [r[name] for r in rounds]
        ratio = statistics.median(r[name] / r[TORCH] for r in rounds)
        print(f"{name:<28} {statistics.median(times):6.3f} s   {ratio:5.3f} of {TORCH}")


if __name__ == "__main__":
    main()
