from __future__ import annotations

import copy
import functools
import warnings
from pathlib import Path

import torch
from torch import nn
from torch.optim import lr_scheduler

from known_errors import Known, Raises, Recorded, training_modules, training_processes
from luthier.training import first_nonfinite
from luthier.training.loop import check_finite
from luthier.training.team import finite


def batch() -> torch.Tensor:
    return torch.ones(4, 3)


@torch.no_grad()
def validate(model: nn.Module) -> None:
    loss = model(batch()).sum()
    loss.backward()


def warned(raises: Raises) -> Raises:
    """Have warnings raised, as ``python -W error`` does."""

    @functools.wraps(raises)
    def strict(folder: Path) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            raises(folder)

    return strict


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


def state_kept(_folder: Path) -> None:
    lstm, state = nn.LSTM(3, 2), None
    for _ in range(2):
        output, state = lstm(batch(), state)
        loss = output.sum()
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


def diverged_in_a_layer(_folder: Path) -> None:
    model = nn.Sequential(nn.Linear(3, 2), nn.Softplus(beta=float("nan")))
    finite(float("nan"), 41, lambda: first_nonfinite(model, batch()))


def diverged_by_inputs(_folder: Path) -> None:
    finite(float("inf"), 0, lambda: first_nonfinite(nn.Linear(3, 2), batch() / 0))


def weights_diverged(_folder: Path) -> None:
    check_finite({"head.weight": batch() / 0})


def nan_policy(_folder: Path) -> None:
    logits = torch.tensor([float("nan"), 1.0])
    torch.distributions.Categorical(logits=logits, validate_args=True)


def nan_normal(_folder: Path) -> None:
    logits = torch.tensor([float("nan"), 1.0])
    torch.distributions.Normal(logits, torch.ones(2), validate_args=True)


def nan_draw(_folder: Path) -> None:
    probs = torch.tensor([float("nan"), 1.0])
    torch.multinomial(probs, 1)


def optimizer_of_frozen(_folder: Path) -> None:
    model = nn.Linear(3, 2).requires_grad_(False)
    torch.optim.SGD([p for p in model.parameters() if p.requires_grad], 0.1)


def optimizer_of_read_generator(_folder: Path) -> None:
    model = nn.Linear(3, 2)
    parameters = model.parameters()
    sum(p.numel() for p in parameters)
    torch.optim.SGD(parameters, 0.1)


def trained(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    model(batch()).sum().backward()
    optimizer.step()


def head_added(_folder: Path) -> None:
    old, model = nn.Linear(3, 2), nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 2))
    state = torch.optim.Adam(old.parameters()).state_dict()
    optimizer = torch.optim.Adam(model.parameters())
    optimizer.load_state_dict(state)


def groups_added(_folder: Path) -> None:
    model = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 2))
    state = torch.optim.Adam(model.parameters()).state_dict()
    optimizer = torch.optim.Adam([{"params": layer.parameters()} for layer in model])
    optimizer.load_state_dict(state)


def head_twice(_folder: Path) -> None:
    model = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 2))
    groups = [{"params": model.parameters()}, {"params": model[1].parameters(), "lr": 0.1}]
    torch.optim.Adam(groups)


def moved_weight(_folder: Path) -> None:
    weight = torch.ones(2, requires_grad=True).double()
    torch.optim.SGD([weight], 0.1)


def bare_weight(_folder: Path) -> None:
    weight = torch.ones(2, requires_grad=True)
    torch.optim.SGD(weight, 0.1)


def module_in_a_list(_folder: Path) -> None:
    torch.optim.SGD([nn.Linear(3, 2)], 0.1)  # type: ignore[list-item]


def bare_module(_folder: Path) -> None:
    torch.optim.SGD(nn.Linear(3, 2), 0.1)  # type: ignore[arg-type]


def brackets_forgotten(_folder: Path) -> None:
    torch.optim.SGD(nn.Linear(3, 2).parameters, 0.1)  # type: ignore[arg-type]


def another_head(kind: type[torch.optim.Optimizer], **options: object) -> None:
    old, model = nn.Linear(3, 10), nn.Linear(3, 2)
    before = kind(old.parameters(), **options)
    trained(old, before)
    optimizer = kind(model.parameters(), **options)
    optimizer.load_state_dict(before.state_dict())
    trained(model, optimizer)


def another_head_of_adam(_folder: Path) -> None:
    another_head(torch.optim.Adam)


def another_head_of_sgd(_folder: Path) -> None:
    another_head(torch.optim.SGD, lr=0.1, momentum=0.9, foreach=True)


