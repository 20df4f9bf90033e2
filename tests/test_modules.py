"""Modules that were pickled whole: the names of ``state_dict()``, and what they are built of."""

from __future__ import annotations

import io
import subprocess
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils import weight_norm
from torch.optim.swa_utils import AveragedModel

from luthier import vision
from luthier.errors import DamagedError
from luthier.files import tensors
from luthier.files.contents import architecture, modules
from luthier.files.entries import Global, Record, RefusedEntry, TensorEntry
from luthier.files.limits import Budget
from luthier.files.mapped import Held
from luthier.files.opening import open_archive
from luthier.values import TensorSpec

models = vision.load("torchvision.models")

TORCHVISION = (
    "alexnet", "convnext_tiny", "densenet121", "efficientnet_b0", "efficientnet_v2_s", "googlenet",
    "inception_v3", "maxvit_t", "mnasnet0_5", "mobilenet_v2", "mobilenet_v3_small",
    "resnet18", "resnext50_32x4d", "shufflenet_v2_x0_5", "squeezenet1_0", "swin_t", "swin_v2_t",
    "vgg11_bn", "vit_b_16", "wide_resnet50_2", "mobilenet_v3_large",
)  # fmt: skip


def saved(module: nn.Module, folder: Path, **options: Any) -> Record:
    """Save a module whole and open it; what is loaded stays inert."""
    path = folder / "module.pt"
    torch.save(module, path, **options)
    content = open_archive(path).content
    assert isinstance(content, Record)
    assert modules.is_module(content)
    return content


def assert_same(module: nn.Module, folder: Path, **options: Any) -> dict[str, Any]:
    """Compare names, order and values with what the living module gives."""
    found = modules.state_dict(saved(module, folder, **options))
    wanted = module.state_dict()
    assert list(found) == list(wanted)
    for name, entry in found.items():
        torch.testing.assert_close(tensors.tensor(entry), wanted[name], rtol=0, atol=0)
    return dict(found)


# --- the names that state_dict() gives --------------------------------------------------------


@pytest.mark.filterwarnings("ignore:The default weight initialization")
@pytest.mark.parametrize("name", TORCHVISION)
def test_torchvision_models_have_the_names_of_their_state_dict(name: str, tmp_path: Path) -> None:
    with torch.device("meta"):  # no values: names, shapes and dtypes are what differs
        model = getattr(models, name)()
    found = modules.state_dict(saved(model, tmp_path))
    wanted = {n: tensors.spec(tensor) for n, tensor in model.state_dict().items()}
    assert list(found) == list(wanted)
    assert {n: entry.spec for n, entry in found.items()} == wanted


def test_values_of_a_real_model(tmp_path: Path) -> None:
    assert_same(models.shufflenet_v2_x0_5(num_classes=3), tmp_path)


class Shared(nn.Module):
    """One linear layer under two names, and a weight that two layers share."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(3, 3)
        self.again = self.first
        self.tied = nn.Linear(3, 3)
        self.tied.weight = self.first.weight


class Hidden(nn.Module):
    """Buffers that are saved and not saved, absent ones, and a tensor that is no buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("kept", torch.ones(2))
        self.register_buffer("dropped", torch.ones(3), persistent=False)
        self.register_buffer("absent", None)
        self.register_parameter("none", None)
        self.plain = torch.ones(4)
        self.scale = nn.Parameter(torch.ones(()))
        self.child = None


