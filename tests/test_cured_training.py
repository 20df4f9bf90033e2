"""Errors of training: what is said is right, its code cures, what looks alike is let be."""

from __future__ import annotations

import subprocess
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import torch
from torch import nn

import luthier
from known_errors import Raises, training, training_modules, training_processes
from known_errors.training_cures import CURED
from luthier.explanations import Explanation


def raised_by(raises: Raises, folder: Path) -> BaseException:
    with pytest.raises(BaseException) as caught:  # noqa: PT011 - the catalogue says which
        raises(folder)
    return caught.value


def explained(raises: Raises, folder: Path) -> tuple[Explanation, dict[str, Any]]:
    """Return what is said of a live error, and the names of the user's call."""
    error = raised_by(raises, folder)
    found = luthier.explain(error, lang="en")
    assert found is not None
    frames: list[FrameType] = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    own = [f for f in frames if "known_errors" in f.f_code.co_filename]
    return found, {"torch": torch, "nn": nn, **own[-1].f_globals, **own[-1].f_locals}


@pytest.mark.parametrize("name", CURED)
def test_the_cure_cures(name: str, tmp_path: Path) -> None:
    assert name in training.KNOWN or name in training.RECORDED
    CURED[name](tmp_path)


def trains(names: dict[str, Any]) -> None:
    names["model"](torch.ones(4, 3)).sum().backward()


def steps(names: dict[str, Any]) -> None:
    names["optimizer"].step()