def state_of(
    before: type[torch.optim.Optimizer], now: type[torch.optim.Optimizer], **options: object
) -> None:
    model = nn.Linear(3, 2)
    old = before(model.parameters(), **options)
    trained(model, old)
    optimizer = now(model.parameters())
    optimizer.load_state_dict(old.state_dict())
    optimizer.step()


def state_of_sgd(_folder: Path) -> None:
    state_of(torch.optim.SGD, torch.optim.Adam)


def state_of_momentum(_folder: Path) -> None:
    state_of(torch.optim.SGD, torch.optim.AdamW, lr=0.1, momentum=0.9)


def state_of_adam(_folder: Path) -> None:
    state_of(torch.optim.Adam, torch.optim.SGD)


def state_of_adam_for_rmsprop(_folder: Path) -> None:
    state_of(torch.optim.Adam, torch.optim.RMSprop)


def negative_rate(_folder: Path) -> None:
    torch.optim.SGD(nn.Linear(3, 2).parameters(), lr=-0.1)


def beta_of_one(_folder: Path) -> None:
    torch.optim.Adam(nn.Linear(3, 2).parameters(), betas=(0.9, 1.0))


def rate_of_yaml(_folder: Path) -> None:
    torch.optim.Adam(nn.Linear(3, 2).parameters(), lr="1e-3")  # type: ignore[arg-type]


def without_closure(_folder: Path) -> None:
    optimizer = torch.optim.LBFGS(nn.Linear(3, 2).parameters())
    optimizer.step()  # type: ignore[call-arg]


def sgd() -> torch.optim.SGD:
    return torch.optim.SGD(nn.Linear(3, 2).parameters(), 0.1)


@warned
def turned_round(_folder: Path) -> None:
    optimizer = sgd()
    scheduler = lr_scheduler.StepLR(optimizer, 1)
    scheduler.step()


@warned
def rate_asked(_folder: Path) -> None:
    lr_scheduler.StepLR(sgd(), 1).get_lr()


def last_epoch_of_fresh(_folder: Path) -> None:
    optimizer = sgd()
    lr_scheduler.CosineAnnealingLR(optimizer, 9, last_epoch=3)


def one_step_more(_folder: Path) -> None:
    optimizer = sgd()
    scheduler = lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=3)
    for _ in range(4):
        optimizer.step()
        scheduler.step()


def without_metric(_folder: Path) -> None:
    scheduler = lr_scheduler.ReduceLROnPlateau(sgd())
    scheduler.step()  # type: ignore[call-arg]


def schedule_of_steps(_folder: Path) -> None:
    optimizer = sgd()
    state = lr_scheduler.StepLR(optimizer, 1).state_dict()
    scheduler = lr_scheduler.LambdaLR(optimizer, lambda _: 1.0)
    scheduler.load_state_dict(state)


def schedule_of_one(_folder: Path) -> None:
    optimizer = sgd()
    state = lr_scheduler.StepLR(optimizer, 1).state_dict()
    parts = [lr_scheduler.StepLR(optimizer, 1), lr_scheduler.StepLR(optimizer, 2)]
    scheduler = lr_scheduler.SequentialLR(optimizer, parts, [1])
    scheduler.load_state_dict(state)


def verbose_schedule(_folder: Path) -> None:
    lr_scheduler.StepLR(sgd(), 1, verbose=True)  # type: ignore[call-arg]


def schedule_of_a_model(_folder: Path) -> None:
    lr_scheduler.StepLR(nn.Linear(3, 2), 1)  # type: ignore[arg-type]


def plateau_of_a_list(_folder: Path) -> None:
    lr_scheduler.ReduceLROnPlateau([sgd()])  # type: ignore[arg-type]


class Scaled:
    def __init__(self, model: nn.Module) -> None:
        self.model, self.optimizer = model, torch.optim.SGD(model.parameters(), 0.1)
        self.scaler = torch.amp.GradScaler("cpu")

    def backward(self, dtype: torch.dtype = torch.float32) -> None:
        self.scaler.scale(self.model(batch().to(dtype)).float().sum()).backward()


def unscaled_twice(_folder: Path) -> None:
    at = Scaled(nn.Linear(3, 2))
    at.backward()
    at.scaler.unscale_(at.optimizer)
    at.scaler.unscale_(at.optimizer)


def unscaled_after_step(_folder: Path) -> None:
    at = Scaled(nn.Linear(3, 2))
    at.backward()
    at.scaler.step(at.optimizer)
    at.scaler.unscale_(at.optimizer)


