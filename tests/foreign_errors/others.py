import fsspec
import huggingface_hub
import hypothesis
import hypothesis.strategies as st
import numpy as np
import onnx
import onnxruntime
import pytest
import safetensors
import safetensors.torch
import torch
from onnx import TensorProto, checker, helper
from torch import nn
from torchdata.nodes import IterableWrapper
from tqdm import tqdm

from luthier import vision

v2 = vision.load("torchvision.transforms.v2")  # what follows needs torchvision to be there

import pytorch_lightning
import timm
import timm.data
import timm.optim
import torchmetrics
import torchmetrics.functional
import transformers

def graph(op="Relu", shape=(1, 3), **attributes):
    given = helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)
    got = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    node = helper.make_node(op, ["x"], ["y"], **attributes)
    made = helper.make_graph([node], "g", [given], [got])
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)

def session(model):
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(model.SerializeToString(), options)

class Bare(pytorch_lightning.LightningModule):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(2, 1)

def trainer(**knobs):
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    return pytorch_lightning.Trainer(
        max_epochs=1, accelerator="cpu", enable_checkpointing=False, **quiet, **knobs
    )

class Bar(tqdm):
    monitor_interval = 0  # no thread that stays

# %% onnx_checker: ValidationError
checker.check_model(graph("NoSuchOperator"))

# %% onnx_parse: DecodeError
onnx.load_from_string(b"\xff\xff no model")

# %% onnx_missing_file: FileNotFoundError
onnx.load("model.onnx")

# %% onnx_attribute: TypeError
helper.make_attribute("axis", object())

# %% ort_no_file: NoSuchFile
onnxruntime.InferenceSession("model.onnx")

# %% ort_no_model: InvalidProtobuf
onnxruntime.InferenceSession(b"no model")

# %% ort_input_name: ValueError
session(graph()).run(None, {"pixels": np.zeros((1, 3), np.float32)})

# %% near_ort_input_type: InvalidArgument
session(graph()).run(None, {"x": np.zeros((1, 3), np.float64)})

# %% near_ort_rank: InvalidArgument
session(graph()).run(None, {"x": np.zeros(3, np.float32)})

# %% near_ort_dimension: InvalidArgument
session(graph()).run(None, {"x": np.zeros((1, 5), np.float32)})

# %% ort_operator: InvalidGraph
session(graph("NoSuchOperator"))

# %% safetensors_key: SafetensorError
safetensors.torch.save_file({"a": torch.zeros(2)}, "a.safetensors")
with safetensors.safe_open("a.safetensors", "pt") as file:
    file.get_tensor("b")

# %% safetensors_not_tensors: ValueError
safetensors.torch.save_file({"a": [1, 2]}, "a.safetensors")

# %% safetensors_metadata: TypeError
safetensors.torch.save_file({"a": torch.zeros(2)}, "a.safetensors", metadata={"epoch": 3})

# %% timm_name: RuntimeError
timm.create_model("resnet9000")

# %% timm_tag: RuntimeError
timm.create_model("resnet18.no_such_tag", pretrained=True)

# %% timm_argument: TypeError
timm.create_model("resnet18", number_of_classes=3)

# %% timm_optimizer: ValueError
timm.optim.create_optimizer_v2(nn.Linear(1, 1), opt="sgdx")

# %% timm_augmentation: AssertionError
timm.data.auto_augment.rand_augment_transform("rand-z9", {})

# %% hub_repository_name: HFValidationError
huggingface_hub.hf_hub_download("a/b/c", "model.bin")

# %% hub_not_cached: LocalEntryNotFoundError
huggingface_hub.hf_hub_download("nobody/nothing", "model.bin", local_files_only=True)

# %% near_transformers_not_cached: OSError
transformers.AutoConfig.from_pretrained("nobody/nothing", local_files_only=True)

# %% transformers_model_type: ValueError
transformers.AutoConfig.for_model("no-such-model")

# %% transformers_heads: ValueError
transformers.BertModel(transformers.BertConfig(hidden_size=10, num_attention_heads=3))

# %% transformers_task: KeyError
transformers.pipeline("read-minds")

