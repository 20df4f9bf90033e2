"""Memory that runs out in training: the same step, in smaller pieces, from then on."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import luthier
from luthier.errors import OutOfMemoryError, PeerError
from luthier.report import Console
from luthier.training import Learner, MicroBatch, Precision, Rates, train_epoch
from luthier.values import Position
from ranks import together

NO_MORE = 2**50  # bytes that no machine has
Batches = list[tuple[torch.Tensor, torch.Tensor]]


class Scarce(nn.Module):
    """A small network with batch normalisation and dropout; memory runs out when it is told to.

    Args:
        most: images that can go through.
        after: passes before it is so.
        backward: let it run out in the backward pass.
    """

    def __init__(self, most: int, after: int = 0, *, backward: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.norm = nn.Linear(5, 6), nn.BatchNorm1d(6)
        self.drop, self.last = nn.Dropout(0.3), nn.Linear(6, 3)
        self.most, self.left, self.backward = most, after, backward

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.drop(torch.relu(self.norm(self.first(inputs))))
        runs_out = self.left <= 0 and len(inputs) > self.most
        self.left -= 1
        if runs_out and self.backward:
            found.register_hook(lambda _gradient: torch.empty(NO_MORE))
        elif runs_out:
            torch.empty(NO_MORE)
        return self.last(found)  # type: ignore[no-any-return]


def learner_of(model: nn.Module, accumulate: int = 1, size: int | None = None) -> Learner:
    groups = [{"params": list(model.parameters()), "rate": 1.0}]
    said: list[str] = []
    micro = MicroBatch(model, "cpu", said.append)
    micro.size = size
    learner = Learner(
        model,
        torch.optim.SGD(groups, lr=0.1, momentum=0.9),
        nn.CrossEntropyLoss(),
        Precision("cpu"),
        lambda _step: Rates(1.0),
        lr=0.1,
        accumulate=accumulate,
        micro=micro,
    )
    learner.said = said  # type: ignore[attr-defined]
    return learner


def batches_of(sizes: list[int]) -> Batches:
    generator = torch.Generator().manual_seed(1)
    return [
        (
            torch.randn(size, 5, generator=generator),
            torch.randint(0, 3, (size,), generator=generator),
        )
        for size in sizes
    ]


def state_of(learner: Learner) -> dict[str, torch.Tensor]:
    state = {name: t.clone() for name, t in learner.model.state_dict().items()}
    for number, kept in enumerate(learner.optimizer.state_dict()["state"].values()):
        state[f"momentum {number}"] = kept["momentum_buffer"].clone()
    return state


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(t, other[n]) for n, t in one.items())


@settings(deadline=None, max_examples=60)
@given(
    sizes=st.lists(st.sampled_from([16, 14, 12]), min_size=2, max_size=6),
    accumulate=st.integers(1, 3),
    most=st.integers(4, 9),
    after=st.integers(0, 5),
    backward=st.booleans(),
)
def test_a_step_begun_anew_is_as_if_its_pieces_had_been_so_from_its_start(
    sizes: list[int], accumulate: int, most: int, after: int, backward: bool
) -> None:
    batches = batches_of(sizes)
    learner = learner_of(Scarce(most, after, backward=backward), accumulate)
    steps = list(train_epoch(learner, batches, sizes, Position()))
    assert [step.images for step in steps] == sizes

    plain = learner_of(Scarce(10**6), accumulate)
    first = next((n for n in range(after, len(sizes)) if sizes[n] > most), None)
    if first is None:
        list(train_epoch(plain, batches, sizes, Position()))
        assert learner.micro is not None
        assert learner.micro.size is None
    else:
        start = first - first % accumulate
        list(train_epoch(plain, batches[:start], sizes, Position()))
        assert plain.micro is not None
        assert learner.micro is not None
        plain.micro.size = learner.micro.size
        done = Position(0, start, start // accumulate)
        list(train_epoch(plain, batches[start:], sizes, done))
        assert learner.micro.size is not None
        assert learner.micro.size <= most
    assert same(state_of(learner), state_of(plain))


def test_pieces_make_the_gradient_of_the_whole_batch() -> None:
    sizes = [8, 8, 5]
    whole, cut = (Scarce(10**6) for _ in range(2))
    for model in (whole, cut):
        model.norm.eval()  # whose statistics are the pieces'
        model.drop.eval()  # whose noise is drawn piece by piece
    learners = learner_of(whole), learner_of(cut, size=3)
    losses = []
    for learner in learners:
        steps = list(train_epoch(learner, batches_of(sizes), sizes, Position()))
        losses.append([step.loss for step in steps])
    one, other = map(state_of, learners)
    for name, tensor in one.items():
        torch.testing.assert_close(tensor, other[name], rtol=1e-5, atol=1e-6)
    assert losses[0] == pytest.approx(losses[1])


def test_what_changed_is_said_once_and_stays() -> None:
    learner = learner_of(Scarce(4))
    sizes = [16, 16, 16]
    list(train_epoch(learner, batches_of(sizes), sizes, Position()))
    assert learner.said == [  # type: ignore[attr-defined]
        f"out of memory on cpu in step 1: {after} images at a time instead of {before} from here"
        " on; steps and their batches stay the same"
        for before, after in ((16, 8), (8, 4))
    ]


def test_one_image_that_is_too_many_is_an_error() -> None:
    learner = learner_of(Scarce(0))
    learner.model.eval()  # batch normalisation of one image
    before = copy.deepcopy(learner.model.state_dict())
    with pytest.raises(OutOfMemoryError, match=r"cpu does not hold one image in step 1: .*alloc"):
        list(train_epoch(learner, batches_of([8]), [8], Position()))
    assert same(before, learner.model.state_dict())


def test_without_leave_to_shrink_it_is_the_error_that_it_is() -> None:
    learner = learner_of(Scarce(4))
    learner.micro = None
    with pytest.raises(RuntimeError, match="allocate"):
        list(train_epoch(learner, batches_of([8]), [8], Position()))


def test_other_errors_are_not_met_by_smaller_pieces() -> None:
    learner = learner_of(Scarce(10**6))
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        list(train_epoch(learner, [(torch.ones(4, 2), torch.zeros(4).long())], [4], Position()))
    assert learner.micro is not None
    assert learner.micro.size is None


# --- a whole job --------------------------------------------------------------------------------

JOB: dict[str, Any] = {"image_size": 32, "batch_size": 8, "workers": 0, "weights": "none"}
JOB |= {"model": "trial_models:LearnsByFour", "epochs": 3, "save_every": "1 steps"}


def test_a_run_goes_on_with_what_fits(photos: Path, tmp_path: Path) -> None:
    whole = luthier.finetune(photos, out=tmp_path / "whole", console=Console(quiet=True), **JOB)
    log = (tmp_path / "whole" / "log.txt").read_text(encoding="utf-8")
    assert "in step 1: 4 images at a time instead of 8" in log
    assert "in step 1: 2 images at a time instead of 4" in log
    assert log.count("out of memory") == 2
    assert whole.summary["micro_batch"] == 2
    assert whole.summary["steps"] == 12  # as many as without


def test_one_of_several_that_runs_out_says_so_and_the_others_end(
    photos: Path, tmp_path: Path
) -> None:
    def job(rank: int) -> None:
        with pytest.raises(OutOfMemoryError if rank == 0 else PeerError) as caught:
            luthier.finetune(photos, out=tmp_path / "run", console=Console(quiet=True), **knobs)
        assert rank or "in rank 0 of 2" in str(caught.value)
        assert rank or "--accumulate" in str(caught.value)

    knobs = JOB | {"batch_size": 7, "model": "trial_models:LearnsThree"}  # four, and three
    together(2, job)


LIMITED = """
import json, resource, sys
import luthier
from luthier.run.finetune import finetune
from pathlib import Path
for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
    if line.startswith("VmData:"):
        most = int(line.split()[1]) * 1024 + 600 * 2**20
resource.setrlimit(resource.RLIMIT_DATA, (most, most))
photos, out, job = sys.argv[1:]
print(json.dumps(finetune(photos, out=out, **json.loads(job)).summary))
"""


def test_a_limit_of_the_system_is_met(photos: Path, tmp_path: Path) -> None:
    # In a process of its own: what another test has freed would be room beside the limit.
    hungry = JOB | {"model": "trial_models:Hungry", "image_size": 160, "epochs": 1}
    hungry |= {"precision": "fp32"}
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, photos, tmp_path / "run", json.dumps(hungry)],
        # A heap in pieces has less room than it has memory: large blocks are mapped by themselves.
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parent), "MALLOC_ARENA_MAX": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    assert summary["micro_batch"] in (1, 2, 4)
    assert summary["steps"] == 4
    assert "out of memory on cpu in step 1" in done.stderr
