"""Explanations of errors of devices: what they name is right, and what they say cures."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

import luthier
from known_errors import devices
from luthier.explanations import (
    Explanation,
    Frame,
    Here,
    ModuleFacts,
    ObjectFacts,
    Raised,
    TensorFacts,
    errors_in,
)
from luthier.explanations import explain as explained
from luthier.explanations.catalogue import entries

RECORDED = Path(__file__).parent / "recorded"


def of(raises: Callable[[Path], object], folder: Path) -> Explanation:
    with pytest.raises(BaseException) as caught:  # noqa: PT011 - any of the catalogue's
        raises(folder)
    found = luthier.explain(caught.value, lang="en")
    assert found is not None
    return found


def recorded(name: str) -> Explanation:
    for path in RECORDED.glob("*.json"):
        told = json.loads(path.read_text(encoding="utf-8"))["errors"]
        if name in told:
            found = luthier.explain(told[name]["stderr"], lang="en")
            assert found is not None
            return found
    raise AssertionError(name)


@pytest.mark.parametrize("name", devices.CURED)
def test_what_an_explanation_says_ends_the_error(name: str, tmp_path: Path) -> None:
    devices.CURED[name](tmp_path)


def test_what_is_cured_is_in_the_catalogue() -> None:
    assert devices.CURED.keys() <= {entry.name for entry in entries()}


# What is named


def test_a_file_is_told_from_a_wish(tmp_path: Path) -> None:
    assert "was saved from a GPU" in of(devices.file_of_cuda, tmp_path).cause
    asked = of(devices.file_to_cuda, tmp_path)
    assert 'asks for "cuda"' in asked.cause
    assert asked.code == 'torch.load(path, map_location="cpu")'


def test_the_device_of_a_file_is_named(tmp_path: Path) -> None:
    assert '"npu:0"' in of(devices.file_of_npu, tmp_path).cause
    assert '"hpu"' in of(devices.file_of_hpu, tmp_path).cause
    assert 'asks for "gpu"' in of(devices.file_to_gpu, tmp_path).cause


@pytest.mark.parametrize(
    ("given", "meant"),
    [("cuda0", "cuda:0"), ("GPU", "cuda"), ("cuda_2", "cuda:2")],
)
def test_a_device_is_written_as_it_was_meant(given: str, meant: str, tmp_path: Path) -> None:
    found = of(lambda _: torch.device(given), tmp_path)
    assert f'"{given}" names no device: torch writes it "{meant}"' == found.cause
    assert found.code == f'device = torch.device("{meant}")'
    torch.device(meant)


@pytest.mark.parametrize("given", ["cuda:x", "cuda:-1", "processor"])
def test_a_device_is_not_guessed(given: str, tmp_path: Path) -> None:
    found = of(lambda _: torch.device(given), tmp_path)
    assert f'"{given}" names no device: a device is a kind' in found.cause
    assert not found.code


def test_the_argument_of_a_loss_is_named(tmp_path: Path) -> None:
    labels = of(devices.labels_elsewhere, tmp_path)
    assert labels.cause == "the labels are on meta, the output of the model on cpu"
    assert "labels = labels.to(outputs.device)" in labels.code
    weights = of(devices.class_weights_elsewhere, tmp_path).cause
    assert weights == "the class weights of the loss are on meta, the output of the model on cpu"
    assert "targets.to(outputs.device)" in of(devices.targets_elsewhere, tmp_path).code
    assert "class weights of the loss are on cpu" in recorded("class_weights_on_cpu").cause
    assert "labels are on cpu" in recorded("target_on_cpu").cause


def test_an_optimizers_state_is_named(tmp_path: Path) -> None:
    cause = of(devices.optimizer_state_elsewhere, tmp_path).cause
    assert cause.startswith("the state of Adam is on cpu, meta")
    assert "(cuda:0 and cpu)" in recorded("optimizer_state_on_cpu").cause


def test_the_layer_without_values_is_named(tmp_path: Path) -> None:
    found = of(devices.head_on_meta, tmp_path)
    assert found.cause.startswith("2 of 4 tensors of Net, such as head.weight, are on the meta")
    assert "at work was head (Linear)" in found.checked
    assert found.code.startswith('net.to_empty(device="cpu")\nluthier.load(net, ')
    moved = of(devices.moved_from_meta, tmp_path)
    assert moved.cause.startswith("2 of 2 tensors of Linear, such as weight,")
    assert moved.code.startswith("net.to_empty")


@pytest.mark.parametrize(
    ("error", "input_at", "weights_at"),
    [
        ("linear_input_on_cpu", "cpu", "cuda:0"),
        ("linear_weights_on_cpu", "cuda:0", "cpu"),
        ("conv_input_on_cpu", "cpu", "cuda:0"),
        ("conv_weights_on_cpu", "cuda", "cpu"),
        ("batch_norm_on_cpu", "cuda:0", "cpu"),
        ("embedding_input_on_cpu", "cpu", "cuda:0"),
        ("rnn_input_on_cpu", "cpu", "cuda:0"),
        ("old_two_devices_mat1", "cpu", "cuda:0"),
        ("old_two_devices_weights", "cuda:0", "cpu"),
        ("old_two_devices_index", "cpu", "cuda:0"),
        ("conv_input_type", "cpu", "cuda"),
        ("conv_weight_type", "cuda", "cpu"),
        ("conv_input_type_mps", "mps", "cpu"),
        ("mps_placeholder", "cpu", "mps:0"),
    ],
)
def test_input_and_weights_are_where_they_are(error: str, input_at: str, weights_at: str) -> None:
    found = recorded(error)
    assert (
        found.cause == f"the input is on {input_at}, the weights of the layer are on {weights_at}"
    )
    assert (f'.to("{input_at}")' in found.code) == (weights_at == "cpu")


def test_the_batch_or_the_model_is_moved_by_its_name() -> None:
    moved = recorded("old_two_devices_mat1").code
    assert moved == "images = images.to(next(model.parameters()).device)"
    assert recorded("conv_weight_type").code == 'model.to("cuda")'


MAT1 = (
    "Expected all tensors to be on the same device, but got mat1 is on cuda:0, different from "
    "other tensors on cpu (when checking argument in method wrapper_CUDA_addmm)"
)
LINEAR = "/usr/lib/python3/site-packages/torch/nn/modules/linear.py"
WEIGHTS = {"weight": TensorFacts((2, 3), "float32", "cpu")}


def live_of(path: str) -> Explanation:
    """Return how a layer's input on a GPU is explained, as a program with one would have it."""
    model = ModuleFacts("Net", parameters={"body.weight": TensorFacts((2, 3), "float32", "cuda:0")})
    layer = ModuleFacts("Linear", path, parameters=WEIGHTS)
    given = TensorFacts((64, 3), "float32", "cuda:0")
    calls = (Frame("train.py", 9, "<module>", "y = net(x)"), Frame("net.py", 5, "forward"))
    raised = Raised("RuntimeError", MAT1, (*calls, Frame(LINEAR, 125, "forward", is_library=True)))
    live = ({"net": model}, {"self": model, "x": given}, {"self": layer, "input": given})
    found = explained([raised], "en", Here(), [live])
    assert found is not None
    return found