def stepped_twice(_folder: Path) -> None:
    at = Scaled(nn.Linear(3, 2))
    at.backward()
    at.scaler.step(at.optimizer)
    at.scaler.step(at.optimizer)


def half_model(_folder: Path) -> None:
    model = nn.Linear(3, 2).half()
    at = Scaled(model)
    at.backward(torch.float16)
    at.scaler.step(at.optimizer)


def gradients_cleared(_folder: Path) -> None:
    at = Scaled(nn.Linear(3, 2))
    at.backward()
    at.optimizer.zero_grad()
    at.scaler.step(at.optimizer)


def update_without_step(_folder: Path) -> None:
    at = Scaled(nn.Linear(3, 2))
    at.backward()
    at.scaler.update()


def unscaled_loss(_folder: Path) -> None:
    at = Scaled(nn.Linear(3, 2))
    at.model(batch()).sum().backward()
    at.scaler.step(at.optimizer)


def mixed_under_autocast(_folder: Path) -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.cat([torch.ones(2).half(), torch.ones(2)])


@warned
def double_under_autocast(_folder: Path) -> None:
    with torch.autocast("cpu", dtype=torch.float64):
        pass


@warned
def old_autocast(_folder: Path) -> None:
    torch.cuda.amp.autocast()


@warned
def old_scaler(_folder: Path) -> None:
    torch.cuda.amp.GradScaler(enabled=False)


KNOWN: Known = {
    "backward-under-no-grad": [decorated],
    "nothing-requires-grad": [all_frozen, of_a_number, under_no_grad, without_a_model],
    "loss-not-scalar": [unreduced],
    "second-backward": [hidden_kept, state_kept, two_losses],
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
    "loss-diverged": [diverged, diverged_in_a_layer, diverged_by_inputs, weights_diverged],
    "distribution-of-nan": [nan_policy, nan_normal],
    "probabilities-not-valid": [nan_draw],
    "optimizer-without-parameters": [optimizer_of_frozen, optimizer_of_read_generator],
    "optimizer-group-of-another-size": [head_added],
    "optimizer-groups-of-another-number": [groups_added],
    "parameter-in-two-groups": [head_twice],
    "optimizer-of-results": [moved_weight],
    "optimizer-of-one-tensor": [bare_weight],
    "optimizer-of-modules": [module_in_a_list, bare_module, brackets_forgotten],
    "optimizer-state-of-another-shape": [another_head_of_adam, another_head_of_sgd],
    "optimizer-state-of-another-kind": [
        state_of_sgd,
        state_of_momentum,
        state_of_adam,
        state_of_adam_for_rmsprop,
    ],
    "invalid-hyperparameter": [negative_rate, beta_of_one],
    "hyperparameter-as-text": [rate_of_yaml],
    "closure-missing": [without_closure],
    "schedule-before-optimizer": [turned_round],
    "schedule-rate-asked-wrongly": [rate_asked],
    "schedule-without-initial-rate": [last_epoch_of_fresh],
    "schedule-at-its-end": [one_step_more],
    "metric-missing": [without_metric],
    "schedule-of-another-kind": [schedule_of_steps, schedule_of_one],
    "schedule-argument-removed": [verbose_schedule],
    "schedule-without-optimizer": [schedule_of_a_model, plateau_of_a_list],
    "unscale-twice": [unscaled_twice, unscaled_after_step, stepped_twice],
    "half-gradients-unscaled": [half_model],
    "no-gradients-to-check": [gradients_cleared, update_without_step],
    "loss-not-scaled": [unscaled_loss],
    "autocast-of-mixed-dtypes": [mixed_under_autocast],
    "autocast-dtype-unsupported": [double_under_autocast],
    "autocast-spelling": [old_autocast, old_scaler],
    **training_modules.KNOWN,
    **training_processes.KNOWN,
}
RECORDED: Recorded = {
    "bce-under-autocast": ["bce_under_autocast"],
    "bfloat16-unsupported": ["bfloat16_2_4"],
    "unscale-twice": ["unscale_twice"],
    "half-gradients-unscaled": ["unscale_half"],
    "tensor-changed-in-place": ["in_place_2_4"],
    "weights-changed-before-backward": ["weights_in_place_2_4"],
    "input-not-in-graph": ["unused_input_2_4"],
    "schedule-without-initial-rate": ["initial_rate_2_4"],
    "schedule-argument-removed": ["schedule_verbose_3_9"],
    **training_modules.RECORDED,
    **training_processes.RECORDED,
}
