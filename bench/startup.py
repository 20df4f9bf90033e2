"""How long ``luthier --help`` takes beside ``import torch``: whole processes, in turn.

python bench/startup.py [RUNS]
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time

COMMANDS = {
    "luthier --help": [sys.executable, "-m", "luthier", "--help"],
    "luthier finetune --help": [sys.executable, "-m", "luthier", "finetune", "--help"],
    "import torch": [sys.executable, "-c", "import torch"],
}


def seconds(command: list[str]) -> float:
    started = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - started


def main() -> None:
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else 7
    for command in COMMANDS.values():  # bring the files into memory
        seconds(command)
    rounds = [{name: seconds(command) for name, command in COMMANDS.items()} for _ in range(runs)]
    for name in COMMANDS:
        times = [r[name] for r in rounds]
        ratio = statistics.median(r[name] / r["import torch"] for r in rounds)
        print(f"{name:<24} {statistics.median(times):6.3f} s   {ratio:5.3f} of import torch")


if __name__ == "__main__":
    main()