def test_the_layer_and_its_input_are_named() -> None:
    found = live_of("head")
    assert found.cause == "the input [64, 3] of head (Linear) is on cuda:0, its weights are on cpu"


def test_a_layer_outside_of_the_model_is_told() -> None:
    found = live_of("")
    assert found.cause.startswith("Linear is no submodule of Net")
    assert "nn.ModuleList" in found.cure
    assert "ModuleList(self.layers)" in found.code


def test_layers_in_a_list_are_left_where_they_are() -> None:
    class Net(nn.Module):
        def __init__(self, *, registered: bool) -> None:
            super().__init__()
            layers = [nn.Linear(3, 3)]
            self.layers = nn.ModuleList(layers) if registered else layers

    assert Net(registered=False).to("meta").layers[0].weight.device.type == "cpu"
    assert Net(registered=True).to("meta").layers[0].weight.device.type == "meta"


# Assertions


def test_the_label_that_a_kernel_found_is_named() -> None:
    assert recorded("label_out_of_range").cause.startswith("label 2 of the batch")
    assert recorded("label_assert_old").cause.startswith("label 5 of the batch")
    assert "input has a value" in recorded("bce_out_of_range").cause
    assert "target has a value" in recorded("bce_assert").cause
    assert "srcIndex < srcSelectDimSize" in recorded("embedding_out_of_range").checked[0]


# Memory


