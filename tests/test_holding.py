"""The device of a job is leased while it runs: a stand-in driver, real locks, CUDA by hand.

This torch may have no CUDA. What it would say of itself (``devices.cuda``) is put in its place.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from stand_in import GIB, HERE, Driver, line_of, uuid_of

# What a program does first: CUDA as it is where it shows what the environment names.
CUDA = f"""
import os, sys
import torch
from luthier import devices
from luthier.devices import cuda
from luthier.devices.holding import Terms, hold, hold_used
from luthier.errors import LuthierError
CARDS = {[uuid_of(n) for n in range(3)]!r}
state = dict(initialised=False, shown=None, limits=[])
def shown():
    if not state["initialised"]:
        named = os.environ.get("CUDA_VISIBLE_DEVICES")
        state.update(initialised=True, shown=CARDS if named is None else named.split(","))
    return state["shown"]
cuda.is_built = lambda: True
cuda.is_initialised = lambda: state["initialised"]
cuda.shown = shown
cuda.limit = lambda index, most: state["limits"].append((index, most))
say = lambda line: print("said", line)
"""


@pytest.fixture
def cards(driver: Driver) -> Driver:
    driver.has(line_of(0, free=10 * GIB), line_of(1, free=70 * GIB), line_of(2, use=90))
    return driver


def told(driver: Driver, folder: Path, script: str, **variables: str) -> list[str]:
    leases = {"LUTHIER_LEASES": str(folder / "leases")} | variables
    return driver.call("-c", CUDA + script, **leases).splitlines()


@pytest.fixture
def others(cards: Driver, tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another program, which holds the two idle cards until its input ends."""
    with subprocess.Popen(
        [sys.executable, HERE / "leasing.py", tmp_path / "leases", tmp_path, "2", "-"],
        env=cards.environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield process
        assert process.stdin is not None
        process.stdin.close()


def test_the_best_free_card_is_held_inside_and_shown_alone(cards: Driver, tmp_path: Path) -> None:
    found = told(
        cards,
        tmp_path,
        """
with hold("auto", say=say) as held:
    print(held.choice())
    print(os.environ["CUDA_VISIBLE_DEVICES"], os.environ["CUDA_DEVICE_ORDER"])
    os.environ.pop("LUTHIER_LEASED")
    state["initialised"] = False
    os.environ["CUDA_VISIBLE_DEVICES"] = CARDS[1]
    try:
        with hold("cuda", say=say): pass
    except LuthierError as error:
        print(type(error).__name__)
print(os.environ.get("CUDA_VISIBLE_DEVICES"), os.environ.get("LUTHIER_LEASED"))
""",
    )
    assert found[0].startswith("cuda:0 (leased: 1 (NVIDIA A100, 70.0 GiB free")
    assert found[1:] == [f"{uuid_of(1)} PCI_BUS_ID", "BusyError", "None None"]


def test_the_card_that_is_asked_for_is_held(cards: Driver, tmp_path: Path) -> None:
    script = 'with hold("cuda:1") as held: print(held.lease.accelerators[0].uuid, held.choice())'
    visible = f"{uuid_of(2)},{uuid_of(0)}"
    (found,) = told(cards, tmp_path, script, CUDA_VISIBLE_DEVICES=visible)
    assert found.startswith(f"{uuid_of(0)} cuda:0 (leased")
    script = 'with hold("cuda:2") as held: print(held.lease, held.choice())'
    assert told(cards, tmp_path, script, CUDA_VISIBLE_DEVICES=visible) == ["None None"]


def test_after_cuda_was_asked_its_own_numbers_count(cards: Driver, tmp_path: Path) -> None:
    script = """
cuda.shown()
with hold("auto") as held: print(held.choice().value)
with hold("cuda:2") as held: print(held.choice().value)
"""
    assert told(cards, tmp_path, script) == ["cuda:1", "cuda:2"]


def test_whoever_comes_later_waits_or_is_told(
    cards: Driver, tmp_path: Path, others: subprocess.Popen[str]
) -> None:
    cards.has(line_of(0, free=10 * GIB), line_of(1, free=70 * GIB))
    busy = """
try:
    with hold("auto"): pass
except LuthierError as error:
    print(type(error).__name__, error.what)
"""
    (found,) = told(cards, tmp_path, busy)
    assert found.startswith("BusyError 1 accelerator asked for, 0 of 2 can be had")
    waits = cards.environment | {"LUTHIER_LEASES": str(tmp_path / "leases")}
    script = 'with hold("auto", Terms(wait="1h"), say=say) as held: print(held.choice().value)'
    with subprocess.Popen(
        [sys.executable, "-c", CUDA + script], env=waits, stdout=subprocess.PIPE, text=True
    ) as waiting:
        assert waiting.stdout is not None
        assert waiting.stdout.readline().startswith("said waiting: ")
        assert others.stdin is not None
        others.stdin.close()
        assert waiting.stdout.read() == "cuda:0\n"


def test_what_a_program_computes_on_is_held(cards: Driver, tmp_path: Path) -> None:
    script = """
used = [torch.device("cuda:2"), torch.device("cuda", 1), torch.device("cpu")]
ends = hold_used(used, say=say)
print(sorted(os.environ["LUTHIER_LEASED"].split(",")) == CARDS[1:])
mine = os.environ.pop("LUTHIER_LEASED")
try:
    hold_used(used[:1])
except LuthierError as error:
    print(type(error).__name__)
ends.close()
hold_used(used[:1], Terms(share="8GiB")).close()
print(state["limits"], hold_used([torch.device("cpu")]).close())
"""
    found = told(cards, tmp_path, script)
    assert found == ["True", "BusyError", f"[(2, {8 * GIB})] None"]


def test_the_last_of_several_in_a_program_gives_back(cards: Driver, tmp_path: Path) -> None:
    script = """
from luthier.accelerators import Leases
holders = lambda: [holder.pid == os.getpid() for holder in Leases().holders(CARDS)]
first, second = contextlib.ExitStack(), contextlib.ExitStack()
a = first.enter_context(hold("auto", say=say)).choice()
b = second.enter_context(hold("auto", say=say)).choice()
print(a.value, b.value, holders())
first.close()
print(os.environ.get("LUTHIER_LEASED") == CARDS[1], holders())
with hold("auto", say=say) as third:
    second.close()
    print(third.choice().value, holders())
print(os.environ.get("LUTHIER_LEASED"), os.environ.get("CUDA_VISIBLE_DEVICES"), holders())
"""
    found = told(cards, tmp_path, "import contextlib\n" + script)
    assert found == ["cuda:0 cuda:0 [True]", "True [True]", "cuda:0 [True]", "None None []"]


def test_a_share_holds_torch_to_it(cards: Driver, tmp_path: Path) -> None:
    script = """
with hold("auto", Terms(share="4GiB")) as held: print(held.choice().value, state["limits"])
"""
    assert told(cards, tmp_path, script) == [f"cuda:0 [(0, {4 * GIB})]"]


def test_of_what_a_parent_has_leased_a_job_takes_its_device(cards: Driver, tmp_path: Path) -> None:
    script = 'with hold("auto") as held: print(held.choice().value, state["limits"])'
    words = ["-m", "luthier", "run", "--share", "4GiB", "--", sys.executable, "-c", CUDA + script]
    said = cards.call(*words, LUTHIER_LEASES=str(tmp_path / "leases"))
    assert f"cuda:0 [(0, {4 * GIB})]" in said


def test_each_process_of_a_job_takes_another_of_what_is_leased(
    cards: Driver, tmp_path: Path
) -> None:
    script = """
os.environ["LOCAL_WORLD_SIZE"] = "2"
for rank in ("0", "1", "2"):
    os.environ["LOCAL_RANK"], state["initialised"] = rank, False
    try:
        with hold("auto") as held: print(CARDS.index(held.lease.accelerators[0].uuid))
    except LuthierError as error:
        print(error.cure)
"""
    words = ["-m", "luthier", "run", "--gpus", "2", "--", sys.executable, "-c", CUDA + script]
    said = cards.call(*words, LUTHIER_LEASES=str(tmp_path / "leases")).splitlines()
    assert [line for line in said if len(line) == 1] == ["0", "1"]
    assert "ask luthier run for more, such as with --gpus" in said


def test_where_leases_cannot_be_kept_a_job_goes_on(cards: Driver, tmp_path: Path) -> None:
    (tmp_path / "leases").write_text("")
    script = """
with hold("auto", say=say) as held: print(held.lease, held.choice())
hold_used([torch.device("cuda:0")], say=say).close()
"""
    first, second, third = told(cards, tmp_path, script)
    for said in (first, third):
        assert said.startswith("said no lease is held: leases cannot be kept in")
    assert second == "None None"


def test_a_torch_without_cuda_says_what_it_cannot_use(cards: Driver, tmp_path: Path) -> None:
    script = """
cuda.is_built = lambda: False
with hold("auto", say=say) as held: print(held.choice())
with hold("cpu", say=say) as held: print(held.choice())
"""
    said = "said this torch is built without CUDA: NVIDIA A100 cannot be used"
    assert told(cards, tmp_path, script) == [said, "None", "None"]