class Lists(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.many = nn.ParameterList([torch.zeros(i + 1) for i in range(11)])
        self.named = nn.ParameterDict({"b": torch.zeros(1), "a": torch.zeros(2)})
        self.layers = nn.ModuleDict({"z": nn.Linear(1, 1), "y": nn.Conv1d(1, 1, 1, bias=False)})


BUILDERS: dict[str, Callable[[], nn.Module]] = {
    "transformer": lambda: nn.Transformer(8, 2, 1, 1, 16, batch_first=True),
    "lstm": lambda: nn.LSTM(3, 4, num_layers=2, bidirectional=True, proj_size=2),
    "gru": lambda: nn.GRU(3, 4, bias=False),
    "attention": lambda: nn.MultiheadAttention(4, 2, kdim=3, vdim=5, bias=False),
    "batch norm without statistics": lambda: nn.BatchNorm1d(3, track_running_stats=False),
    "batch norm without weights": lambda: nn.BatchNorm1d(3, affine=False),
    "shared": Shared,
    "hidden": Hidden,
    "lists": Lists,
    "data parallel": lambda: nn.DataParallel(nn.Sequential(nn.Linear(2, 2), nn.PReLU())),
    "average": lambda: AveragedModel(nn.Linear(2, 2), use_buffers=True),
    "no tensors": lambda: nn.Sequential(nn.ReLU(), nn.Flatten()),
    "frozen and half": lambda: nn.Linear(2, 2).requires_grad_(False).half(),
}


@pytest.mark.parametrize("build", BUILDERS.values(), ids=BUILDERS.keys())
@pytest.mark.parametrize("protocol", [2, 4])
def test_modules_of_all_sorts(
    build: Callable[[], nn.Module], protocol: int, tmp_path: Path
) -> None:
    assert_same(build(), tmp_path, pickle_protocol=protocol)


@pytest.mark.filterwarnings("ignore:Couldn't retrieve source code")
@pytest.mark.parametrize("build", [Shared, Hidden, Lists])
def test_the_format_before_torch_1_6(build: Callable[[], nn.Module], tmp_path: Path) -> None:
    assert_same(build(), tmp_path, _use_new_zipfile_serialization=False)


@pytest.mark.filterwarnings("ignore:.*weight_norm:FutureWarning")
def test_weight_norm_has_its_two_parts_and_not_their_product(tmp_path: Path) -> None:
    layer = weight_norm(nn.Linear(3, 2))
    assert list(assert_same(layer, tmp_path)) == ["bias", "weight_g", "weight_v"]


def test_a_graph_module_is_a_module_though_it_is_pickled_as_a_call(tmp_path: Path) -> None:
    assert_same(torch.fx.symbolic_trace(nn.Sequential(nn.Linear(2, 2), nn.ReLU())), tmp_path)


def test_tied_weights_stay_one_entry(tmp_path: Path) -> None:
    found = modules.state_dict(saved(Shared(), tmp_path))
    assert found["first.weight"] is found["again.weight"]
    assert found["first.weight"] is found["tied.weight"]
    assert found["first.bias"] is not found["tied.bias"]


# --- without the class ------------------------------------------------------------------------

GONE = """
from torch import nn
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.width = 8
        self.body = nn.Sequential(nn.Linear(2, 8), nn.ReLU())
    def __setstate__(self, state):
        raise SystemExit("the module's own code ran")
"""


@pytest.fixture
def gone(tmp_path: Path) -> tuple[Path, dict[str, torch.Tensor]]:
    """A file with a module whose class is nowhere any more."""
    module = types.ModuleType("gone_for_good")
    sys.modules["gone_for_good"] = module
    try:
        exec(GONE, module.__dict__)  # noqa: S102 - a class that can be deleted again
        net = module.Net()
        torch.save({"model": net, "epoch": 3}, tmp_path / "gone.pt")
    finally:
        del sys.modules["gone_for_good"]
    return tmp_path / "gone.pt", net.state_dict()


def test_the_class_is_neither_needed_nor_looked_for(
    gone: tuple[Path, dict[str, torch.Tensor]],
) -> None:
    path, wanted = gone
    found = modules.state_dict(open_archive(path).content["model"])
    assert list(found) == list(wanted)
    for name, tensor in wanted.items():
        assert torch.equal(tensors.tensor(found[name]), tensor)
    assert "gone_for_good" not in sys.modules


def test_in_a_process_without_torch_where_the_class_would_be_importable(
    gone: tuple[Path, dict[str, torch.Tensor]], tmp_path: Path
) -> None:
    path, wanted = gone
    (tmp_path / "gone_for_good.py").write_text("raise SystemExit('it was imported')")
    script = f"""
import sys
sys.path.insert(0, {str(tmp_path)!r})
from pathlib import Path
from luthier.files.contents import architecture, modules
from luthier.files.opening import open_archive
model = open_archive(Path({str(path)!r})).content["model"]
assert list(modules.state_dict(model)) == {list(wanted)!r}
print("\\n".join(architecture.lines(model)))
assert not {{"gone_for_good", "torch", "numpy"}} & set(sys.modules)
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "Net(width=8,",
        "  (body): Sequential(",
        "    (0): Linear(in_features=2, out_features=8)",
        "    (1): ReLU()",
        "  )",
        ")",
    ]


# --- what is refused --------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_quantised_parts_are_refused_by_name_and_the_others_given(tmp_path: Path) -> None:
    quantised = torch.ao.nn.quantized.dynamic.Linear(4, 4)
    found = modules.state_dict(saved(nn.Sequential(nn.Linear(2, 4), quantised), tmp_path))
    assert list(found) == ["0.weight", "0.bias", "1"]
    assert isinstance(found["1"], RefusedEntry)
    assert "is quantised" in found["1"].why


def test_a_scripted_child_is_refused_by_name() -> None:
    script = Record(Global("torch.jit._script", "RecursiveScriptModule"), state=b"")
    found = modules.state_dict(made("Net", children={"a": made("Layer", w=entry(2)), "b": script}))
    assert list(found) == ["a.w", "b"]
    assert isinstance(found["b"], RefusedEntry)
    assert "scripted" in found["b"].why


def test_a_parameter_without_values_is_refused_by_name(tmp_path: Path) -> None:
    found = modules.state_dict(saved(nn.Sequential(nn.LazyLinear(3)), tmp_path))
    assert set(found) == {"0.weight", "0.bias"}
    assert all(isinstance(entry, RefusedEntry) for entry in found.values())


def test_what_is_no_module_is_none() -> None:
    assert not modules.is_module({"_parameters": {}, "_modules": {}})
    assert not modules.is_module(Record(Global("a", "B"), state={"_parameters": {}}))


# --- files that were made to harm -------------------------------------------------------------


def entry(*shape: int) -> TensorEntry:
    return TensorEntry(TensorSpec(shape, "float32"), Held(bytearray(0)))


def made(name: str, children: dict[str, Any] | None = None, **parameters: Any) -> Record:
    inside = {"_parameters": parameters, "_buffers": {}, "_modules": children or {}}
    return Record(Global("somewhere", name), state=inside)


def test_a_module_that_contains_itself_is_damaged() -> None:
    module = made("Net")
    module.state["_modules"]["self"] = module
    with pytest.raises(DamagedError, match="deeper"):
        modules.state_dict(module)
    with pytest.raises(DamagedError, match="contains itself"):
        list(architecture.lines(module))
    assert len(list(architecture.parts(module))) == 1


def test_exponentially_many_names_are_over_the_limit_and_the_architecture_is_still_short() -> None:
    module = made("Leaf", w=entry(1))
    for _ in range(60):
        module = made("Twice", {"0": module, "1": module})
    with pytest.raises(DamagedError, match="memory"):
        modules.state_dict(module, Budget(1 << 20))
    assert len(list(architecture.lines(module))) == 60 * 2 + 1


def test_names_that_are_no_texts_and_values_that_are_no_tensors() -> None:
    module = made("Net", children={3: made("Layer", w="text"), "x": 5})
    found = modules.state_dict(module)
    assert list(found) == ["3.w", "x"]
    assert all(isinstance(entry, RefusedEntry) for entry in found.values())


# --- the architecture -------------------------------------------------------------------------


def test_the_architecture_reads_like_printing_the_module(tmp_path: Path) -> None:
    layers = [nn.Conv2d(3, 8, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU(True)]
    blocks = [nn.Sequential(nn.Linear(8, 8), nn.Dropout(0.1)) for _ in range(3)]
    model = nn.Sequential(*layers, *blocks, nn.Linear(8, 2))
    assert list(architecture.lines(saved(model, tmp_path))) == [
        "Sequential(",
        "  (0): Conv2d(in_channels=3, out_channels=8, kernel_size=(3, 3), stride=(2, 2),"
        " padding=(1, 1), bias=False)",
        "  (1): BatchNorm2d(num_features=8, eps=1e-05, momentum=0.1)",
        "  (2): ReLU(inplace=True)",
        "  (3-5): 3 x Sequential(",
        "    (0): Linear(in_features=8, out_features=8)",
        "    (1): Dropout(p=0.1)",
        "  )",
        "  (6): Linear(in_features=8, out_features=2)",
        ")",
    ]


def test_every_module_is_a_part_once_in_the_order_of_named_modules(tmp_path: Path) -> None:
    model = nn.Sequential(Shared(), Lists(), Hidden())
    found = list(architecture.parts(saved(model, tmp_path)))
    wanted = dict(model.named_modules())
    assert [part.name for part in found] == list(wanted)
    for part in found:
        kind = type(wanted[part.name])
        assert part.made_by == f"{kind.__module__}.{kind.__qualname__}"
    (linear,) = [part for part in found if part.name == "0.first"]
    assert linear.attributes == {"in_features": 3, "out_features": 3}


@st.composite
def living(draw: st.DrawFn, depth: int = 3) -> nn.Module:
    """Any module: parameters, buffers and children under any names, some of them shared."""
    module = nn.Module()
    names = st.text(
        st.characters(exclude_characters=".", exclude_categories=["Cs"]), min_size=1, max_size=4
    ).filter(lambda name: not hasattr(module, name))
    for name in draw(st.lists(names, unique=True, max_size=5)):
        kind = draw(st.sampled_from(["parameter", "buffer", "hidden", "none", "child", "shared"]))
        if kind == "parameter":
            module.register_parameter(name, nn.Parameter(torch.ones(draw(st.integers(0, 3)))))
        elif kind in ("buffer", "hidden"):
            module.register_buffer(name, torch.ones(2), persistent=kind == "buffer")
        elif kind == "none":
            module.register_buffer(name, None)
        elif kind == "child" and depth:
            module.add_module(name, draw(living(depth - 1)))
        elif kind == "shared":
            module.add_module(name, next(iter(module.children()), None))
    return module


@given(living())
def test_any_module_has_the_names_of_its_state_dict(module: nn.Module) -> None:
    with io.BytesIO() as file:
        torch.save(module, file)
        content = file.getvalue()
    assert list(modules.state_dict(record_of(content))) == list(module.state_dict())


def record_of(content: bytes) -> Record:
    import tempfile  # noqa: PLC0415

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "module.pt"
        path.write_bytes(content)
        found = open_archive(path).content
    assert isinstance(found, Record)
    return found