@pytest.mark.parametrize(
    ("raises", "then"),
    [
        (training.all_frozen, trains),
        (training.unreduced, lambda _: None),
        (training.hidden_kept, lambda n: n["cell"](training.batch(), n["hidden"]).sum().backward()),
        (
            training.state_kept,
            lambda n: n["lstm"](training.batch(), n["state"])[0].sum().backward(),
        ),
        (training.own_initialisation, trains),
        (training.unused_input, lambda n: n["gradients"][1] is None),
        (training.integer_parameter, lambda n: n["weight"].sum().backward()),
        (training.integer_input, lambda n: n["weight"].sum().backward()),
        (training.frozen_output, lambda n: n["fixed"].requires_grad is False),
        (training.nan_draw, lambda _: None),
        (training.nan_loss_clipped, lambda _: None),
        (training.groups_added, lambda _: None),
        (training.another_head_of_adam, steps),
        (training.another_head_of_sgd, steps),
        (training.state_of_sgd, lambda _: None),
        (training.without_closure, lambda _: None),
        (training_modules.misspelt_forward, lambda n: n["Misspelt"]()(1)),
        (training_modules.head_of_another, lambda n: n["model"](torch.zeros(2, 3, 32, 32))),
        (training_modules.gradient_before_backward, lambda _: None),
        (training_modules.gradient_of_a_result, lambda _: None),
        (training_modules.auxiliary, lambda n: n["logits"].sum().backward()),
        (training_modules.output_of_segmentation, lambda n: n["result"].sum().backward()),
        (training_modules.weights_evaluated, lambda n: n["network"].eval()),
        (training_modules.attribute_of_wrapped, lambda _: None),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_the_code_runs_with_the_users_names(
    raises: Raises,
    then: Callable[[dict[str, Any]], object],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    found, names = explained(raises, tmp_path)
    torch.save(nn.Linear(3, 2).state_dict(), "checkpoint.pt")
    around = {
        "luthier": luthier,
        "build_model": lambda: nn.Linear(3, 2),
        "logits": torch.ones(2),
        "criterion": lambda output, _: output.square().sum(),
        "model": nn.Linear(3, 2),
        "inputs": training.batch(),
        "targets": None,
    }
    if raises is training_modules.attribute_of_wrapped:
        around["model"] = names["wrapped"]
    names = around | names
    assert found.code
    exec(found.code, names)  # noqa: S102 - what the explanation says to write
    assert then(names) is not False


@pytest.mark.parametrize(
    ("raises", "words"),
    [
        (training.decorated, ["validate is decorated", "loss was computed"]),
        (training.all_frozen, ["all 2 parameters of model (Linear) are frozen"]),
        (training.of_a_number, ["loss was cut from the graph: output still has a graph"]),
        (training.under_no_grad, ["2 of 2 parameters of Linear require gradients: the forward"]),
        (training.unreduced, ["loss has shape [4]"]),
        (training.state_kept, ["state still has the graph", "shape [1, 2]"]),
        (training.hidden_kept, ["hidden still has the graph", "shape [4, 2]"]),
        (training.step_between, ["1.weight of Sequential, shape [5, 2]", "is at version 2"]),
        (training.step_between_convolutions, ["1.weight of Sequential", "[1, 2, 3, 3]"]),
        (training.relu_in_place, ["the result of Sigmoid, shape [4, 2]", "ReLU 2"]),
        (training.sum_in_place, ["the result of Exp, shape [3]"]),
        (training.inference_features, ["goes into the module 0 (Linear)"]),
        (training.unused_input, ["number 1 (from 0) of the tensors in [x, y]"]),
        (training.integer_parameter, ["anchors has dtype int64"]),
        (training.frozen_output, ["output is the result"]),
        (training.root_of_zero, ["an input of torch.sqrt"]),
        (training.nan_weights_clipped, ["1.bias of Sequential is no longer finite"]),
        (training.nan_loss_clipped, ["loss is not finite"]),
        (training.diverged, ["the loss of batch 42 is nan"]),
        (training.diverged_in_a_layer, ["1 (Softplus) is the first layer whose output"]),
        (training.diverged_by_inputs, ["the inputs of that batch", "look at the pictures"]),
        (training.weights_diverged, ["a step has made head.weight infinite"]),
        (training.nan_normal, ["loc of Normal, shape (2,), has nan"]),
        (training.optimizer_of_frozen, ["all 2 parameters of model (Linear) are frozen"]),
        (training.optimizer_of_read_generator, ["though 2 of model (Linear) require gradients"]),
        (training.head_added, ["optimizer (Adam) holds 4 tensors", "groups 1, tensors 4"]),
        (training.groups_added, ["optimizer (Adam) has 2 parameter groups"]),
        (training.another_head_of_adam, ["10 where the parameter has 2", "_single_tensor_adam"]),
        (training.state_of_sgd, ['optimizer (Adam) finds no "betas"']),
        (training.negative_rate, ["learning rate is -0.1, which torch/optim/sgd.py"]),
        (training.one_step_more, ["made for 3 steps in all, and this is step 4"]),
        (training.schedule_of_steps, ['scheduler (LambdaLR) loads has no "lr_lambdas"']),
        (training.half_model, ["2 parameters of model (Linear) are float16, the first weight"]),
        (training_modules.call_before_init, ["__init__ of WithoutSuperOrLayers"]),
        (training_modules.called_list, ["only keeps layers", "for layer in layers"]),
        (training_modules.misspelt_forward, ["Misspelt has no method forward"]),
        (
            training_modules.two_through_sequential,
            ["OfTwo, the module 1, needs 'mask'", "Sequential gives"],
        ),
        (training_modules.one_argument_long, ["Linear takes 1 beside self and was given 2"]),
        (training_modules.head_of_another, ["classifier.1 (Linear, 1280 → 1000), not fc"]),
        (training_modules.misspelt_layer, ["no layer con1; the nearest name is conv1"]),
        (training_modules.gradient_before_backward, ["no backward has reached weight"]),
        (training_modules.gradient_of_a_result, ["features is the result of a computation"]),
        (training_modules.nothing_returned, ["None was given to linear in 1 (Linear)"]),
        (training_modules.auxiliary, ["aux_logits1, aux_logits2", "outputs.logits"]),
        (training_modules.output_of_segmentation, ['result["out"]']),
        (training_processes.unused_head, ["unused.weight, unused.bias", "has 6", '"unused"']),
        (training_processes.checkpointed_twice, ["body.bias got its gradient twice"]),
        (training_processes.heads_differ, ["weight (number 0)", "[2, 3]"]),
        (training_processes.batch_norm_on_cpu, ["the module 1 is a SyncBatchNorm"]),
        (training_processes.rank_asked, ["LOCAL_RANK is read from the environment"]),
        (training_processes.failed_script, ["rank 0 of", "with status 3"]),
        (training_processes.killed_script, ["was killed (SIGKILL)"]),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_what_is_said_names_what_is_wrong(
    raises: Raises, words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    found, _ = explained(raises, tmp_path)
    told = " ".join(str(found).split())  # lines are broken where a terminal ends
    assert [word for word in words if word not in told] == [], told


def traced(*frames: tuple[str, str, str], error: str) -> str:
    """Return a traceback: of each call its file, its function and its line."""
    lines = ["Traceback (most recent call last):"]
    for path, function, source in frames:
        lines += [f'  File "{path}", line 7, in {function}', f"    {source}"]
    return "\n".join([*lines, error, ""])


MINE = "/home/user/train.py"
INSTALLED = "/usr/lib/python3.12/site-packages"


@pytest.mark.parametrize(
    "text",
    [
        traced((MINE, "fit", "raise RuntimeError(message)"), error=message)
        for message in (
            "RuntimeError: Trying to backward through the graph a second time",
            "RuntimeError: grad can be implicitly created only for scalar outputs",
            "ValueError: optimizer got an empty parameter list",
            "ValueError: Attempting to unscale FP16 gradients.",
            "RuntimeError: unscale_() has already been called on this optimizer since the last "
            "update().",
            "RuntimeError: Duplicate GPU detected : rank 1 and rank 0 both on CUDA device 60",
            "ValueError: Default process group has not been initialized, please make sure to call "
            "init_process_group.",
            "TypeError: Model is not an Optimizer",
            "ValueError: Invalid learning rate: -1",
        )
    ]
    + [
        traced((MINE, "configure", 'return config["betas"]'), error="KeyError: 'betas'"),
        traced((MINE, "log", 'print(history["step"])'), error="KeyError: 'step'"),
        "KeyError: 'betas'\n",
        traced((MINE, "main", 'rank = options["LOCAL_RANK"]'), error="KeyError: 'LOCAL_RANK'"),
        "TypeError: '<=' not supported between instances of 'float' and 'str'\n",
        traced(
            (MINE, "fit", "batch = batch.to(device)"),
            error="AttributeError: 'dict' object has no attribute 'to'",
        ),
        traced(
            (MINE, "fit", "if config.train:"),
            error="AttributeError: 'dict' object has no attribute 'train'",
        ),
        traced(
            (MINE, "read", "height, width = image.shape[:2]"),
            error="AttributeError: 'NoneType' object has no attribute 'shape'",
        ),
        traced(
            (MINE, "main", "graph.backward()"),
            error="AttributeError: 'NoneType' object has no attribute 'backward'",
        ),
        traced(
            (MINE, "main", "args.fc"),
            error="AttributeError: 'Namespace' object has no attribute 'fc'",
        ),
        traced(
            (MINE, "forward", "x = x + position"),
            error="RuntimeError: The size of tensor a (10) must match the size of tensor b (2) at "
            "non-singleton dimension 0",
        ),
        traced(
            (MINE, "main", "player.forward()"),
            error="TypeError: Player.forward() missing 1 required positional argument: 'metres'",
        ),
        traced(
            (MINE, "main", "machine.step()"),
            error="TypeError: Machine.step() missing 1 required positional argument: 'metrics'",
        ),
        traced(
            (f"{INSTALLED}/keras/optimizers.py", "__init__", "raise ValueError(message)"),
            error="ValueError: optimizer got an empty parameter list",
        ),
        traced(
            (f"{INSTALLED}/rich/progress.py", "__init__", "super().__init__(**options)"),
            error="TypeError: Progress.__init__() got an unexpected keyword argument 'verbose'",
        ),
        traced(
            (f"{INSTALLED}/uvicorn/server.py", "startup", "sock.bind(address)"),
            error="OSError: [Errno 98] Address already in use",
        ),
        traced(
            (f"{INSTALLED}/redis/connection.py", "read", "raise ConnectionError(text)"),
            error="redis.exceptions.ConnectionError: Connection closed by peer",
        ),
        traced(
            (MINE, "main", "for layer in network:"), error="TypeError: 'Net' object is not iterable"
        ),
    ],
)
def test_what_only_looks_alike_is_not_explained(text: str) -> None:
    assert luthier.explain(text, lang="en") is None


def test_a_ranks_own_error_counts_and_not_torchruns_report(tmp_path: Path) -> None:
    script = tmp_path / "train.py"
    script.write_text("import torch\ntorch.ones(3, requires_grad=True).exp().backward()\n", "utf-8")
    command = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=1", str(script)]
    done = subprocess.run(
        [sys.executable, *command], capture_output=True, text=True, timeout=120, check=False
    )
    found = luthier.explain(done.stderr, lang="en")
    assert found is not None, done.stderr
    assert "ChildFailedError" in done.stderr
    assert found.name == "loss-not-scalar"
