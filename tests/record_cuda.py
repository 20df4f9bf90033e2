"""Record what PyTorch says on an NVIDIA device, for the tests of ``luthier explain``.

    python tests/record_cuda.py OUT.json

Each error is produced by a script in a process of its own, as some leave the device unusable. The
tests read the recorded tracebacks on machines that have no such device.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

PREFIX = """
import torch
from torch import nn
import torch.nn.functional as F
"""
DDP = """
import os, torch.distributed as dist, torch.multiprocessing as mp
def rank(n):
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT="29531")
    dist.init_process_group("nccl", rank=n, world_size=2)
    torch.cuda.set_device(0)
    dist.all_reduce(torch.ones(1, device="cuda"))
if __name__ == "__main__":
    mp.spawn(rank, nprocs=2)
"""
FILL = """
kept = []
size = 2**32
while size > 2**18:
    try:
        kept.append(torch.empty(size, dtype=torch.uint8, device="cuda"))
    except torch.OutOfMemoryError:
        size //= 2
"""
SCRIPTS = {
    "linear_input_on_cpu": "nn.Linear(4, 2).cuda()(torch.randn(3, 4))",
    "linear_weights_on_cpu": 'nn.Linear(4, 2)(torch.randn(3, 4, device="cuda"))',
    "conv_input_on_cpu": "nn.Conv2d(3, 4, 3).cuda()(torch.randn(1, 3, 8, 8))",
    "conv_weights_on_cpu": 'nn.Conv2d(3, 4, 3)(torch.randn(1, 3, 8, 8, device="cuda"))',
    "conv_half_weights": 'nn.Conv2d(3, 4, 3).cuda().half()(torch.randn(1, 3, 8, 8, device="cuda"))',
    "linear_half_weights": 'nn.Linear(4, 2).cuda().half()(torch.randn(3, 4, device="cuda"))',
    "batch_norm_on_cpu": 'nn.BatchNorm2d(3)(torch.randn(2, 3, 8, 8, device="cuda"))',
    "embedding_input_on_cpu": "nn.Embedding(9, 4).cuda()(torch.tensor([1, 2]))",
    "sum_of_two_devices": 'torch.ones(3) + torch.ones(3, device="cuda")',
    "cat_of_two_devices": 'torch.cat([torch.ones(3), torch.ones(3, device="cuda")])',
    "target_on_cpu": 'F.cross_entropy(torch.randn(2, 3, device="cuda"), torch.tensor([0, 1]))',
    "class_weights_on_cpu": "nn.CrossEntropyLoss(weight=torch.ones(3))("
    'torch.randn(4, 3, device="cuda"), torch.tensor([0, 1, 2, 0], device="cuda"))',
    "index_on_cuda": 'torch.ones(3)[torch.tensor([0], device="cuda")]',
    "label_out_of_range": 'loss = F.cross_entropy(torch.randn(4, 3, device="cuda"), '
    'torch.tensor([0, 1, 3, 0], device="cuda"))\nprint(loss.item())',
    "label_out_of_range_blocking": "import os\nloss = F.cross_entropy(torch.randn(4, 3, "
    'device="cuda"), torch.tensor([0, 1, 3, 0], device="cuda"))\nprint(loss.item())',
    "embedding_out_of_range": 'print(nn.Embedding(9, 4).cuda()(torch.tensor([12], device="cuda")))',
    "bce_out_of_range": 'print(F.binary_cross_entropy(torch.tensor([1.5], device="cuda"), '
    'torch.tensor([1.0], device="cuda")))',
    "gather_out_of_range": 'print(torch.ones(3, 3, device="cuda").gather(1, '
    'torch.tensor([[7]], device="cuda")))',
    "out_of_memory": 'torch.empty(2**40, device="cuda")',
    "out_of_memory_share": "torch.cuda.set_per_process_memory_fraction(0.01)\n"
    'kept = [torch.empty(2**28, device="cuda") for _ in range(99)]',
    "out_of_memory_model": "torch.cuda.set_per_process_memory_fraction(0.004)\n"
    "net = nn.Sequential(*[nn.Conv2d(3 if i == 0 else 64, 64, 3, padding=1) for i in range(9)])\n"
    'net.cuda()(torch.randn(64, 3, 224, 224, device="cuda"))',
    "no_room_for_cublas": FILL + 'a = torch.ones(1, 1, device="cuda"); a @ a',
    "no_room_for_cudnn": FILL + 'nn.Conv2d(1, 1, 1).cuda()(torch.ones(1, 1, 1, 1, device="cuda"))',
    "device_ordinal": 'torch.ones(1, device="cuda:5")',
    "set_device_ordinal": "torch.cuda.set_device(5)",
    "module_ordinal": 'nn.Linear(2, 2).to("cuda:5")',
    "no_device_visible": 'torch.ones(1, device="cuda")',
    "hidden_device": 'torch.ones(1, device="cuda")',
    "load_without_device": "torch.load(FILE)",
    "load_of_second_device": "torch.load(SECOND)",
    "load_to_missing_device": 'torch.load(FILE, map_location="cuda:5")',
    "numpy_of_cuda": 'torch.ones(3, device="cuda").numpy()',
    "array_of_cuda": 'import numpy\nnumpy.asarray(torch.ones(3, device="cuda"))',
    "numpy_of_grad": 'torch.ones(3, device="cuda", requires_grad=True).numpy()',
    "fork": 'import multiprocessing\ntorch.ones(1, device="cuda")\n'
    'def work():\n    torch.ones(1, device="cuda")\n'
    'p = multiprocessing.get_context("fork").Process(target=work)\np.start(); p.join()',
    "fork_of_workers": "from torch.utils.data import DataLoader, Dataset\n"
    'torch.ones(1, device="cuda")\nclass D(Dataset):\n    def __len__(self): return 4\n'
    '    def __getitem__(self, i): return torch.ones(2, device="cuda")\n'
    "for _ in DataLoader(D(), num_workers=1): pass",
    "pin_of_cuda": "from torch.utils.data import DataLoader\n"
    'for _ in DataLoader([torch.ones(2, device="cuda")], pin_memory=True): pass',
    "generator_of_cpu": 'torch.randn(3, device="cuda", generator=torch.Generator())',
    "generator_of_cuda": 'torch.randperm(3, generator=torch.Generator("cuda"))',
    "data_parallel_on_cpu": "nn.DataParallel(nn.Linear(2, 2), device_ids=[0])(torch.ones(3, 2))",
    "data_parallel_ordinal": "nn.DataParallel(nn.Linear(2, 2).cuda(), device_ids=[0, 1])",
    "optimizer_state_on_cpu": "net = nn.Linear(2, 2)\no = torch.optim.Adam(net.parameters())\n"
    "net(torch.ones(1, 2)).sum().backward(); o.step(); net.cuda(); o.zero_grad()\n"
    'net(torch.ones(1, 2, device="cuda")).sum().backward(); o.step()',
    "cublas_workspace": "torch.use_deterministic_algorithms(True)\n"
    'a = torch.ones(4, 4, device="cuda"); a @ a',
    "not_deterministic": "torch.use_deterministic_algorithms(True)\n"
    'torch.ones(4, device="cuda").histc()',
    "unscale_half": "net = nn.Linear(2, 2).cuda().half()\n"
    'o = torch.optim.SGD(net.parameters(), 0.1)\ns = torch.amp.GradScaler("cuda")\n'
    's.scale(net(torch.ones(1, 2, device="cuda").half()).sum()).backward(); s.step(o)',
    "unscale_twice": "net = nn.Linear(2, 2).cuda()\no = torch.optim.SGD(net.parameters(), 0.1)\n"
    's = torch.amp.GradScaler("cuda")\ns.scale(net(torch.ones(1, 2, device="cuda")).sum())'
    ".backward(); s.unscale_(o); s.unscale_(o)",
    "nccl_one_device_twice": DDP,
    "rnn_input_on_cpu": "nn.LSTM(2, 2).cuda()(torch.ones(3, 1, 2))",
    "channels": 'nn.Conv2d(3, 4, 3).cuda()(torch.randn(1, 1, 8, 8, device="cuda"))',
    "shapes": 'nn.Linear(5, 2).cuda()(torch.randn(3, 4, device="cuda"))',
    "compiled_device": "torch.compile(nn.Linear(4, 2).cuda())(torch.randn(3, 4))",
}
ENVIRONMENT = {
    "no_device_visible": {"CUDA_VISIBLE_DEVICES": ""},
    "hidden_device": {"CUDA_VISIBLE_DEVICES": "7"},
    "load_without_device": {"CUDA_VISIBLE_DEVICES": ""},
    "label_out_of_range_blocking": {"CUDA_LAUNCH_BLOCKING": "1"},
}


def record(name: str, script: str, folder: Path) -> dict[str, str]:
    path = folder / f"{name}.py"
    files = f"FILE, SECOND = {str(folder / 'cuda.pt')!r}, {str(folder / 'second.pt')!r}\n"
    path.write_text(PREFIX + files + script + "\n", encoding="utf-8")
    environment = os.environ | ENVIRONMENT.get(name, {})
    environment.pop("CUBLAS_WORKSPACE_CONFIG", None)
    done = subprocess.run(
        [sys.executable, str(path)],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        env=environment,
        cwd=folder,
    )
    said = done.stderr.replace(str(folder), "/home/user").replace(sys.prefix, "/usr")
    return {"script": script.strip(), "status": str(done.returncode), "stderr": said[-6000:]}


def main() -> None:
    alone = {"no_room_for_cublas", "no_room_for_cudnn", "out_of_memory"}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        torch.save(torch.ones(3, device="cuda"), folder / "cuda.pt")
        whole = (folder / "cuda.pt").read_bytes()
        assert whole.count(b"cuda:0") == 1
        # The same length; zip's checksum is not compared by torch's reader of small records.
        (folder / "second.pt").write_bytes(whole.replace(b"cuda:0", b"cuda:1"))
        with ThreadPoolExecutor(12) as pool:
            shared = [n for n in SCRIPTS if n not in alone]
            found = dict(
                zip(shared, pool.map(lambda n: record(n, SCRIPTS[n], folder), shared), strict=True)
            )
        found |= {n: record(n, SCRIPTS[n], folder) for n in alone}
    made = {
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "device": torch.cuda.get_device_name(),
        "errors": dict(sorted(found.items())),
    }
    Path(sys.argv[1]).write_text(json.dumps(made, indent=1) + "\n", encoding="utf-8")
    for key, value in made["errors"].items():
        last = value["stderr"].strip().splitlines() or ["(nothing)"]
        print(f"{key:30} {value['status']:>4}  {last[-1][:150]}")


if __name__ == "__main__":
    main()
