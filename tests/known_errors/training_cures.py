"""What the cures say, done: entry → a function of an empty folder that raises nothing."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import lr_scheduler
from torch.utils.checkpoint import checkpoint

import luthier
from known_errors import training as known
from known_errors.training_modules import OfTwo
from known_errors.training_processes import TwoHeads, job


def with_grad(_folder: Path) -> None:
    with torch.no_grad(), torch.enable_grad():
        nn.Linear(3, 2)(known.batch()).sum().backward()


def one_backward(_folder: Path) -> None:
    output = nn.Linear(3, 2)(known.batch()).exp()
    (output.sum() + output.mean()).backward()


def slice_without_grad(_folder: Path) -> None:
    with torch.no_grad():
        nn.Linear(3, 2).weight[0].fill_(1.0)


def backward_before_step(_folder: Path) -> None:
    model = nn.Sequential(nn.Linear(3, 5), nn.Linear(5, 2))
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    loss = model(known.batch()).sum()
    loss.backward(retain_graph=True)
    loss.backward()
    optimizer.step()


def out_of_place(_folder: Path) -> None:
    x = torch.ones(3, requires_grad=True)
    y = x.exp()
    y = y + 1
    y.sum().backward()
    nn.Sequential(nn.Linear(3, 2), nn.Sigmoid(), nn.ReLU())(known.batch()).sum().backward()


def no_grad_for_inference(_folder: Path) -> None:
    with torch.no_grad():
        features = known.batch()
    nn.Linear(3, 2)(features).sum().backward()
    with torch.inference_mode():
        features = known.batch()
    nn.Linear(3, 2)(features.clone()).sum().backward()


def detached_attribute(_folder: Path) -> None:
    model = nn.Linear(3, 2)
    model.features = model(known.batch()).detach()
    copy.deepcopy(model)


def away_from_zero(_folder: Path) -> None:
    x = torch.zeros(2, requires_grad=True)
    with warnings.catch_warnings(), torch.autograd.set_detect_anomaly(True):
        warnings.simplefilter("ignore")
        (torch.sqrt(x.clamp_min(1e-8)) * 0).sum().backward()


def softmax_in_float32(_folder: Path) -> None:
    logits = torch.tensor([-float("inf"), 1.0]).half()
    torch.multinomial(torch.softmax(logits.float(), dim=-1), 1)


def list_of_parameters(_folder: Path) -> None:
    model = nn.Linear(3, 2)
    parameters = [p for p in model.parameters() if p.requires_grad]
    sum(p.numel() for p in parameters)
    torch.optim.SGD(parameters, 0.1)


def loaded_then_added(_folder: Path) -> None:
    model = nn.ModuleDict({"body": nn.Linear(3, 2), "fc": nn.Linear(2, 2)})
    state = torch.optim.Adam(model["body"].parameters()).state_dict()
    optimizer = torch.optim.Adam(model["body"].parameters())
    optimizer.load_state_dict(state)
    optimizer.add_param_group({"params": model["fc"].parameters()})


def head_in_a_group(_folder: Path) -> None:
    model = nn.ModuleDict({"body": nn.Linear(3, 2), "fc": nn.Linear(2, 2)})
    head = {id(p) for p in model["fc"].parameters()}
    rest = [p for p in model.parameters() if id(p) not in head]
    torch.optim.AdamW([{"params": rest}, {"params": model["fc"].parameters(), "lr": 1e-3}])


def leaf_in_a_list(_folder: Path) -> None:
    weight = torch.ones(2).double().detach().requires_grad_()
    torch.optim.SGD([weight], 0.1)


def parameters_of_several(_folder: Path) -> None:
    a, b = nn.Linear(3, 2), nn.Linear(3, 2)
    torch.optim.SGD([*a.parameters(), *b.parameters()], 0.1)


def rate_as_a_number(_folder: Path) -> None:
    torch.optim.Adam(nn.Linear(3, 2).parameters(), lr=float("1e-3"))


def with_closure(_folder: Path) -> None:
    model = nn.Linear(3, 2)
    optimizer = torch.optim.LBFGS(model.parameters())

    def closure() -> float:
        optimizer.zero_grad()
        loss = model(known.batch()).square().sum()
        loss.backward()
        return loss.item()

    optimizer.step(closure)


def steps_in_order(_folder: Path) -> None:
    optimizer = known.sgd()
    scheduler = lr_scheduler.StepLR(optimizer, 1)
    optimizer.step()
    scheduler.step()
    assert scheduler.get_last_lr()[0] == optimizer.param_groups[0]["lr"]


def schedule_restored(_folder: Path) -> None:
    optimizer = known.sgd()
    state = lr_scheduler.CosineAnnealingLR(optimizer, 9).state_dict()
    scheduler = lr_scheduler.CosineAnnealingLR(known.sgd(), 9)
    scheduler.load_state_dict(state)


def steps_of_all_epochs(_folder: Path) -> None:
    optimizer, epochs, loader = known.sgd(), 2, range(3)
    schedule = lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=epochs * len(loader))
    for _ in range(epochs * len(loader)):
        optimizer.step()
        schedule.step()


def told_the_metric(_folder: Path) -> None:
    lr_scheduler.ReduceLROnPlateau(known.sgd()).step(0.5)


def scaled_in_order(_folder: Path) -> None:
    at = known.Scaled(nn.Linear(3, 2))
    for _ in range(2):
        at.backward()
        at.scaler.unscale_(at.optimizer)
        nn.utils.clip_grad_norm_(at.model.parameters(), 1.0)
        at.scaler.step(at.optimizer)
        at.scaler.update()


def float_under_scaler(_folder: Path) -> None:
    model = nn.Linear(3, 2).half()
    model.float()
    at = known.Scaled(model)
    with torch.autocast("cpu", dtype=torch.float16):
        at.backward()
    at.scaler.step(at.optimizer)


def float_under_autocast(_folder: Path) -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.cat([torch.ones(2).half().float(), torch.ones(2)])


def logits_under_autocast(_folder: Path) -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        nn.BCEWithLogitsLoss()(nn.Linear(3, 1)(known.batch()), torch.zeros(4, 1))


def new_spelling(_folder: Path) -> None:
    torch.amp.autocast("cpu")
    torch.amp.GradScaler("cuda", enabled=False)


def super_first(_folder: Path) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(512, 10)

    Net()


def whole_call(_folder: Path) -> None:
    model = OfTwo()
    model.con1 = model.conv1
    model(torch.zeros(2, 3, 8, 8), torch.ones(1))


def model_of_wrapped(_folder: Path) -> None:
    assert nn.DataParallel(nn.Linear(3, 2)).module.in_features == 3


def weights_into_a_model(folder: Path) -> None:
    torch.save(nn.Linear(3, 2).state_dict(), folder / "checkpoint.pt")
    network = nn.Linear(3, 2)
    luthier.load(network, folder / "checkpoint.pt")
    network.eval()


def head_frozen(folder: Path) -> None:
    with job(folder):
        model = TwoHeads()
        model.get_submodule("unused").requires_grad_(False)
        for options in ({}, {"find_unused_parameters": True}):
            ddp = DistributedDataParallel(model if not options else TwoHeads(), **options)
            for _ in range(2):
                ddp(torch.ones(1, 3)).sum().backward()


class TwiceWithoutReentry(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(3, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for _ in range(2):
            x = checkpoint(self.body, x, use_reentrant=False)
        return x


def without_reentry(folder: Path) -> None:
    with job(folder):
        DistributedDataParallel(TwiceWithoutReentry())(torch.ones(1, 3)).sum().backward()


def asked_before(folder: Path) -> None:
    with job(folder):
        if not dist.is_initialized():
            dist.init_process_group("gloo")
        assert dist.get_rank() == 0
        DistributedDataParallel(nn.Linear(3, 2))


CURED: Mapping[str, Callable[[Path], object]] = {
    "backward-under-no-grad": with_grad,
    "second-backward": one_backward,
    "view-of-parameter-in-place": slice_without_grad,
    "weights-changed-before-backward": backward_before_step,
    "tensor-changed-in-place": out_of_place,
    "inference-tensor": no_grad_for_inference,
    "deepcopy-of-result": detached_attribute,
    "nan-in-backward": away_from_zero,
    "probabilities-not-valid": softmax_in_float32,
    "optimizer-without-parameters": list_of_parameters,
    "optimizer-group-of-another-size": loaded_then_added,
    "parameter-in-two-groups": head_in_a_group,
    "optimizer-of-results": leaf_in_a_list,
    "optimizer-of-one-tensor": leaf_in_a_list,
    "optimizer-of-modules": parameters_of_several,
    "hyperparameter-as-text": rate_as_a_number,
    "closure-missing": with_closure,
    "schedule-before-optimizer": steps_in_order,
    "schedule-rate-asked-wrongly": steps_in_order,
    "schedule-without-initial-rate": schedule_restored,
    "schedule-at-its-end": steps_of_all_epochs,
    "metric-missing": told_the_metric,
    "schedule-argument-removed": steps_in_order,
    "unscale-twice": scaled_in_order,
    "no-gradients-to-check": scaled_in_order,
    "loss-not-scaled": scaled_in_order,
    "half-gradients-unscaled": float_under_scaler,
    "autocast-of-mixed-dtypes": float_under_autocast,
    "bce-under-autocast": logits_under_autocast,
    "autocast-spelling": new_spelling,
    "module-before-init": super_first,
    "forward-arguments": whole_call,
    "wrapped-model-attribute": model_of_wrapped,
    "weights-instead-of-model": weights_into_a_model,
    "ddp-unused-parameters": head_frozen,
    "ddp-ready-twice": without_reentry,
    "process-group-missing": asked_before,
    "process-group-twice": asked_before,
}
