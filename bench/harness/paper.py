"""What a step, a save and a failure cost with many GPUs, on paper. Pure; nothing is measured.

Seconds, bytes and bytes a second throughout. The assumptions are the defaults of ``Cluster`` and
the lines of ``MODELS``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

_BUCKET = 25 * 2**20  # of DDP: the last of them overlaps with nothing
_ROW = 4 * 8  # what a process tells each step: asked, images, loss, right


@dataclass(frozen=True)
class Cluster:
    """GPUs, and what lies between them.

    Attributes:
        gpus: of all hosts.
        host: GPUs of a host.
        nvlink: of a GPU within its host, each way, as NCCL reaches it.
        network: of a GPU to other hosts, each way (400 Gb/s is 50e9).
        hop: between two GPUs within NCCL.
        tcp: of a small message between two processes, over Gloo.
        message: of the first process, for each small message that it takes.
        overlap: part of the computing beside which NCCL's transfers cost nothing.
        pcie: of a GPU to its host's memory.
        disk: that one process writes.
        storage: that all processes write together.
        mtbf: of one GPU and its part of a host.
        restart: from a failure to the first step after it.
    """

    gpus: int
    host: int = 8
    nvlink: float = 300e9
    network: float = 40e9
    hop: float = 10e-6
    tcp: float = 50e-6
    message: float = 5e-6
    overlap: float = 0.8
    pcie: float = 20e9
    disk: float = 2e9
    storage: float = 20e9
    mtbf: float = 50_000 * 3600
    restart: float = 180

    @property
    def link(self) -> float:
        """Bandwidth of the slowest link of a ring through all GPUs."""
        return self.nvlink if self.gpus <= self.host else self.network

    @property
    def failures(self) -> float:
        """Mean time between two failures of any part."""
        return self.mtbf / self.gpus


@dataclass(frozen=True)
class Model:
    """What is trained.

    Attributes:
        name: of it.
        weights: how many.
        slots: numbers that the optimizer keeps of each.
        images: of a step, on one GPU.
        rate: images a second that one GPU computes, alone.
        cut: by FSDP; else each GPU has a copy.
        photo: of a file.
    """

    name: str
    weights: float
    slots: int
    images: int
    rate: float
    cut: bool
    photo: float = 110e3

    @property
    def compute(self) -> float:
        """Of a step, forward and backward."""
        return self.images / self.rate

    @property
    def state(self) -> float:
        """Of a checkpoint, in fp32."""
        return 4 * self.weights * (1 + self.slots)


MODELS = (
    Model("ResNet-50, copies", 25.6e6, 1, 256, 2500, cut=False),
    Model("ViT-H/14, copies", 632e6, 2, 64, 400, cut=False),
    Model("ViT-H/14, --shard", 632e6, 2, 64, 400, cut=True),
)


def ring_bytes(size: int, content: float) -> float:
    """Return what each process sends in an all-reduce around a ring."""
    return 2 * (size - 1) / size * content


def sent(model: Model, gpus: int) -> float:
    """Return what each GPU sends in a step.

    By copies: the gradients, in fp32. Cut: weights in bfloat16, forward and backward, and gradients
    in fp32, each to every other once.
    """
    if not model.cut:
        return ring_bytes(gpus, 4 * model.weights)
    return (gpus - 1) / gpus * (2 + 2 + 4) * model.weights


def exposed(model: Model, cluster: Cluster) -> float:
    """Return by how much exchanges make a step longer than its computing."""
    hops = 2 * min(cluster.gpus - 1, 2 * math.log2(cluster.gpus)) * cluster.hop
    whole = sent(model, cluster.gpus) / cluster.link + hops
    if model.cut:
        return max(0.0, whole - cluster.overlap * model.compute) + hops
    backward = 2 / 3 * model.compute
    last = min(1.0, _BUCKET / (4 * model.weights)) * whole
    return max(last, whole - cluster.overlap * backward)


def agreement(cluster: Cluster) -> float:
    """Return what the one message of luthier's costs a step: to the first and down a tree."""
    tree = math.ceil(math.log2(cluster.gpus)) * cluster.tcp
    return cluster.tcp + (cluster.gpus - 1) * cluster.message + tree


def agreement_bytes(gpus: int) -> float:
    """Return what the first process takes in by it; as much goes down each edge of the tree."""
    return _ROW * gpus


def save_interval(blocked: float, cluster: Cluster) -> float:
    """Return after how many seconds to save (Young 1974): the square root of 2 · cost · MTBF."""
    return math.sqrt(2 * blocked * cluster.failures)


def lost(interval: float, blocked: float, cluster: Cluster) -> float:
    """Return the part of all time that saves, repeated work and restarts take (Daly, first order).

    Args:
        interval: between two saves.
        blocked: for which training waits at each.
        cluster: that fails now and then.
    """
    again = interval / 2 + cluster.restart
    return blocked / interval + again / cluster.failures


HEADER = (
    *("", "GPUs", "compute", "sent a GPU", "exchange adds", "luthier adds", "efficiency"),
    *("photos a host", "checkpoint", "written by one / by all", "save every", "lost"),
)


def row(model: Model, gpus: int) -> list[str]:
    """Return a line of the table; see ``HEADER``."""
    cluster = Cluster(gpus)
    adds, agrees = exposed(model, cluster), agreement(cluster)
    step = model.compute + adds + agrees
    blocked = model.state / (gpus if model.cut else 1) / cluster.pcie
    every = save_interval(blocked, cluster)
    photos = cluster.host * model.images / step * model.photo
    return [
        model.name,
        f"{gpus}",
        f"{model.compute * 1e3:.0f} ms",
        f"{sent(model, gpus) / 1e9:.2f} GB",
        f"{adds * 1e3:.1f} ms",
        f"{agrees * 1e3:.2f} ms",
        f"{model.compute / step:.0%}",
        f"{photos / 1e9:.2f} GB/s",
        f"{model.state / 1e9:.1f} GB",
        f"{model.state / cluster.disk:.1f} / "
        f"{model.state / min(cluster.storage, gpus * cluster.disk):.1f} s",
        f"{every / 60:.1f} min",
        f"{lost(every, blocked, cluster):.2%}",
    ]


def table() -> list[str]:
    """Return the lines of the table, in Markdown."""
    rows = [row(model, gpus) for model in MODELS for gpus in (8, 64, 512)]
    rule = ["---"] + ["---:"] * (len(HEADER) - 1)
    return ["| " + " | ".join(cells) + " |" for cells in (HEADER, rule, *rows)]