def test_the_numbers_of_the_message_are_told() -> None:
    whole = recorded("out_of_memory").cause
    assert whole == "a single tensor of 4.0 TiB was asked for, and the whole GPU has 139.8 GiB"
    others = recorded("oom_of_others").cause
    assert "(4242) hold 21.0 GiB of the 23.6 GiB" in others
    assert others.endswith("this program 2.6 GiB")
    assert "572.6 MiB of the 139.8 GiB" in recorded("out_of_memory_model").cause
    assert "5.2 GiB that no tensor uses" in recorded("oom_in_pieces").cause
    assert "2.5 GiB that no tensor uses" in recorded("oom_old_in_pieces").cause
    assert recorded("oom_of_move").code == 'net.to(torch.bfloat16).to("cuda")'


OUT = (
    "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 10.00 GiB of "
    "which 1.00 GiB is free. Including non-PyTorch memory, this process has 9.00 GiB memory in "
    "use. Of the allocated memory 8.00 GiB is allocated by PyTorch, and 0 bytes is reserved by "
    "PyTorch but unallocated."
)


def test_a_batch_that_may_have_room_is_named() -> None:
    given = TensorFacts((100, 3, 224, 224), "float32", "cuda:0")
    raised = Raised("torch.OutOfMemoryError", OUT, (Frame("train.py", 1, "step"),))
    found = explained([raised], "en", Here(), [({"input": given},)])
    assert found is not None
    assert "a batch of 100 needs more than the GPU has: 8.0 GiB of 10.0 GiB" in found.cause
    assert "batch_size=64" in found.code  # 100 x 9 / 10 at most


def test_a_sum_of_losses_with_their_graphs_is_named() -> None:
    def train() -> None:
        weight = torch.ones(3, requires_grad=True)
        running_loss = torch.zeros(())
        for _ in range(2):
            running_loss = running_loss + weight.sum()
        torch.empty(2**44)

    with pytest.raises(RuntimeError) as caught:
        train()
    found = luthier.explain(caught.value, lang="en")
    assert found is not None
    assert found.name == "host-out-of-memory"
    assert found.cause.startswith('"running_loss" adds losses that have their graphs')
    assert "then 64.0 TiB more" in found.cause
    assert found.code == "running_loss += loss.item()"


def test_an_evaluation_that_records_gradients_is_named() -> None:
    outputs = TensorFacts((8, 10), "float32", "cuda:0", requires_grad=True, is_leaf=False)
    frames = (Frame("train.py", 3, "<module>"), Frame("train.py", 1, "validate"))
    raised = Raised("torch.OutOfMemoryError", OUT, frames)
    found = explained([raised], "en", Here(), [({}, {"outputs": outputs})])
    assert found is not None
    assert found.cause.startswith("validate records gradients")


# Machine and versions


def test_only_what_hides_the_gpus_is_blamed() -> None:
    raised = Raised("RuntimeError", "No CUDA GPUs are available")
    hidden = Here(gpus=2, visible_gpus=0, cuda_visible_devices="7")
    told = explained([raised], "en", hidden)
    assert told is not None
    assert told.cause == "CUDA_VISIBLE_DEVICES=7 leaves this program none of the 2 GPUs"
    none = explained([raised], "en", Here(gpus=0, visible_gpus=0, cuda_visible_devices="0"))
    assert none is not None
    assert none.cause.startswith("torch is built with CUDA, and no GPU is visible")


def test_a_driver_gets_a_build_that_it_runs() -> None:
    found = recorded("driver_too_old")
    assert "goes up to CUDA 12.2" in found.cause
    assert "whl/cu126" in found.code
    assert "whl/cu118" in recorded("driver_too_old_warning").code
    assert not recorded("driver_insufficient").code


def test_the_library_and_its_package_are_named(tmp_path: Path) -> None:
    assert "libcudart.so.10.0" in of(devices.cuda_runtime, tmp_path).cause
    assert "install --no-build-isolation --no-cache-dir flash-attn" in recorded("flash_attn").code
    assert not recorded("nvjitlink").code
    assert "WinError 1455" in recorded("paging_file").cure
    mixed = recorded("other_cuda_of_torchvision").cause
    assert mixed.startswith("torchvision is built for CUDA 11.8, and torch for CUDA 12.1")
    assert "redistributable" in recorded("fbgemm").cure


