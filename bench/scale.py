"""What several processes cost: each step, each save, the way to each other, memory.

    python bench/scale.py [--processes 1,2,4,8,16] [--steps 20] [--model resnet18] [--out FILE]
    python bench/scale.py --model-on-paper

Processes are forked, have one thread each, and exchange over Gloo on this machine. With fewer cores
than processes they wait for each other's computing: counts and bytes are what is to be looked at,
and seconds only of what does not compute. Each process has as many images as alone, four a step.

What each step is made of is timed from inside of ``luthier.finetune``, by functions of luthier's
that are replaced here by the same ones with a clock.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

# A pool of threads does not survive a fork: whoever then computes in the child waits for ever.
os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np
import torch
from harness import paper
from PIL import Image

import luthier
from luthier import vision
from luthier.checkpoint import Saver
from luthier.distributed import World, joined, world
from luthier.distributed.watch import Watch
from luthier.report import Console, table
from luthier.run import finetune as _finetune
from luthier.training import Replicas, loop

IMAGES = 4  # of a process, a step
SIZE = 32
MESSAGES = 50
WARM = 2  # steps that do not count
# What a forked process would import for itself; nothing may compute before the fork.
PRELOADED = (_finetune, *map(vision.load, ("torchvision.transforms", "torchvision.models")))
HEADER = [
    "processes",
    "a step",
    "pass and exchange",
    "of it exposed",
    "buckets",
    "luthier's messages",
]
HEADER += ["one by itself", "a beat"]
HEADER += ["on the wire", "formula", "join", "memory", "save blocks", "save behind", "written"]


class Clocks:
    """Seconds of each call of functions that are replaced, by name; all of this process."""

    def __init__(self) -> None:
        self.seconds: dict[str, list[float]] = {}
        self.at: dict[str, float] = {}
        self.savers: list[Saver] = []
        self.copies: list[Replicas] = []
        self.wire: list[int] = []
        self.messages: list[int] = []

    def put(self, owner: Any, name: str, clock: Callable[[], float] = time.perf_counter) -> None:
        """Let a function of a class or module take note of its time."""
        function = getattr(owner, name)
        found = self.seconds.setdefault(name, [])

        @functools.wraps(function)
        def timed(*words: Any, **named: Any) -> Any:
            began = clock()
            result = function(*words, **named)
            found.append(clock() - began)
            self.at[name] = time.perf_counter()
            return result

        setattr(owner, name, timed)

    def put_all(self) -> None:
        for owner, name in ((World, "gather"), (World, "backward"), (loop, "_learn")):
            self.put(owner, name)
        self.put(loop, "_step")
        self.put(world, "_join")
        for name in ("_say", "_look"):
            self.put(Watch, name, time.thread_time)
        self._keep(Saver, self.savers)
        self._keep(Replicas, self.copies)
        self._exposed()
        self._bytes()

    def _keep(self, kind: Any, kept: list[Any]) -> None:
        begin = kind.__init__

        def init(made: Any, *words: Any, **named: Any) -> None:
            begin(made, *words, **named)
            kept.append(made)

        kind.__init__ = init

    def _exposed(self) -> None:
        """Take the time from this process's last gradient to the end of the exchange."""
        wait, backward, found = Watch.wait, World.backward, self.seconds.setdefault("exposed", [])

        def waits(watch: Watch) -> None:
            wait(watch)
            self.at["wait"] = time.perf_counter()

        def timed(team: World, loss: torch.Tensor) -> None:
            backward(team, loss)
            found.append(time.perf_counter() - self.at["wait"])

        Watch.wait, World.backward = waits, timed  # type: ignore[method-assign]

    def _bytes(self) -> None:
        learn = loop._learn

        def counted(*words: Any) -> Any:
            self.wire.append(loopback())
            self.messages.append(len(self.seconds["gather"]))
            return learn(*words)

        loop._learn = counted


def loopback() -> int:
    """Return the bytes that this machine has sent itself."""
    lines = Path("/proc/net/dev").read_text(encoding="utf-8").splitlines()
    fields = next(line.split() for line in lines if line.split()[0] == "lo:")
    return int(fields[1])


def memory() -> float:
    """Return the memory of this process, its part of what is shared with others included."""
    lines = Path("/proc/self/smaps_rollup").read_text(encoding="utf-8").splitlines()
    return 1024.0 * next(int(line.split()[1]) for line in lines if line.startswith("Pss:"))


def job(photos: Path, out: Path, size: int, model: str, rank: int) -> None:
    """Train as one process of a job, and write what its clocks say."""
    clocks = Clocks()
    clocks.put_all()
    luthier.finetune(
        photos,
        out=out / "run",
        console=Console(quiet=True),
        model=model,
        head_module="fc3" if ":" in model else None,
        image_size=SIZE,
        batch_size=IMAGES * size,
        epochs=1,
        workers=0,
        weights="none",
        precision="fp32",
        save_every="5 steps",
    )
    costs = clocks.savers[0].costs
    found: dict[str, Any] = {"seconds": clocks.seconds, "wire": clocks.wire, "memory": memory()}
    found |= {"saves": costs.saves, "blocked": costs.blocked, "behind": costs.behind}
    found |= {"written": costs.written, "messages": clocks.messages, "gradients": 0, "buckets": 0}
    if clocks.copies:
        told = clocks.copies[0]._parallel._get_ddp_logging_data()  # type: ignore[union-attr]
        found["buckets"] = len(
            str(told.get("rebuilt_bucket_sizes") or told["bucket_sizes"]).split(",")
        )
        weights = clocks.copies[0]._model.parameters()
        found["gradients"] = sum(4 * p.numel() for p in weights if p.requires_grad)
    found["message"] = message()
    (out / f"{rank}.json").write_text(json.dumps(found), encoding="utf-8")


