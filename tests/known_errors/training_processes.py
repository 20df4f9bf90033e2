"""Several processes, most of them a group of one Gloo rank; a part of ``training``."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed import run
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint

from known_errors import Known, Recorded

SOON = timedelta(seconds=60)
OTHER = """
import sys, torch, torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel
dist.init_process_group("gloo", init_method=sys.argv[1], rank=int(sys.argv[2]), world_size=2)
"""


class TwoHeads(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.used, self.unused = nn.Linear(3, 4), nn.Linear(4, 2), nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.used(self.body(x))


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.unused = nn.Linear(3, 3), nn.Linear(3, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = checkpoint(self.body, x, use_reentrant=True)
        return checkpoint(self.body, x, use_reentrant=True)


@contextlib.contextmanager
def job(folder: Path, rank: int = 0, size: int = 1) -> Iterator[str]:
    """Be a rank of a job whose processes meet in a file, whose URL is given."""
    url = (folder / "meeting").as_uri()
    dist.init_process_group("gloo", init_method=url, rank=rank, world_size=size, timeout=SOON)
    try:
        yield url
    finally:
        dist.destroy_process_group()


@contextlib.contextmanager
def other(folder: Path, rank: int, does: str = "") -> Iterator[None]:
    """Have the other rank of a job of two in a process of its own."""
    url = (folder / "meeting").as_uri()
    process = subprocess.Popen(
        [sys.executable, "-c", OTHER + does, url, str(rank)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield
    finally:
        process.kill()
        process.wait()


def unused_head(folder: Path) -> None:
    with job(folder):
        ddp = DistributedDataParallel(TwoHeads())
        for _ in range(2):
            ddp(torch.ones(1, 3)).sum().backward()


def checkpointed_twice(folder: Path) -> None:
    with job(folder):
        ddp = DistributedDataParallel(Twice())
        ddp(torch.ones(1, 3, requires_grad=True)).sum().backward()


def frozen_model(folder: Path) -> None:
    with job(folder):
        teacher = nn.Linear(3, 2).requires_grad_(False)
        DistributedDataParallel(teacher)


def heads_differ(folder: Path) -> None:
    does = "DistributedDataParallel(torch.nn.Linear(3, 10))"
    with other(folder, 0, does), job(folder, 1, 2):
        model = nn.Linear(3, 2)
        DistributedDataParallel(model)


def peer_ended(folder: Path) -> None:
    with other(folder, 1, "import os; os._exit(1)"), job(folder, 0, 2):
        dist.all_reduce(torch.ones(1))


def without_group(_folder: Path) -> None:
    dist.get_rank()


def ddp_without_group(_folder: Path) -> None:
    DistributedDataParallel(nn.Linear(3, 2))


def group_twice(folder: Path) -> None:
    with job(folder):
        dist.init_process_group("gloo")


def started_by_python(_folder: Path) -> None:
    dist.init_process_group("gloo")


def rank_asked(_folder: Path) -> None:
    torch.device("cpu", int(os.environ["LOCAL_RANK"]))


def port_taken(_folder: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as held:
        dist.TCPStore("127.0.0.1", held.getsockname()[1], 1, is_master=True, timeout=SOON)


def alone_of_two(_folder: Path) -> None:
    dist.TCPStore("127.0.0.1", 0, 2, is_master=True, timeout=timedelta(seconds=1))


def nobody_there(_folder: Path) -> None:
    dist.TCPStore("127.0.0.1", 1, 2, is_master=False, timeout=timedelta(seconds=1))


def torchrun(script: Path) -> None:
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        run.main(["--standalone", "--nproc-per-node=1", str(script)])
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def key_awaited(_folder: Path) -> None:
    store = dist.TCPStore("127.0.0.1", 0, 1, is_master=True, timeout=timedelta(milliseconds=100))
    store.get("weights")


def failed_script(folder: Path) -> None:
    (folder / "train.py").write_text("raise SystemExit(3)\n", encoding="utf-8")
    torchrun(folder / "train.py")


def killed_script(folder: Path) -> None:
    (folder / "train.py").write_text(
        "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)\n", encoding="utf-8"
    )
    torchrun(folder / "train.py")


def batch_norm_on_cpu(folder: Path) -> None:
    with job(folder):
        model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
        nn.SyncBatchNorm.convert_sync_batchnorm(model)(torch.ones(2, 3, 8, 8))


def without_mpi(_folder: Path) -> None:
    dist.init_process_group("mpi")


KNOWN: Known = {
    "ddp-unused-parameters": [unused_head],
    "ddp-ready-twice": [checkpointed_twice],
    "ddp-nothing-to-train": [frozen_model],
    "ddp-shapes-differ": [heads_differ],
    "peer-gone": [peer_ended],
    "process-group-missing": [without_group, ddp_without_group],
    "process-group-twice": [group_twice],
    "rendezvous-variable-missing": [started_by_python, rank_asked],
    "port-in-use": [port_taken],
    "rendezvous-timeout": [alone_of_two],
    "rendezvous-unreachable": [nobody_there],
    "key-never-written": [key_awaited],
    "rank-failed": [failed_script, killed_script],
    "sync-batch-norm-on-cpu": [batch_norm_on_cpu],
    "distributed-not-built": [without_mpi],
}
RECORDED: Recorded = {
    "collective-timeout": [
        "nccl_timeout_2_4",
        "nccl_timeout_raised_2_4",
        "nccl_timeout_spawned_2_9",
    ],
    "one-gpu-twice": ["nccl_one_device_twice"],
    "nccl-failed": ["nccl_socket", "nccl_shared_memory", "nccl_cuda"],
    "cpu-tensor-with-nccl": ["cpu_tensor_of_nccl", "cpu_tensor_of_nccl_2_0"],
    "port-in-use": ["port_2_1", "port_2_4"],
    "distributed-not-built": ["no_distributed_build"],
    "rank-failed": ["rank_failed"],
}