# %% transformers_both_inputs: ValueError
config = transformers.BertConfig(
    hidden_size=4, num_attention_heads=1, num_hidden_layers=1, intermediate_size=4, vocab_size=9
)
model = transformers.BertModel(config)
model(input_ids=torch.zeros(1, 2, dtype=torch.long), inputs_embeds=torch.zeros(1, 2, 4))

# %% transformers_schedule: ValueError
transformers.get_scheduler("zigzag", torch.optim.SGD(nn.Linear(1, 1).parameters()))

# %% torchmetrics_task: ValueError
torchmetrics.Accuracy(task="sorting")

# %% torchmetrics_classes: ValueError
torchmetrics.Accuracy(task="multiclass")

# %% torchmetrics_shapes: ValueError
torchmetrics.functional.accuracy(
    torch.zeros(3, dtype=torch.long), torch.zeros(4, dtype=torch.long), "multiclass", num_classes=2
)

# %% torchmetrics_values: RuntimeError
torchmetrics.functional.accuracy(torch.tensor([0, 1]), torch.tensor([0, 7]), "binary")

# %% torchmetrics_collection: ValueError
torchmetrics.MetricCollection([torchmetrics.MeanMetric(), torchmetrics.MeanMetric()])

# %% torchmetrics_average: ValueError
torchmetrics.F1Score(task="multiclass", num_classes=3, average="middle")

# %% transform_pad: ValueError
v2.Pad((1, 2, 3))

# %% transform_crop: ValueError
v2.functional.pad(torch.zeros(3, 4, 4), [1, 1], padding_mode="sideways")

# %% transform_of_a_list: TypeError
v2.functional.to_tensor([1, 2, 3])

# %% transform_jitter: ValueError
v2.ColorJitter(brightness=-1)

# %% transform_probability: ValueError
v2.RandomErasing(p=2)

# %% transform_kernel: ValueError
v2.GaussianBlur(4)

# %% transform_compose: TypeError
v2.Compose(3)

# %% transform_empty_choice: ValueError
v2.RandomChoice([v2.Identity()], p=[0.5, 0.5])

# %% near_lightning_no_training_step: MisconfigurationException
trainer().fit(Bare(), [torch.zeros(1, 2)])

# %% lightning_precision: ValueError
trainer(precision="12-bits")

# %% lightning_flag: TypeError
trainer(gpus=2)

# %% lightning_not_a_module: TypeError
trainer().fit(nn.Linear(2, 1), [torch.zeros(1, 2)])

# %% lightning_no_trainer: RuntimeError
Bare().trainer

# %% lightning_devices: MisconfigurationException
trainer(devices=0)

# %% fsspec_protocol: ValueError
fsspec.open("nowhere://bucket/file").open()

# %% fsspec_missing: FileNotFoundError
fsspec.open("memory://no/such/file").open()

# %% fsspec_mode: NotImplementedError
fsspec.filesystem("memory").sign("/a")

# %% hypothesis_no_example: FailedHealthCheck
@hypothesis.settings(database=None, max_examples=20)
@hypothesis.given(st.integers().filter(lambda _: False))
def check(number):
    pass
check()

# %% hypothesis_falsified: AssertionError
@hypothesis.settings(database=None, derandomize=True, max_examples=20)
@hypothesis.given(st.integers())
def check(number):
    assert number < 10
check()

# %% hypothesis_strategy: InvalidArgument
st.integers(min_value=5, max_value=1).example()

# %% pytest_failed: Failed
pytest.fail("the loss did not fall")

# %% pytest_did_not_raise: Failed
with pytest.raises(ValueError):
    int("3")

# %% pytest_other_text: AssertionError
with pytest.raises(ValueError, match="base 8"):
    int("x")

# %% tqdm_keyword: TqdmKeyError
Bar([1], speed=3)

# %% tqdm_of_a_number: TypeError
for step in Bar(10, disable=True):
    pass

# %% torchdata_of_a_number: TypeError
node = IterableWrapper(5)
node.reset()
next(node)

# %% yaml_like_tokens: KeyError
defaults = {"optimizer": {"name": "adam"}}
defaults["optimizer"]["betas"]["first"]