def message() -> float:
    """Return the seconds of an exchange of numbers for which nobody has to be waited."""
    with joined() as team:
        found = []
        for _ in range(MESSAGES):
            began = time.perf_counter()
            team.gather([1.0, 2.0, 3.0])
            found.append(time.perf_counter() - began)
    return statistics.median(found)


def forked(size: int, work: Callable[[int], None]) -> None:
    """Run the ranks of a job in processes forked from this one.

    Raises:
        RuntimeError: one has not ended well.
    """
    children = []
    port = 29500 + os.getpid() % 10_000
    for rank in range(size):
        child = os.fork()
        if child == 0:
            status = 1
            try:
                told = {"RANK": rank, "LOCAL_RANK": rank, "MASTER_PORT": port + size}
                told |= dict.fromkeys(("WORLD_SIZE", "LOCAL_WORLD_SIZE"), size)
                os.environ |= {name: str(value) for name, value in told.items()}
                os.environ["MASTER_ADDR"] = "127.0.0.1"
                work(rank)
                status = 0
            finally:
                os._exit(status)
        children.append(child)
    ends = [os.waitpid(child, 0)[1] for child in children]
    if any(ends):
        raise RuntimeError(f"{size} processes: {sum(map(bool, ends))} have failed")


def write_photos(root: Path, count: int) -> Path:
    generator = np.random.default_rng(0)
    for split, each in (("train", count // 2), ("val", 2)):
        for name in ("a", "b"):
            folder = root / split / name
            folder.mkdir(parents=True)
            for number in range(each):
                pixels = generator.integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{number}.png")
    return root


def measured(size: int, steps: int, model: str) -> list[str]:
    """Return the line of a number of processes."""
    with tempfile.TemporaryDirectory() as place:
        out = Path(place)
        photos = write_photos(out / "photos", IMAGES * size * steps)
        forked(size, functools.partial(job, photos, out, size, model))
        files = [out / f"{rank}.json" for rank in range(size)]
        found = [json.loads(file.read_text(encoding="utf-8")) for file in files]
    first = found[0]

    def milliseconds(name: str, which: slice = slice(None)) -> float:
        every = [value for one in found for value in one["seconds"].get(name, [])[which]]
        return 1e3 * statistics.median(every) if every else 0.0

    learn, step = milliseconds("_learn", slice(WARM, None)), milliseconds("_step")
    beat = milliseconds("_say") + milliseconds("_look")
    wire, messages = per_step(first["wire"]), per_step(first["messages"])
    formula = size * paper.ring_bytes(size, first["gradients"])
    joining = max(sum(one["seconds"].get("_join", [])[:1]) for one in found)
    saves = max(1, first["saves"])
    return [
        f"{size}",
        f"{learn + step:.1f} ms",
        f"{learn:.1f} ms",
        f"{milliseconds('exposed', slice(WARM, None)):.1f} ms",
        f"{first['buckets']}",
        f"{messages:g}",
        f"{1e3 * first['message']:.2f} ms",
        f"{beat:.2f} ms",
        f"{wire / 1e6:.2f} MB",
        f"{formula / 1e6:.2f} MB",
        f"{joining:.2f} s",
        f"{statistics.median(one['memory'] for one in found) / 2**20:.0f} MiB",
        f"{1e3 * first['blocked'] / saves:.1f} ms",
        f"{1e3 * first['behind'] / saves:.0f} ms",
        f"{first['written'] / 1e6 / saves:.1f} MB",
    ]


def per_step(counted: list[int]) -> float:
    return (counted[-1] - counted[WARM]) / (len(counted) - 1 - WARM)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--processes", default="1,2,4,8,16")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--model", default="resnet18")
    parser.add_argument("--note", default="", help="a line of the file, such as what else ran")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--model-on-paper", action="store_true")
    asked = parser.parse_args()
    if asked.model_on_paper:
        print("\n".join(paper.table()))
        return
    began = time.monotonic()
    rows = [measured(int(n), asked.steps, asked.model) for n in asked.processes.split(",")]
    lines = [
        f"torch {torch.__version__}, {len(os.sched_getaffinity(0))} cores, one thread a process,"
        f" Gloo; {asked.model}, {IMAGES} images of {SIZE} pixels a process, {asked.steps} steps",
        *([asked.note] if asked.note else []),
        table(HEADER, rows),
        "medians over steps and processes; on the wire: all processes together, a step",
        f"{time.monotonic() - began:.0f} s",
    ]
    print("\n".join(lines))
    if asked.out:
        asked.out.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
