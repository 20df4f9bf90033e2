from __future__ import annotations

import copy
import warnings
from pathlib import Path

import torch
from torch import nn

from known_errors import Known, Recorded
from luthier.training.team import finite


def batch() -> torch.Tensor:
    return torch.ones(4, 3)


@torch.no_grad()
def validate(model: nn.Module) -> None:
    loss = model(batch()).sum()
    loss.backward()


def decorated(_folder: Path) -> None:
    validate(nn.Linear(3, 2))


def all_frozen(_folder: Path) -> None:
    model = nn.Linear(3, 2).requires_grad_(False)
    loss = model(batch()).sum()
    loss.backward()


def of_a_number(_folder: Path) -> None:
    model = nn.Linear(3, 2)
    output = model(batch())
    loss = torch.tensor(output.sum().item())
    loss.backward()


def under_no_grad(_folder: Path) -> None:
    model = nn.Linear(3, 2)
    with torch.no_grad():
        loss = model(batch()).sum()
    loss.backward()


def without_a_model(_folder: Path) -> None:
    torch.ones(3).sum().backward()


def unreduced(_folder: Path) -> None:
    loss = nn.CrossEntropyLoss(reduction="none")(nn.Linear(3, 2)(batch()), torch.zeros(4).long())
    loss.backward()


def hidden_kept(_folder: Path) -> None:
    cell, hidden = nn.RNNCell(3, 2), torch.zeros(4, 2)
    for _ in range(2):
        hidden = cell(batch(), hidden)
        loss = hidden.sum()
        loss.backward()


def two_losses(_folder: Path) -> None:
    output = nn.Linear(3, 2)(batch()).exp()
    output.sum().backward()
    output.mean().backward()


def slice_of_weights(_folder: Path) -> None:
    nn.Linear(3, 2).weight[0].fill_(1.0)


def own_update(_folder: Path) -> None:
    weight = nn.Parameter(torch.ones(3))
    weight -= 0.1 * torch.ones(3)


def own_initialisation(_folder: Path) -> None:
    model = nn.Linear(3, 2)
    model.weight.fill_(0.5)


def step_between(_folder: Path) -> None:
    model = nn.Sequential(nn.Linear(3, 5), nn.Linear(5, 2))
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    loss = model(batch()).sum()
    loss.backward(retain_graph=True)
    optimizer.step()
    loss.backward()


def step_between_convolutions(_folder: Path) -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Conv2d(2, 1, 3))
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    loss = model(torch.ones(1, 1, 8, 8)).sum()
    loss.backward(retain_graph=True)
    optimizer.step()
    loss.backward()


def relu_in_place(_folder: Path) -> None:
    model = nn.Sequential(nn.Linear(3, 2), nn.Sigmoid(), nn.ReLU(inplace=True))
    model(batch()).sum().backward()


def sum_in_place(_folder: Path) -> None:
    x = torch.ones(3, requires_grad=True)
    y = x.exp()
    y += 1
    y.sum().backward()


def inference_features(_folder: Path) -> None:
    model = nn.Sequential(nn.Linear(3, 2))
    with torch.inference_mode():
        features = batch()
    model(features)


def inference_sum(_folder: Path) -> None:
    with torch.inference_mode():
        total = batch()
    total += 1


def inference_input(_folder: Path) -> None:
    with torch.inference_mode():
        image = batch()
    image.requires_grad_()


def unused_input(_folder: Path) -> None:
    x, y = torch.ones(2, requires_grad=True), torch.ones(2, requires_grad=True)
    torch.autograd.grad(x.sum(), [x, y])


def integer_parameter(_folder: Path) -> None:
    anchors = torch.arange(3)
    nn.Parameter(anchors)


def integer_input(_folder: Path) -> None:
    steps = torch.arange(3)
    steps.requires_grad_()


def copied_output(_folder: Path) -> None:
    model = nn.Linear(3, 2)
    model.features = model(batch())
    copy.deepcopy(model)


def frozen_output(_folder: Path) -> None:
    output = nn.Linear(3, 2)(batch())
    output.requires_grad = False


def root_of_zero(_folder: Path) -> None:
    x = torch.zeros(2, requires_grad=True)
    with warnings.catch_warnings(), torch.autograd.set_detect_anomaly(True):
        warnings.simplefilter("ignore")
        (x.sqrt() * 0).sum().backward()


def nan_loss_clipped(_folder: Path) -> None:
    model = nn.Linear(3, 2)
    loss = model(batch()).sum() * float("nan")
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0, error_if_nonfinite=True)


def nan_weights_clipped(_folder: Path) -> None:
    model = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 2))
    with torch.no_grad():
        model[1].bias.fill_(float("nan"))
    model(batch()).square().sum().backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0, error_if_nonfinite=True)


def diverged(_folder: Path) -> None:
    finite(float("nan"), 41)


def nan_policy(_folder: Path) -> None:
    logits = torch.tensor([float("nan"), 1.0])
    torch.distributions.Categorical(logits=logits)


def nan_normal(_folder: Path) -> None:
    torch.distributions.Normal(torch.tensor([float("nan")]), torch.ones(1))


def nan_draw(_folder: Path) -> None:
    probs = torch.tensor([float("nan"), 1.0])
    torch.multinomial(probs, 1)


KNOWN: Known = {
    "backward-under-no-grad": [decorated],
    "nothing-requires-grad": [all_frozen, of_a_number, under_no_grad, without_a_model],
    "loss-not-scalar": [unreduced],
    "second-backward": [hidden_kept, two_losses],
    "view-of-parameter-in-place": [slice_of_weights],
    "parameter-in-place": [own_update, own_initialisation],
    "weights-changed-before-backward": [step_between],
    "tensor-changed-in-place": [step_between_convolutions, relu_in_place, sum_in_place],
    "inference-tensor": [inference_features, inference_sum, inference_input],
    "input-not-in-graph": [unused_input],
    "integers-requiring-grad": [integer_parameter, integer_input],
    "deepcopy-of-result": [copied_output],
    "requires-grad-of-result": [frozen_output],
    "nan-in-backward": [root_of_zero],
    "gradients-not-finite": [nan_loss_clipped, nan_weights_clipped],
    "loss-diverged": [diverged],
    "distribution-of-nan": [nan_policy, nan_normal],
    "probabilities-not-valid": [nan_draw],
}
RECORDED: Recorded = {}