def test_a_torchvision_that_does_not_import_is_explained() -> None:
    program = [sys.executable, "-c", "import torchvision"]
    ran = subprocess.run(program, capture_output=True, text=True, check=False)
    if ran.returncode == 0:
        pytest.skip("the compiled part of torchvision loads beside this torch")
    found = luthier.explain(ran.stderr, lang="en")
    assert found is not None
    assert found.name == "torchvision-of-another-torch"


# What is none of these


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("RuntimeError", "No CUDA GPUs are available"),
        ("RuntimeError", "CUDA out of memory. Tried to allocate 2.00 GiB."),
        ("RuntimeError", MAT1),
        ("AssertionError", "Torch not compiled with CUDA enabled"),
        ("MemoryError", "Unable to allocate 93.1 GiB for an array with shape (5,)"),
    ],
)
@pytest.mark.parametrize(
    "path", ["/home/user/train.py", "/usr/lib/python3/site-packages/tensorflow/python/eager.py"]
)
def test_what_is_raised_by_hand_is_not_torchs(kind: str, message: str, path: str) -> None:
    frame = Frame(path, 3, "check", f'raise {kind}("{message}")')
    assert explained([Raised(kind, message, (frame,))], "en") is None
    assert explained([Raised(kind, message)], "en") is not None


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("RuntimeError", "Input type (double) and bias type (float) should be the same"),
        (
            "RuntimeError",
            "Input type (torch.FloatTensor) and weight type (torch.HalfTensor) should",
        ),
        ("ImportError", "/x/tensorflow/_pywrap.so: undefined symbol: _ZN10tensorflow6StatusC1Ev"),
        ("OSError", "libssl.so.1.1: cannot open shared object file: No such file or directory"),
        ("ImportError", "libGL.so.1: cannot open shared object file: No such file or directory"),
        ("OSError", "[WinError 126] The specified module could not be found: 'geos_c.dll'"),
        ("RuntimeError", "device-side assert of mine"),
        ("MemoryError", ""),
        ("RuntimeError", "Error 804: the order was not found"),
    ],
)
def test_what_only_sounds_like_it_is_not_explained(kind: str, message: str) -> None:
    found = explained([Raised(kind, message)], "en")
    assert found is None or found.name not in {e.name for e in entries() if e.area == "devices"}


def test_labels_at_hand_are_blamed_only_where_they_are_outside() -> None:
    raised = Raised("torch.AcceleratorError", "CUDA error: device-side assert triggered")
    outputs = TensorFacts((8, 10), "float32", "cuda:0")
    for high, is_it in ((9, False), (10, True)):
        loader = ObjectFacts("DataLoader", {"low": 1, "high": high})
        found = explained([raised], "en", Here(), [({"loader": loader, "input": outputs},)])
        assert found is not None
        assert (f"labels from 1 to {high}, and the model 10 outputs" in found.cause) == is_it


def test_two_gpus_are_told_by_their_numbers() -> None:
    assert (
        "input is on cuda:1, the weights of the layer are on cuda:0" in recorded("two_gpus").cause
    )


def test_what_cuda_says_of_its_start_decides() -> None:
    assert "fabric manager" in recorded("fabric_manager").cause
    assert "nvidia-fabricmanager" in recorded("fabric_manager").cure
    assert "CUDA_VISIBLE_DEVICES was changed inside" in recorded("cuda_unknown").cause


def test_who_asked_is_named() -> None:
    assert "asks for cuda:5" in recorded("device_ordinal").cause
    assert "__getitem__, line 10" in recorded("fork_of_workers").cause
    drawn = recorded("sampler_generator")
    assert "sampler of the DataLoader draws on cuda" in drawn.cause
    assert drawn.code.startswith(
        'DataLoader(dataset, shuffle=True, generator=torch.Generator("cuda"'
    )
    assert (
        recorded("generator_of_cuda").cause == "numbers are drawn on cpu with a generator of cuda"
    )


BY_MESSAGE = json.loads((RECORDED / "devices-by-message.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", BY_MESSAGE["errors"])
def test_the_same_words_by_hand_are_nobodys(name: str) -> None:
    (raised, *_) = errors_in(BY_MESSAGE["errors"][name]["stderr"])
    frame = Frame("/home/user/serve.py", 3, "check", "raise RuntimeError(message)")
    assert explained([replace(raised, frames=(frame,))], "en") is None
