"""Real errors of devices; ``CURED`` does what the explanation of an entry says, and raises nothing.

A device that every machine has beside the CPU is "meta": tensors of it have shapes and no values.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
import warnings
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from unittest.mock import patch

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.data import DataLoader

from known_errors import Known, Recorded
from luthier import vision

FAR = torch.device("meta")


def saved_on(device: str, folder: Path) -> Path:
    """Return a file whose tensor was on a device, as far as the file says."""
    here, there = folder / "here.pt", folder / "there.pt"
    torch.save({"weight": torch.ones(3)}, here)
    with zipfile.ZipFile(here) as old, zipfile.ZipFile(there, "w") as new:
        for name in old.namelist():
            tag = b"X" + len(device).to_bytes(4, "little") + device.encode()
            new.writestr(name, old.read(name).replace(b"X\x03\x00\x00\x00cpu", tag))
    return there


# Files


def file_of_cuda(folder: Path) -> None:
    path = saved_on("cuda:0", folder)
    torch.load(path)


def file_to_cuda(folder: Path) -> None:
    path = saved_on("cpu", folder)
    torch.load(path, map_location="cuda")


def file_of_hpu(folder: Path) -> None:
    torch.load(saved_on("hpu", folder))


def file_of_npu(folder: Path) -> None:
    torch.load(saved_on("npu:0", folder))


def file_of_mps(folder: Path) -> None:
    torch.load(saved_on("mps", folder))


def file_of_xpu(folder: Path) -> None:
    torch.load(saved_on("xpu:0", folder))


def file_to_gpu(folder: Path) -> None:
    path = saved_on("cpu", folder)
    torch.load(path, map_location="gpu")


def file_to_the_cpu(folder: Path) -> None:
    for device in ("cuda:0", "cuda:3", "hpu", "npu:0", "mps", "xpu:0"):
        assert torch.load(saved_on(device, folder), map_location="cpu")["weight"].sum() == 3


# Devices that are not there


def tensor_to_cuda(_folder: Path) -> None:
    torch.ones(3).cuda()


def model_to_cuda(_folder: Path) -> None:
    nn.Linear(3, 2).to("cuda")


def generator_of_cuda(_folder: Path) -> None:
    torch.Generator("cuda")


def current_device(_folder: Path) -> None:
    torch.cuda.set_device(0)


def stream(_folder: Path) -> None:
    torch.cuda.Stream()


def event(_folder: Path) -> None:
    torch.cuda.Event()


def device_that_is_there(_folder: Path) -> None:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    nn.Linear(3, 2).to(device)


def to_mps(_folder: Path) -> None:
    torch.ones(3).to("mps")


def on_mps(_folder: Path) -> None:
    torch.zeros(3, device="mps")


def on_xpu(_folder: Path) -> None:
    torch.zeros(3, device="xpu")


def on_hpu(_folder: Path) -> None:
    torch.zeros(3, device="hpu")


def on_xla(_folder: Path) -> None:
    torch.zeros(3, device="xla")


def without_a_colon(_folder: Path) -> None:
    torch.ones(3).to("cuda0")


def of_no_kind(_folder: Path) -> None:
    torch.device("gpu")


def below_zero(_folder: Path) -> None:
    torch.device("cuda:-1")


def of_no_text(_folder: Path) -> None:
    torch.device("")


def with_a_colon(_folder: Path) -> None:
    assert torch.device("cuda:0").index == 0


# Tensors on different devices


def labels_elsewhere(_folder: Path) -> None:
    outputs, labels = torch.ones(4, 3), torch.zeros(4, dtype=torch.long, device=FAR)
    F.cross_entropy(outputs, labels)


def class_weights_elsewhere(_folder: Path) -> None:
    criterion = nn.CrossEntropyLoss(weight=torch.ones(3, device=FAR))
    outputs, labels = torch.ones(4, 3), torch.zeros(4, dtype=torch.long)
    criterion(outputs, labels)


def targets_elsewhere(_folder: Path) -> None:
    criterion = nn.MSELoss()
    outputs, targets = torch.ones(4, 3), torch.zeros(4, 3, device=FAR)
    criterion(outputs, targets)


def class_weights_moved(_folder: Path) -> None:
    criterion = nn.CrossEntropyLoss(weight=torch.ones(3))
    outputs = torch.ones(4, 3, device=FAR)
    labels = torch.zeros(4, dtype=torch.long).to(outputs.device)
    criterion.to(outputs.device)(outputs, labels)


def optimizer_state_elsewhere(_folder: Path) -> None:
    model = nn.Linear(3, 2)
    adam = torch.optim.Adam(model.parameters())
    model(torch.ones(1, 3)).sum().backward()
    adam.step()
    for state in adam.state.values():
        state["exp_avg"] = state["exp_avg"].to(FAR)
    adam.step()


def optimizer_after_the_move(_folder: Path) -> None:
    model = nn.Linear(3, 2)
    old = torch.optim.Adam(model.parameters())
    model(torch.ones(1, 3)).sum().backward()
    old.step()
    moved = nn.Linear(3, 2).to(FAR)
    adam = torch.optim.Adam(moved.parameters())
    adam.load_state_dict(old.state_dict())
    assert all(state["exp_avg"].device == FAR for state in adam.state.values())


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(4, 3), nn.ReLU())
        self.head = nn.Linear(3, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.head(self.body(x))
        return y


def model_on_meta(_folder: Path) -> None:
    with torch.device("meta"):
        net = Net()
    net(torch.ones(1, 4))


def head_on_meta(_folder: Path) -> None:
    net = Net()
    net.head.to(FAR)
    net(torch.ones(1, 4))


def batch_norm_on_meta(_folder: Path) -> None:
    nn.BatchNorm2d(3, device=FAR)(torch.ones(2, 3, 4, 4))


def lstm_on_meta(_folder: Path) -> None:
    nn.LSTM(3, 3, device=FAR)(torch.ones(2, 2, 3))


def compiled_on_meta(_folder: Path) -> None:
    torch.compile(nn.Linear(3, 2, device=FAR), backend="eager")(torch.ones(1, 3))


def moved_from_meta(_folder: Path) -> None:
    net = nn.Linear(3, 2, device=FAR)
    net.to("cpu")


def tensor_from_meta(_folder: Path) -> None:
    torch.ones(3, device=FAR).cpu()


def number_from_meta(_folder: Path) -> None:
    torch.ones((), device=FAR).item()


def list_from_meta(_folder: Path) -> None:
    torch.ones(3, device=FAR).tolist()


def meta_with_values(_folder: Path) -> None:
    net = Net().to(FAR)
    net.to_empty(device="cpu")
    net.load_state_dict(Net().state_dict())
    assert net(torch.ones(1, 4)).isfinite().all()


def state_on_meta(_folder: Path) -> None:
    net = Net()
    state = Net().to(FAR).state_dict()
    net.load_state_dict(state)


def loaded_into_meta(_folder: Path) -> None:
    net, state = Net().to(FAR), Net().state_dict()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        net.load_state_dict(state)


def assigned_to_meta(_folder: Path) -> None:
    net = Net().to(FAR)
    net.load_state_dict(Net().state_dict(), assign=True)
    assert net(torch.ones(1, 4)).isfinite().all()


def attention_without_a_kernel(_folder: Path) -> None:
    query = torch.ones(1, 1, 3, 3)
    with sdpa_kernel(SDPBackend.EFFICIENT_ATTENTION):
        F.scaled_dot_product_attention(query, query, query)


def flash_attention_of_a_mask(_folder: Path) -> None:
    query, mask = torch.ones(1, 1, 3, 3), torch.ones(3, 3, requires_grad=True)
    with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
        F.scaled_dot_product_attention(query, query, query, attn_mask=mask)


def attention_with_a_kernel(_folder: Path) -> None:
    query = torch.ones(1, 1, 3, 3)
    with sdpa_kernel([SDPBackend.FLASH_ATTENTION, SDPBackend.MATH]):
        F.scaled_dot_product_attention(query, query, query)


def drawn_on_its_device(_folder: Path) -> None:
    torch.randperm(3, generator=torch.Generator("cpu").manual_seed(0))


def attention_elsewhere(_folder: Path) -> None:
    query, key = torch.ones(1, 1, 3, 3), torch.ones(1, 1, 3, 3, device=FAR)
    F.scaled_dot_product_attention(query, key, key)


def one_device(_folder: Path) -> None:
    b = torch.ones(3, device=FAR)
    assert (torch.arange(3, device=b.device) + b).device == FAR


def pinned_on_the_cpu(_folder: Path) -> None:
    torch.ones(3).pin_memory()


def not_pinned(_folder: Path) -> None:
    images = [torch.ones(3)]
    next(iter(DataLoader(images, pin_memory=torch.cuda.is_available())))  # type: ignore[arg-type]


# NumPy, determinism, memory


def array_of_meta(_folder: Path) -> None:
    features = torch.ones(3, device=FAR)
    features.numpy()


def array_of_gradient(_folder: Path) -> None:
    weight = torch.ones(3, requires_grad=True)
    weight.numpy()


def as_array_of_gradient(_folder: Path) -> None:
    outputs = nn.Linear(3, 2)(torch.ones(1, 3))
    np.asarray(outputs)


def array_of_detached(_folder: Path) -> None:
    assert torch.ones(3, requires_grad=True).detach().cpu().numpy().sum() == 3


def not_deterministic(_folder: Path) -> None:
    torch.use_deterministic_algorithms(True)
    try:
        torch.ones(3).put_(torch.tensor([0]), torch.tensor([1.0]))
    finally:
        torch.use_deterministic_algorithms(False)


def tensor_of_64_tib(_folder: Path) -> None:
    torch.empty(2**44)


def array_of_128_tib(_folder: Path) -> None:
    np.zeros(2**44)


# Versions


def operator_without_its_part(_folder: Path) -> None:
    torch.library.register_fake("torchvision::nothing")(lambda boxes: boxes)


def without_its_part(_folder: Path) -> None:
    torchvision = vision.load()
    boxes, scores = torch.ones(1, 4), torch.ones(1)
    with patch.object(torchvision.extension, "_has_ops", lambda: False):  # where it has loaded
        torchvision.ops.nms(boxes, scores, 0.5)


def cuda_runtime(_folder: Path) -> None:
    ctypes.CDLL("libcudart.so.10.0")


def extension_of_another_torch(folder: Path) -> None:
    """Load a library that calls what no torch has."""
    source, library = folder / "kernel.cpp", folder / "kernel.so"
    source.write_text(
        "namespace c10 { void gone_now(); }\nint run() { c10::gone_now(); return 0; }"
    )
    subprocess.run(["g++", "-shared", "-fPIC", "-o", library, source], check=True)  # noqa: S607
    ctypes.CDLL(str(library), mode=os.RTLD_NOW)


def no_compiler(folder: Path) -> None:
    from torch._inductor import config  # noqa: PLC0415 - it takes a second to import

    own = {"cpp.cxx": (None, str(folder / "g++")), "compile_threads": 1}
    cache = {"TORCHINDUCTOR_CACHE_DIR": str(folder / "cache")}
    with patch.dict(os.environ, cache), config.patch({**own, "force_disable_caches": True}):
        torch.compile(nn.Linear(3, 2))(torch.ones(1, 3))


KNOWN: Known = {
    "cuda-file-on-cpu": [file_of_cuda, file_to_cuda],
    "file-of-another-backend": [file_of_hpu, file_of_npu, file_of_mps, file_of_xpu, file_to_gpu],
    "torch-without-cuda": [
        tensor_to_cuda,
        model_to_cuda,
        generator_of_cuda,
        current_device,
        stream,
        event,
    ],
    "backend-not-in-this-torch": [to_mps, on_mps, on_xpu, on_hpu, on_xla],
    "name-of-a-device": [without_a_colon, of_no_kind, below_zero, of_no_text],
    "loss-on-different-devices": [labels_elsewhere, class_weights_elsewhere, targets_elsewhere],
    "optimizer-state-on-another-device": [optimizer_state_elsewhere],
    "weights-without-values": [
        model_on_meta,
        head_on_meta,
        batch_norm_on_meta,
        lstm_on_meta,
        compiled_on_meta,
    ],
    "copy-of-a-meta-tensor": [
        moved_from_meta,
        tensor_from_meta,
        number_from_meta,
        list_from_meta,
    ],
    "state-without-values": [state_on_meta],
    "load-into-a-meta-model": [loaded_into_meta],
    "no-attention-kernel": [attention_without_a_kernel, flash_attention_of_a_mask],
    "tensors-on-different-devices": [attention_elsewhere],
    "pinned-without-gpu": [pinned_on_the_cpu],
    "numpy-of-a-gpu-tensor": [array_of_meta],
    "numpy-of-a-gradient-tensor": [array_of_gradient, as_array_of_gradient],
    "no-deterministic-algorithm": [not_deterministic],
    "host-out-of-memory": [tensor_of_64_tib, array_of_128_tib],
    "torchvision-of-another-torch": [operator_without_its_part, without_its_part],
    "cuda-library-missing": [cuda_runtime],
    "extension-of-another-torch": [extension_of_another_torch],
    "no-compiler": [no_compiler],
}
RECORDED: Recorded = {
    "cuda-file-on-cpu": ["load_without_device"],
    "cuda-file-of-more-devices": [
        "load_of_second_device",
        "load_to_missing_device",
        "file_of_second_device",
    ],
    "no-gpu-visible": ["hidden_device", "no_device_visible"],
    "no-such-gpu": ["device_ordinal", "module_ordinal", "set_device_ordinal"],
    "no-such-gpu-of-data-parallel": ["data_parallel_ordinal"],
    "data-parallel-model-elsewhere": ["parallel_model_on_cpu"],
    "no-driver": ["no_driver"],
    "driver-too-old": ["driver_too_old", "driver_too_old_warning", "driver_insufficient"],
    "driver-does-not-fit-itself": ["driver_mismatch"],
    "cuda-did-not-start": ["cuda_unknown", "fabric_manager"],
    "gpu-not-of-this-build": ["no_kernel_image", "nvrtc"],
    "gpus-busy": ["busy", "busy_new"],
    "cuda-in-a-worker": ["fork_of_workers"],
    "cuda-in-a-forked-process": ["fork"],
    "loss-on-different-devices": [
        "class_weights_on_cpu",
        "target_on_cpu",
        "old_two_devices_target",
    ],
    "optimizer-state-on-another-device": ["optimizer_state_on_cpu"],
    "input-and-weights-on-different-devices": [
        "linear_input_on_cpu",
        "linear_weights_on_cpu",
        "conv_input_on_cpu",
        "conv_weights_on_cpu",
        "batch_norm_on_cpu",
        "embedding_input_on_cpu",
        "rnn_input_on_cpu",
        "old_two_devices_mat1",
        "old_two_devices_weights",
        "old_two_devices_index",
        "conv_input_type",
        "conv_weight_type",
        "conv_input_type_mps",
        "mps_placeholder",
        "two_gpus",
    ],
    "index-on-another-device": ["index_on_cuda"],
    "tensors-on-different-devices": [
        "cat_of_two_devices",
        "sum_of_two_devices",
        "old_two_devices_sum",
        "compiled_two_devices",
        "compiled_two_devices_new",
    ],
    "generator-of-another-device": [
        "generator_of_cpu",
        "generator_of_cuda",
        "sampler_generator",
    ],
    "pinned-gpu-tensor": ["pin_of_cuda"],
    "numpy-of-a-gpu-tensor": ["array_of_cuda", "numpy_of_cuda", "numpy_of_grad"],
    "torch-without-numpy": ["numpy_2"],
    "no-deterministic-algorithm": ["not_deterministic"],
    "cublas-workspace": ["cublas_workspace_unset"],
    "label-out-of-range-on-gpu": [
        "label_out_of_range",
        "label_out_of_range_blocking",
        "label_assert_old",
    ],
    "pixel-label-out-of-range-on-gpu": ["pixel_assert"],
    "probability-outside-0-1-on-gpu": ["bce_out_of_range", "bce_assert"],
    "embedding-index-on-gpu": [
        "embedding_out_of_range",
        "embedding_assert",
        "gather_kernel_assert",
    ],
    "index-out-of-range-on-gpu": ["gather_out_of_range", "index_assert"],
    "device-side-assert": ["assert_alone", "other_assert"],
    "illegal-memory-access": ["illegal_access"],
    "gpu-hardware": ["ecc"],
    "kernel-took-too-long": ["timed_out"],
    "attention-on-this-gpu": ["flash_attention_old"],
    "gpu-too-old-for-triton": ["triton_of_old_gpu"],
    "tensor-larger-than-gpu": ["out_of_memory"],
    "gpu-held-by-others": ["oom_of_others"],
    "gpu-memory-capped": ["out_of_memory_model", "out_of_memory_share"],
    "gpu-memory-in-pieces": ["oom_in_pieces", "oom_old_in_pieces"],
    "model-larger-than-gpu": ["oom_of_move", "no_room_for_cudnn"],
    "optimizer-state-larger-than-gpu": ["oom_of_optimizer"],
    "gpu-out-of-memory": [
        "no_room_for_cublas",
        "oom_of_batch",
        "oom_of_batch_2.1",
        "oom_old",
        "oom_of_cuda",
        "oom_of_nvml",
    ],
    "host-out-of-memory": ["windows_memory", "bad_alloc", "numpy_old_memory"],
    "cublas-did-not-start": ["cublas_create", "cublas_alloc"],
    "cublas-failed": ["cublas_execution"],
    "cudnn-version": ["cudnn_versions"],
    "cudnn-did-not-start": ["cudnn_init", "cudnn_algorithm", "cudnn_engine"],
    "cudnn-refused": ["cudnn_refused", "cudnn_frontend"],
    "cudnn-failed": ["cudnn_failed", "cudnn_internal"],
    "torchvision-of-another-torch": ["other_cuda_of_torchvision", "nms_on_cuda"],
    "mkl-of-another-torch": ["mkl"],
    "extension-of-another-torch": ["flash_attn", "nvjitlink"],
    "cuda-library-missing": ["cudnn_missing"],
    "opencv-without-its-libraries": ["opencv"],
    "c-library-too-old": ["glibcxx"],
    "dll-not-loaded": ["fbgemm", "paging_file", "dll_of_c"],
    "no-triton": ["triton", "triton_new"],
    "no-compiler": ["c_compiler_of_triton"],
    "float64-on-mps": ["mps_float64", "mps_double"],
    "operation-not-on-mps": ["mps_operator"],
    "mps-out-of-memory": ["mps_memory"],
}
CURED: Mapping[str, Callable[[Path], object]] = {
    "cuda-file-on-cpu": file_to_the_cpu,
    "cuda-file-of-more-devices": file_to_the_cpu,
    "file-of-another-backend": file_to_the_cpu,
    "torch-without-cuda": device_that_is_there,
    "backend-not-in-this-torch": device_that_is_there,
    "name-of-a-device": with_a_colon,
    "loss-on-different-devices": class_weights_moved,
    "optimizer-state-on-another-device": optimizer_after_the_move,
    "weights-without-values": meta_with_values,
    "copy-of-a-meta-tensor": meta_with_values,
    "state-without-values": meta_with_values,
    "load-into-a-meta-model": assigned_to_meta,
    "no-attention-kernel": attention_with_a_kernel,
    "tensors-on-different-devices": one_device,
    "generator-of-another-device": drawn_on_its_device,
    "pinned-without-gpu": not_pinned,
    "numpy-of-a-gpu-tensor": array_of_detached,
    "numpy-of-a-gradient-tensor": array_of_detached,
}
