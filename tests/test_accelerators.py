"""Accelerators without any: a stand-in driver in C, real processes, real locks."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import itertools
import json
import os
import pty
import re
import select
import signal
import socket
import stat
import struct
import subprocess
import sys
import tempfile
import termios
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from luthier.accelerators import (
    Accelerator,
    Held,
    Lease,
    Leases,
    Request,
    Survey,
    locks,
    parse_size,
    parse_time,
    pick,
    visible,
)
from luthier.accelerators.picking import Picked, distance
from luthier.errors import BusyError, LeaseError, RecipeError
from stand_in import GIB, HERE, Driver, line_of, uuid_of


def card(number: int, **facts: object) -> Accelerator:
    given: dict[str, object] = {"total": 80 * GIB, "free": 80 * GIB, "utilisation": 0} | facts
    return Accelerator(number, uuid_of(number), "NVIDIA A100", **given)  # type: ignore[arg-type]


def split(number: int, parts: int) -> list[Accelerator]:
    whole = card(number, is_split=True)
    instances = [
        Accelerator(
            number,
            uuid_of(16 * number + part, "MIG"),
            "NVIDIA A100 MIG 1g.10gb",
            total=10 * GIB,
            free=10 * GIB,
            instance=part,
            card=whole.uuid,
            legacy=f"MIG-{whole.uuid}/{part + 7}/0",
        )
        for part in range(parts)
    ]
    return [whole, *instances]


# --- CUDA_VISIBLE_DEVICES -----------------------------------------------------------------------

FOUR = [card(0), card(1), card(2), *split(3, 2)]


@pytest.mark.parametrize(
    ("value", "places", "note"),
    [
        ("0", ["0"], ""),
        ("2,0", ["2", "0"], ""),
        (" 2 , 1 ", ["2", "1"], ""),
        ("1gpu,2x", ["1", "2"], ""),
        ("", [], "hides every device"),
        ("-1", [], "hides every device"),
        ("1,-1,2", ["1"], "'-1' ends the list; what follows is hidden: 2"),
        ("1,9,2", ["1"], "'9' is no card of this machine, which has 4; what follows is hidden: 2"),
        ("1,1", [], "names GPU-00000001-1234-5678-9abc-def012345678 again"),
        ("1,,2", ["1"], "'' is no index"),
        ("nothing", [], "'nothing' is neither an index nor a UUID"),
        (uuid_of(2), ["2"], ""),
        ("GPU-00000002,GPU-00000000", ["2", "0"], ""),
        ("gpu-00000002", [], "is neither an index nor a UUID"),
        ("GPU-0000000", [], "names 4 devices of this machine"),
        ("GPU-7", [], "names no device of this machine"),
        ("GPU-", [], "is neither an index nor a UUID"),
        (f"{uuid_of(1)},{uuid_of(1)}", [], "again: it hides every device"),
        (uuid_of(49, "MIG"), ["3:1"], ""),
        (f"MIG-{uuid_of(3)}/8/0", ["3:1"], ""),
        (f"MIG-{uuid_of(3)}/9/0", [], "names no device"),
        ("3", ["3:0"], ""),
        (uuid_of(3), ["3:0"], ""),
        ("0,3", ["3:0"], "CUDA shows one instance (MIG) to a program"),
        (f"{uuid_of(48, 'MIG')},{uuid_of(49, 'MIG')}", ["3:0"], "CUDA shows one instance"),
    ],
)
def test_what_is_visible(value: str, places: list[str], note: str) -> None:
    found = visible(FOUR, {"CUDA_VISIBLE_DEVICES": value})
    assert [a.place for a in found.accelerators] == places
    assert note in "\n".join(found.notes)
    assert bool(note) == bool(found.notes)


def test_without_the_variable_all_is_allowed_and_cuda_shows_one_instance() -> None:
    found = visible(FOUR, {})
    assert [a.place for a in found.allowed] == ["0", "1", "2", "3:0", "3:1"]
    assert [a.place for a in found.accelerators] == ["3:0"]
    assert [a.place for a in visible(FOUR[:3], {}).accelerators] == ["0", "1", "2"]
    both = f"{uuid_of(49, 'MIG')},{uuid_of(48, 'MIG')}"
    found = visible(FOUR, {"CUDA_VISIBLE_DEVICES": both})
    assert [a.place for a in found.allowed] == ["3:1", "3:0"]
    assert [found.logical(a) for a in FOUR] == [None, None, None, None, None, 0]


def test_indices_of_unequal_cards_are_certain_only_in_the_order_of_the_bus() -> None:
    cards = [card(0), Accelerator(1, uuid_of(1), "NVIDIA H100")]
    by_index = {"CUDA_VISIBLE_DEVICES": "1"}
    assert "not certain" in visible(cards, by_index).notes[0]
    assert visible(cards, by_index | {"CUDA_DEVICE_ORDER": "PCI_BUS_ID"}).notes == ()
    assert visible(cards, {"CUDA_VISIBLE_DEVICES": uuid_of(1)}).notes == ()


@given(st.text(alphabet="0123456789,-+ GPUMIGabcdef/x", max_size=30))
def test_no_value_of_the_variable_is_too_strange(value: str) -> None:
    found = visible(FOUR, {"CUDA_VISIBLE_DEVICES": value})
    assert set(found.accelerators) <= set(found.allowed) <= set(FOUR)
    assert not any(a.is_split for a in found.allowed)
    assert len(set(found.accelerators)) == len(found.accelerators)


# --- choosing -----------------------------------------------------------------------------------

SOME = st.none() | st.integers(0, 100)


@st.composite
def machines(draw: st.DrawFn) -> tuple[Survey, Held]:
    count = draw(st.integers(0, 6))
    cards = []
    for number in range(count):
        total = draw(st.sampled_from([None, 24 * GIB, 80 * GIB]))
        free = None if total is None else draw(st.integers(0, total))
        cards.append(card(number, total=total, free=free, utilisation=draw(SOME)))
    uuids = [c.uuid for c in cards]
    pairs = [tuple(sorted(pair)) for pair in itertools.combinations(uuids, 2)]
    levels = st.sampled_from([0, 11, 21, 31, 51])
    distances = {pair: draw(levels) for pair in pairs if draw(st.booleans())}
    some = st.lists(st.sampled_from(uuids), unique=True) if uuids else st.just([])
    shares = {uuid: draw(st.integers(0, 80 * GIB)) for uuid in draw(some)}
    held = Held(alone=set(draw(some)) - shares.keys(), shares=shares, awaited=set(draw(some)))
    return Survey(tuple(cards), (), distances), held  # type: ignore[arg-type]


REQUESTS = st.builds(
    Request,
    count=st.integers(1, 4),
    min_free=st.sampled_from([0, 10 * GIB, 70 * GIB]),
    share=st.sampled_from([None, 8 * GIB]),
)


def step(a: Accelerator) -> int:
    return 1 if a.utilisation is None else 0 if a.utilisation < 5 else 2


@given(machines(), REQUESTS)
@settings(max_examples=300)
def test_what_is_picked_can_be_had_and_nothing_better_can(
    machine: tuple[Survey, Held], request: Request
) -> None:
    survey, held = machine
    picked = pick(survey, survey.usable, request, held)

    def can_be_had(a: Accelerator) -> bool:
        if a.uuid in held.alone or a.uuid in held.awaited:
            return False
        if a.uuid in held.shares and request.share is None:
            return False
        promised = held.shares.get(a.uuid, 0)
        return request.needed == 0 or (
            a.total is not None
            and (a.free or 0) >= request.needed
            and a.total - promised >= request.needed
        )

    able = [a for a in survey.usable if can_be_had(a)]
    if len(able) < request.count:
        assert picked.accelerators == ()
        assert picked.reason.startswith(f"{request.count} accelerator")
        return
    assert len(set(picked.accelerators)) == request.count
    assert set(picked.accelerators) <= set(able)
    if request.count == 1:
        (one,) = picked.accelerators
        idle = [a for a in able if a.utilisation is not None and a.utilisation < 5]
        if idle:
            assert one in idle
            assert one.free == max((a.free for a in idle if a.free is not None), default=None)
    else:
        worst = max(
            distance(survey, a, b) for a, b in itertools.combinations(picked.accelerators, 2)
        )
        busiest = max(map(step, picked.accelerators))
        for other in itertools.combinations(able, request.count):
            assert busiest <= max(map(step, other))
            if busiest < max(map(step, other)):
                continue
            assert worst <= max(distance(survey, a, b) for a, b in itertools.combinations(other, 2))


@given(machines(), REQUESTS)
def test_waiting_is_worth_it_exactly_if_all_could_be_given_back(
    machine: tuple[Survey, Held], request: Request
) -> None:
    survey, held = machine
    idle = [card(a.index, total=a.total, free=a.total) for a in survey.accelerators]
    later = pick(Survey(tuple(idle), (), survey.distances), idle, request, Held())
    now = pick(survey, survey.usable, request, held)
    if not now.accelerators:
        assert now.can_come == bool(later.accelerators)


def test_instances_are_had_one_at_a_time_and_unfit_cards_are_named() -> None:
    survey = Survey(tuple(FOUR))
    assert [a.place for a in pick(survey, survey.usable, Request(3), Held()).accelerators] == [
        *("0", "1", "2")
    ]
    none = pick(survey, survey.usable, Request(4), Held())
    assert not none.can_come
    assert "3:0 is an instance, of which CUDA shows one to a program" in none.reason
    wanted = Request(like="H100")
    assert "0 is no H100" in pick(survey, survey.usable, wanted, Held()).reason
    wanted = Request(capability=(9, 0))
    cards = [card(0, capability=(8, 0)), card(1, capability=(9, 0)), card(2)]
    chosen = pick(Survey(tuple(cards)), cards, wanted, Held())
    assert [a.index for a in chosen.accelerators] == [1]


def test_of_many_cards_a_near_set_is_built_up() -> None:
    cards = [card(number) for number in range(24)]
    near = {
        (a.uuid, b.uuid): 0 if a.index // 8 == b.index // 8 else 51
        for a, b in itertools.combinations(cards, 2)
    }
    chosen = pick(Survey(tuple(cards), (), near), cards, Request(8), Held()).accelerators
    assert len({a.index // 8 for a in chosen}) == 1
    busy = Held(alone={cards[0].uuid, cards[9].uuid})
    chosen = pick(Survey(tuple(cards), (), near), cards, Request(8), busy).accelerators
    assert [a.index for a in chosen] == list(range(16, 24))


# --- a driver -----------------------------------------------------------------------------------


def test_every_fact_of_a_card_is_shown(driver: Driver) -> None:
    me = os.getpid()
    driver.has(
        line_of(0, free=50 * GIB, use=7),
        f"process {me} {3 * GIB}",
        f"process 4000000 {GIB}",
        line_of(1),
        line_of(2, is_split=1),
        f"instance {uuid_of(32, 'MIG')} NVIDIA_A100_MIG_1g.10gb {10 * GIB} {9 * GIB} 7 0",
    )
    found = driver.devices(CUDA_VISIBLE_DEVICES=f"{uuid_of(1)},{uuid_of(0)}")
    cards = found["accelerators"]
    assert isinstance(cards, list)
    assert [c["logical"] for c in cards] == [1, 0, None, None]
    first = cards[0]
    assert (first["index"], first["uuid"], first["name"]) == (0, uuid_of(0), "NVIDIA A100")
    assert (first["bus_id"], first["capability"]) == ("00000000:00:00.0", [8, 0])
    assert (first["total"], first["free"]) == (80 * GIB, 50 * GIB)
    assert (first["utilisation"], first["temperature"]) == (7, 30)
    mine, strange = first["processes"]
    assert (mine["pid"], mine["used"]) == (me, 3 * GIB)
    assert mine["user"] is not None
    assert strange == {"pid": 4000000, "user": None, "name": None, "used": GIB}
    assert cards[2]["is_split"]
    assert (cards[3]["instance"], cards[3]["card"]) == (0, uuid_of(2))
    shown = driver.call("-m", "luthier", "devices", CUDA_VISIBLE_DEVICES="1")
    assert "cuda:0  NVIDIA A100" in shown
    assert "30.0 GiB  80.0 GiB" in shown
    assert f"process 4000000 (of a user that is not known here), {1}.0 GiB" in shown
    assert "CPU" in shown


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (["error nvmlInitWithFlags 9"], "the NVIDIA driver does not answer: Driver Not Loaded"),
        ([], "CPU"),
        (
            [line_of(0), line_of(1), "error nvmlDeviceGetUUID 15 0"],
            "card 0 does not answer: GPU is",
        ),
        ([line_of(0), "error nvmlDeviceGetTemperature 3"], "0 %   ?"),
        ([line_of(0), "error nvmlDeviceGetMemoryInfo 3"], "?     ?      ?"),
        ([line_of(0), "error nvmlDeviceGetComputeRunningProcesses_v3 4"], "80.0 GiB"),
        ([line_of(0), "error nvmlDeviceGetCount_v2 999"], "CPU"),
    ],
)
def test_a_broken_driver_is_said_and_is_no_failure(
    driver: Driver, lines: list[str], said: str
) -> None:
    driver.has(*lines)
    assert said in driver.call("-m", "luthier", "devices")


def test_functions_that_a_driver_lacks_are_unknown(tmp_path: Path) -> None:
    old = Driver(tmp_path, "TEMPERATURE", "MIG")
    old.has(line_of(0))
    (first,) = old.devices()["accelerators"]  # type: ignore[misc, index]
    assert first["temperature"] is None
    assert not first["is_split"]
    assert first["free"] == 80 * GIB


def test_without_a_driver_there_is_the_processor() -> None:
    environment = {k: v for k, v in os.environ.items() if k != "LD_LIBRARY_PATH"}
    done = subprocess.run(
        [sys.executable, "-m", "luthier", "devices"],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "CPU" in done.stdout


# --- luthier devices --watch --------------------------------------------------------------------


LOGIN = "import os, sys; os.login_tty(0); os.execv(sys.argv[1], sys.argv[1:])"


class Terminal:
    """A program in a terminal of its own."""

    def __init__(self, driver: Driver, columns: int, rows: int, *words: str) -> None:
        self.outside, inside = pty.openpty()
        self.resize(columns, rows)
        self.child = subprocess.Popen(
            [sys.executable, "-c", LOGIN, sys.executable, "-m", "luthier", *words],
            env=driver.environment | {"TERM": "xterm-256color"},
            stdin=inside,
            stdout=inside,
            stderr=inside,
        )
        self._inside, self._said = inside, ""

    def resize(self, columns: int, rows: int) -> None:
        fcntl.ioctl(self.outside, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def until(self, text: str) -> str:
        """Return what is said until a text comes, with it."""
        while text not in self._said:
            self._said += os.read(self.outside, 1 << 16).decode()
        said, found, self._said = self._said.partition(text)
        return said + found

    def frame(self) -> list[str]:
        """Return the lines of the next whole frame."""
        self.until("\x1b[H")
        text = self.until("\x1b[J").removesuffix("\x1b[J")
        lines = text.split("\r\r\n")  # the terminal puts a return before each newline
        assert all(line.endswith("\x1b[K") for line in lines)
        lines = [line.removesuffix("\x1b[K") for line in lines]
        assert "\x1b" not in "".join(lines)  # nothing is cleared before it is drawn anew
        return lines

    def end(self) -> tuple[int, str]:
        """Return the status and the last words of a program that ends."""
        status = self.child.wait()
        os.close(self._inside)
        with contextlib.suppress(OSError):  # all is read
            while more := os.read(self.outside, 1 << 16):
                self._said += more.decode()
        os.close(self.outside)
        return status, self._said


@pytest.fixture
def terminal(driver: Driver) -> Iterator[Callable[..., Terminal]]:
    started: list[Terminal] = []

    def start(columns: int, rows: int) -> Terminal:
        started.append(Terminal(driver, columns, rows, "devices", "--watch"))
        return started[-1]

    yield start
    for one in started:
        one.child.kill()
        one.child.wait()


def test_a_watch_is_drawn_in_place_and_leaves_the_terminal_as_it_was(
    driver: Driver, terminal: Callable[..., Terminal]
) -> None:
    driver.has(line_of(0, use=11), line_of(1))
    shown = terminal(60, 40)
    assert shown.until("\x1b[?1049h\x1b[?25l") == "\x1b[?1049h\x1b[?25l"
    lines = shown.frame()
    assert max(map(len, lines)) < 60
    text = " ".join(" ".join(lines).split())
    assert "11 %" in text
    assert "80.0 GiB" in text
    assert not any(line.endswith("80.0") for line in lines)  # no cell is parted
    assert f"{uuid_of(0)}, bus 00000000:00:00.0, capability 8.0" in text
    driver.has(line_of(0, use=77), line_of(1))
    while "77 %" not in " ".join(lines):
        lines = shown.frame()
    shown.resize(100, 4)
    while len(lines) != 4:
        lines = shown.frame()
    assert max(map(len, lines)) > 60
    assert re.fullmatch(r"… \d+ more lines", lines[-1])
    shown.resize(2, 2)
    while len(lines) != 2:
        lines = shown.frame()
    shown.resize(0, 0)  # of which nobody knows the size
    while len(lines) < 8:
        lines = shown.frame()
    os.write(shown.outside, b"\x03")  # Ctrl-C
    status, last = shown.end()
    assert status == 0
    _, left, after = last.partition("\x1b[?25h\x1b[?1049l")
    assert left
    assert "77 %" in after
    assert "\x1b" not in after
    assert "interrupted" not in after


def test_a_watch_gives_the_terminal_back_however_it_ends(
    driver: Driver, terminal: Callable[..., Terminal]
) -> None:
    driver.has(line_of(0))
    shown = terminal(80, 24)
    shown.frame()
    shown.child.send_signal(signal.SIGTSTP)
    shown.until("\x1b[?25h\x1b[?1049l")
    assert os.WIFSTOPPED(os.waitpid(shown.child.pid, os.WUNTRACED)[1])
    shown.child.send_signal(signal.SIGCONT)
    shown.until("\x1b[?1049h\x1b[?25l")
    shown.frame()
    shown.child.send_signal(signal.SIGTERM)
    status, last = shown.end()
    assert status == 128 + signal.SIGTERM
    assert "\x1b[?25h\x1b[?1049l" in last


def test_a_watch_into_a_pipe_is_plain(driver: Driver) -> None:
    driver.has(line_of(0))
    for words, begin, end in (([], "GPU", "\n\n"), (["--json"], "{", "}\n")):
        child = subprocess.Popen(
            [sys.executable, "-m", "luthier", "devices", "--watch", *words],
            env=driver.environment | {"TERM": "xterm"},
            stdout=subprocess.PIPE,
            text=True,
        )
        assert child.stdout is not None
        said = ""
        while said.count(end) < 2:
            said += child.stdout.readline()
        assert said.count(begin + ("  here" if begin == "GPU" else '"acc')) == 2
        assert "\x1b" not in said
        child.send_signal(signal.SIGINT)
        child.communicate()
        assert child.returncode == 0


# --- leases -------------------------------------------------------------------------------------


Start = Callable[..., "subprocess.Popen[str]"]


@contextlib.contextmanager
def starting(driver: Driver, folder: Path) -> Iterator[Start]:
    """Give what starts processes that lease; at the end those that live are killed."""
    (folder / "proofs").mkdir()
    for number in range(4):
        (folder / "proofs" / uuid_of(number)).touch()
        (folder / "proofs" / uuid_of(number)).chmod(0o666)
    driver.has(*map(line_of, range(4)))
    started: list[subprocess.Popen[str]] = []

    def start(
        count: int = 1, hold: str = "-", share: int | None = None, user: int | None = None
    ) -> subprocess.Popen[str]:
        promised = "" if share is None else share
        words = [folder / "leases", folder / "proofs", count, hold, promised]
        become = {} if user is None else {"LEASING_AS": str(user)}
        child = subprocess.Popen(
            [sys.executable, HERE / "leasing.py", *map(str, words)],
            env=driver.environment | {"PYTHONPATH": str(HERE.parent / "src")} | become,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        started.append(child)
        return child

    yield start
    for child in started:
        child.kill()
        child.communicate()


@pytest.fixture
def held(driver: Driver, tmp_path: Path) -> Iterator[Start]:
    """Start processes that lease."""
    with starting(driver, tmp_path) as start:
        yield start


def got(child: subprocess.Popen[str]) -> list[str]:
    assert child.stdout is not None
    return child.stdout.readline().split()


def waiting(folder: Path, child: subprocess.Popen[str], behind: int = 0) -> list[Path]:
    """Wait until a process stands in the queue behind so many; return the files of all."""
    while len(turns := sorted(folder.glob("turn-*"))) <= behind:
        assert not select.select([child.stdout], [], [], 0)[0], "it does not wait"
    return turns


@pytest.fixture
def leases(tmp_path: Path) -> Leases:
    return Leases(tmp_path / "leases")


SURVEY = Survey(tuple(card(number) for number in range(4)))


def look() -> tuple[Survey, tuple[Accelerator, ...]]:
    return SURVEY, SURVEY.usable


def test_a_lease_is_alone_and_is_given_back_whichever_way_its_holder_ends(
    held: Start, leases: Leases
) -> None:
    first, second = held(3), held(1)
    uuids = got(first) + got(second)
    assert sorted(uuids) == [uuid_of(n) for n in range(4)]
    with pytest.raises(BusyError, match=r"1 accelerator asked for, 0 of 4 can be had: 0 is leased"):
        leases.acquire(look, Request())
    holders = {h.uuid: h.pid for h in leases.holders(uuids)}
    assert sorted(holders.values()) == sorted([first.pid] * 3 + [second.pid])
    first.send_signal(signal.SIGKILL)
    first.wait()
    lease = leases.acquire(look, Request(3))
    with pytest.raises(BusyError):
        leases.acquire(look, Request())
    lease.release()
    second.communicate("")
    leases.acquire(look, Request(4)).release()
    assert leases.holders(uuids) == []
    left = {path.name.split("-")[0] for path in leases.folder.iterdir()}
    assert left == {"guard", "GPU"}


def test_who_came_first_is_served_first(held: Start, leases: Leases) -> None:
    holder = leases.acquire(look, Request())
    large = held(4)  # waits for all of them
    waiting(leases.folder, large)
    with pytest.raises(BusyError, match=r"is waited for by others.*; 1 came before"):
        leases.acquire(look, Request())
    looks = 0

    def once_more() -> tuple[Survey, tuple[Accelerator, ...]]:
        nonlocal looks
        looks += 1
        if looks == 4:  # three are free all the time, and the one that came first needs four
            holder.release()
            assert len(got(large)) == 4
            large.communicate("")
        return look()

    told: list[str] = []
    leases.acquire(once_more, Request(), wait=60, say=told.append).release()
    assert looks >= 4
    assert len(told) == 1
    assert told[0].endswith("; 1 came before")


def test_nobody_waits_for_the_dead(held: Start, leases: Leases) -> None:
    holder = held(1)
    got(holder)
    large = held(4)
    waiting(leases.folder, large)
    large.kill()
    large.wait()
    leases.acquire(look, Request(3)).release()


def test_a_card_is_shared_by_those_that_promise_what_they_take(
    leases: Leases,
) -> None:
    one = Survey((card(0),))

    def just_one() -> tuple[Survey, tuple[Accelerator, ...]]:
        return one, one.usable

    first = leases.acquire(just_one, Request(share=50 * GIB))
    with pytest.raises(BusyError, match="is shared by others"):
        leases.acquire(just_one, Request())
    with pytest.raises(BusyError, match=r"has 30\.0 GiB that nobody was promised"):
        leases.acquire(just_one, Request(share=31 * GIB))
    second = leases.acquire(just_one, Request(share=30 * GIB))
    assert [h.share for h in leases.holders([uuid_of(0)])] in (
        [50 * GIB, 30 * GIB],
        [30 * GIB, 50 * GIB],
    )
    with pytest.raises(BusyError, match=r"has 0\.0 GiB that nobody was promised"):
        leases.acquire(just_one, Request(share=GIB))
    first.release()
    with pytest.raises(BusyError):
        leases.acquire(just_one, Request())
    second.release()
    leases.acquire(just_one, Request()).release()


def test_what_can_never_be_had_is_not_waited_for(leases: Leases) -> None:
    with pytest.raises(LeaseError, match="5 accelerators asked for, and there are 4"):
        leases.acquire(look, Request(5), wait=1000)


def alone(number: int = 0) -> Callable[[], tuple[Survey, tuple[Accelerator, ...]]]:
    """Return what looks at a machine with one card."""
    one = (card(number),)
    return lambda: (Survey(one), one)


def test_nobody_chooses_while_another_does(leases: Leases, monkeypatch: pytest.MonkeyPatch) -> None:
    leases.acquire(look, Request()).release()
    monkeypatch.setattr("luthier.accelerators.leases._PATIENCE", 0.0)
    guard = os.open(leases.folder / "guard", os.O_RDWR)
    fcntl.flock(guard, fcntl.LOCK_EX)
    for asked in (lambda: leases.acquire(look, Request()), lambda: leases.holders([uuid_of(0)])):
        with pytest.raises(BusyError, match="lock under which accelerators are chosen"):
            asked()
    os.close(guard)
    leases.acquire(look, Request()).release()


def test_the_guard_is_held_until_all_is_locked(
    leases: Leases, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock = leases._lock

    def is_guarded() -> bool:
        guard = os.open(leases.folder / "guard", os.O_RDWR)
        try:
            return not locks.take(guard)
        finally:
            os.close(guard)

    def watched(picked: Picked, request: Request) -> Lease:
        assert is_guarded()
        lease = lock(picked, request)
        assert is_guarded()
        return lease

    monkeypatch.setattr(leases, "_lock", watched)
    lease = leases.acquire(look, Request())
    assert not is_guarded()
    lease.release()


def test_a_guard_that_is_taken_away_guards_nothing(
    leases: Leases, monkeypatch: pytest.MonkeyPatch
) -> None:
    take, opened = locks.take, []

    def taken_away(descriptor: int, *, shared: bool = False) -> bool:
        if not opened:  # after it was opened, and before it is locked
            (leases.folder / "guard").unlink()
        opened.append(os.fstat(descriptor).st_ino)
        return take(descriptor, shared=shared)

    os.close(locks.open_common(leases.folder / "guard"))
    monkeypatch.setattr(locks, "take", taken_away)
    with leases._guard():
        assert os.stat(leases.folder / "guard").st_ino == opened[-1]
    assert len(opened) > 1


@pytest.mark.parametrize("share", [None, GIB])
def test_the_lock_decides_whatever_was_seen_before(
    leases: Leases, monkeypatch: pytest.MonkeyPatch, share: int | None
) -> None:
    lease = leases.acquire(alone(), Request())
    monkeypatch.setattr(leases, "_held", lambda _uuids: Held())
    with pytest.raises(BusyError, match="0 was locked past the guard"):
        leases.acquire(alone(), Request(share=share))
    lease.release()
    leases.acquire(alone(), Request(share=share)).release()


def test_who_shares_without_saying_how_much_has_all(leases: Leases) -> None:
    lease = leases.acquire(alone(), Request(share=GIB))
    for path in leases.folder.glob("holder-*"):
        path.unlink()
    with pytest.raises(BusyError, match="0 is leased"):
        leases.acquire(alone(), Request(share=GIB))
    lease.release()


def test_heirs_lose_what_is_released_and_keep_what_is_left(leases: Leases) -> None:
    lease = leases.acquire(look, Request(4))
    heirs = [os.dup(descriptor) for descriptor in lease.descriptors]  # as of a forked child
    lease.leave()
    with pytest.raises(BusyError, match="0 of 4"):
        leases.acquire(look, Request())
    for heir in heirs:
        os.close(heir)
    lease = leases.acquire(look, Request(4))
    heirs = [os.dup(descriptor) for descriptor in lease.descriptors]
    lease.release()
    leases.acquire(look, Request(4)).release()
    for heir in heirs:
        os.close(heir)


def test_who_waits_no_longer_stands_in_nobody_s_way(leases: Leases) -> None:
    lease = leases.acquire(look, Request())
    with pytest.raises(BusyError):
        leases.acquire(look, Request(4), wait=0.01)
    assert not [*leases.folder.glob("turn-*")]
    leases.acquire(look, Request(3)).release()
    lease.release()


def test_a_place_in_the_queue_ends_with_the_choice(
    leases: Leases, monkeypatch: pytest.MonkeyPatch
) -> None:
    lease, guard, queue = leases.acquire(alone(), Request()), leases._guard, []

    @contextlib.contextmanager
    def watched(until: float = 0.0) -> Iterator[None]:
        with guard(until):
            yield
            queue.append(len([*leases.folder.glob("turn-*")]))

    monkeypatch.setattr(leases, "_guard", watched)
    leases.acquire(alone(), Request(), wait=60, say=lambda _line: lease.release()).release()
    assert queue == [1, 0]


def test_waiting_is_told_without_the_guard(leases: Leases) -> None:
    lease = leases.acquire(alone(), Request())
    told: list[str] = []

    def say(line: str) -> None:
        told.append(line)
        assert leases.holders([uuid_of(0)])
        lease.release()

    leases.acquire(alone(), Request(), wait=60, say=say).release()
    assert told == [
        "waiting: 1 accelerator asked for, 0 of 1 can be had: 0 is leased",
    ]


def test_what_the_dead_have_said_goes(held: Start, leases: Leases) -> None:
    for _again in range(3):
        dead = held(4)
        got(dead)
        dead.kill()
        dead.wait()
    assert len([*leases.folder.glob("holder-*")]) == 4
    leases.acquire(look, Request(4)).release()
    assert not [*leases.folder.glob("holder-*")]


def test_a_full_disk_leaves_nothing_behind(leases: Leases, monkeypatch: pytest.MonkeyPatch) -> None:
    leases.acquire(look, Request(4)).release()
    before = sorted(leases.folder.iterdir())
    monkeypatch.setattr("os.write", lambda _file, _text: 3)
    with pytest.raises(LeaseError, match="No space left"):
        leases.acquire(look, Request())
    monkeypatch.undo()
    assert sorted(leases.folder.iterdir()) == before
    leases.acquire(look, Request(4)).release()


def test_the_folder_is_open_to_all_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        leases = Leases(tmp_path / "deep" / "all")
        leases.acquire(look, Request()).release()
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "deep" / "all").stat().st_mode) == 0o1777
    assert stat.S_IMODE((tmp_path / "deep" / "all" / "guard").stat().st_mode) == 0o666
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["all"]


def test_a_file_system_without_links_will_do(
    leases: Leases, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_paths: Path) -> None:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "link", refused)
    leases.acquire(look, Request()).release()
    leases.acquire(look, Request(4)).release()
    files = {path.name: stat.S_IMODE(path.stat().st_mode) for path in leases.folder.iterdir()}
    assert files == dict.fromkeys(["guard", *map(uuid_of, range(4))], 0o666)


def test_where_no_folder_can_be_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    for folder in (tmp_path / "file", tmp_path / "file" / "in", tmp_path / "link"):
        with pytest.raises(LeaseError, match="leases cannot be kept in"):
            Leases(folder)
    assert len([*tmp_path.iterdir()]) == 2
    monkeypatch.delenv("LUTHIER_LEASES", raising=False)
    monkeypatch.setattr("luthier.accelerators.leases._PLACES", (tmp_path / "no", tmp_path))
    with pytest.raises(LeaseError, match="a folder that all users may write to"):
        Leases()


# --- several users ------------------------------------------------------------------------------

ALICE, BOB, CAROL = 54321, 54322, 54323  # nobody on this machine


@pytest.fixture
def public() -> Iterator[Path]:
    """A folder that all users can enter, as ``tmp_path`` is none."""
    if not hasattr(os, "geteuid") or os.geteuid() != 0:
        pytest.skip("only root can be several users")
    with tempfile.TemporaryDirectory(dir="/tmp", prefix="users-") as folder:
        Path(folder).chmod(0o777)
        yield Path(folder)


def as_user(user: int, code: str) -> str:
    """Run code as a user, without reading any file after it is one; return what it raises."""
    program = f"import os; os.setgroups([]); os.setgid({user}); os.setuid({user})\n{code}"
    done = subprocess.run(
        [sys.executable, "-c", program], check=False, capture_output=True, text=True
    )
    return done.stderr.strip().rpartition("\n")[2]


def test_a_folder_that_one_user_made_serves_the_others(public: Path) -> None:
    with starting(Driver(public), public) as start:
        one = start(1, user=ALICE)  # whose umask leaves nothing to others
        hers = got(one)
        folder = public / "leases"
        modes = {path.name.split("-")[0]: path.stat() for path in [folder, *folder.iterdir()]}
        assert {s.st_uid for s in modes.values()} == {ALICE}
        assert {name: stat.S_IMODE(s.st_mode) for name, s in modes.items()} == {
            "leases": 0o1777,
            "guard": 0o666,
            "GPU": 0o666,
            "holder": 0o644,
        }
        other = start(3, user=BOB)
        his = got(other)
        assert sorted(hers + his) == [uuid_of(n) for n in range(4)]
        leases = Leases(folder)
        assert {(h.user, h.pid) for h in leases.holders(hers + his)} == {
            (str(ALICE), one.pid),
            (str(BOB), other.pid),
        }
        with pytest.raises(BusyError, match="0 of 4 can be had"):
            leases.acquire(look, Request())
        for file in ("guard", hers[0], *(path.name for path in folder.glob("holder-*"))):
            assert "PermissionError" in as_user(CAROL, f"os.unlink({str(folder / file)!r})")
        one.kill()
        one.wait()
        (left,) = folder.glob(f"holder-{hers[0]}-*")
        third = start(1, user=CAROL)  # who may not take away what the dead one has left
        assert got(third) == hers
        assert left.exists()
        assert [h.pid for h in leases.holders(hers)] == [third.pid]  # root may
        assert not left.exists()


def test_what_a_user_has_left_harms_no_other(public: Path) -> None:
    with starting(Driver(public), public) as start:
        for behind, user in enumerate((ALICE, BOB)):
            holds = start(4, user=user)
            got(holds)
            waits = start(4, user=user)
            turns = waiting(public / "leases", waits, behind)
            for child in (waits, holds):
                child.kill()
                child.wait()
            for turn in turns:  # its owner alone may read it now, and nobody else take it away
                turn.chmod(0)
        (public / "leases" / "turn-999999999999-0").touch()
        last = start(4, user=CAROL)
        assert len(got(last)) == 4
        # A card's own file that others may not open is named.
        last.kill()
        last.wait()
        (public / "leases" / uuid_of(2)).chmod(0)
        refused = start(4, user=CAROL)
        assert got(refused) == []
        assert refused.wait() == 1


def test_a_system_that_protects_sticky_folders_has_no_objection(
    leases: Leases, monkeypatch: pytest.MonkeyPatch
) -> None:
    leases.acquire(look, Request(4)).release()
    real = os.open

    def protected(path: Path, flags: int, *more: int) -> int:
        # fs.protected_regular: who asks for a file to be made is not given another user's.
        if flags & os.O_CREAT and not flags & os.O_EXCL and os.path.lexists(path):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return real(path, flags, *more)

    monkeypatch.setattr(os, "open", protected)
    leases.acquire(look, Request(4)).release()
    Leases(leases.folder).holders([uuid_of(0)])


# --- systems that have no such locks ------------------------------------------------------------

WINDOWS = """
import os, signal, sys
for module in ("fcntl", "pwd", "grp", "resource", "termios"):
    sys.modules[module] = None
for name in ("O_NOFOLLOW", "O_CLOEXEC", "O_NONBLOCK", "getuid", "geteuid", "fork"):
    delattr(os, name)
for name in ("SIGHUP", "SIGQUIT", "SIGUSR1", "SIGUSR2", "SIGCHLD", "pthread_sigmask"):
    delattr(signal, name)
"""


def test_a_system_without_such_locks_does_all_but_lease(driver: Driver) -> None:
    driver.has(line_of(0))
    main = "from luthier.cli.main import program; program()"

    def luthier(*words: str, status: int = 0) -> str:
        return driver.call("-c", WINDOWS + main, *words, status=status)

    assert "80.0 GiB" in (shown := luthier("devices"))
    assert "leases are not known: leases need file locks of a POSIX system" in shown
    assert "--epochs" in luthier("finetune", "--help")
    assert "leases need file locks of a POSIX system" in luthier("run", "--", "true", status=2)
    asked = "import luthier; luthier.pick_device()"
    assert "LeasesUnavailableError: leases need file" in driver.call(
        "-c", WINDOWS + asked, status=1
    )


# --- what lies there ----------------------------------------------------------------------------


def litter(kind: str, path: Path) -> None:
    """Put something where luthier looks."""
    if kind == "link":
        path.with_name("elsewhere").touch()
        path.symlink_to(path.with_name("elsewhere"))
    elif kind == "dangling link":
        path.symlink_to(path.with_name("nowhere"))
    elif kind == "directory":
        path.mkdir()
    elif kind == "FIFO":
        os.mkfifo(path)
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as one:
            one.bind(os.path.relpath(path))
    else:
        path.write_bytes({"garbage": b"\xff{", "deep": b"[" * 10**6}.get(kind, b"[]"))
        if kind == "unreadable":
            path.chmod(0)
        if kind == "huge":
            os.truncate(path, 2**40)


KINDS = ["link", "dangling link", "directory", "FIFO", "socket"]
PLAIN = ["unreadable", "garbage", "deep", "huge"]
USED = [
    *("guard", uuid_of(0)),
    *(f"holder-{uuid_of(0)}-0", "turn-000000000001-0", "turn-x-0", "turn-"),
]


@pytest.mark.parametrize("kind", KINDS + PLAIN)
@pytest.mark.parametrize("name", USED)
def test_what_lies_in_the_folder_is_passed_over_or_named(
    driver: Driver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, kind: str
) -> None:
    monkeypatch.chdir(tmp_path)  # a socket's path is short
    driver.has(line_of(0))
    Leases(tmp_path / "leases")
    litter(kind, tmp_path / "leases" / name)
    # Under the one card's lease somebody asks for another who does not know of it.
    hide = ["env", "-u", "LUTHIER_LEASED", "-u", "CUDA_VISIBLE_DEVICES", sys.executable]
    words = run_words("--", *hide, *run_words("--share", "1GiB", "--", "true"))
    done = subprocess.run(
        [sys.executable, *words],
        env=driver.environment | {"LUTHIER_LEASES": str(tmp_path / "leases")},
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )
    opens = kind in PLAIN and (kind != "unreadable" or os.geteuid() == 0)
    assert "Traceback" not in done.stderr
    if name in USED[:2] and not opens:
        assert f"leases cannot be kept in {tmp_path / 'leases'}: {name}: " in done.stderr
        assert done.returncode == 2
    else:
        assert "0 of 1 can be had: 0 is leased" in done.stderr
        assert done.returncode == 1


def holding(**changed: object) -> bytes:
    said = {"uuid": uuid_of(0), "pid": 1, "user": "", "command": "", "since": 1, "share": 1}
    return json.dumps(said | changed).encode()


@pytest.mark.parametrize(
    "said",
    [
        *(b"", b"\xff", b"[" * 10**6, b" " * 10**6 + b"[]", b"1", b"null", b"{}", b'{"a": 1}'),
        *(b"[1, null, {}]", b'["GPU", []]', b'{"uuid": "x", "pid": 1}'),
        holding(pid="1", user=3, command=[], since={}),
        *(holding(share=share) for share in (10**400, -(2**40), float("nan"), "1", [])),
        holding(since=float("inf")),
        holding(uuid=uuid_of(1)),
    ],
)
def test_what_a_living_program_says_may_be_anything(leases: Leases, said: bytes) -> None:
    shared = leases.acquire(alone(), Request(share=50 * GIB))
    files = []
    for name in (f"holder-{uuid_of(0)}-0", "turn-000000000001-0", "turn-x-0"):
        files.append(os.open(leases.folder / name, os.O_RDWR | os.O_CREAT))
        os.write(files[-1], said)
        fcntl.flock(files[-1], fcntl.LOCK_EX)
    assert [h.share for h in leases.holders([uuid_of(0)])] == [50 * GIB]
    with pytest.raises(BusyError, match=r"has 30\.0 GiB that nobody was promised"):
        leases.acquire(alone(), Request(share=40 * GIB))
    leases.acquire(alone(), Request(share=30 * GIB)).release()
    shared.release()
    for file in files:
        os.close(file)


def test_what_a_holder_says_does_nothing_to_a_terminal(
    leases: Leases, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["train.py", "\x1b[2J\n\x9b"])
    lease = leases.acquire(look, Request())
    assert leases.holders([uuid_of(0)])[0].command == "train.py '?[2J??'"
    lease.release()


@pytest.mark.long
@pytest.mark.skipif(sys.platform != "linux", reason="orphans are handed over on Linux alone")
def test_eight_processes_never_hold_the_same_of_four_cards_whoever_is_killed() -> None:
    # In a process of its own: it becomes the parent of orphans.
    words = [HERE.parent / "bench" / "leases.py", "--rounds", "20", "--seed", "3"]
    done = subprocess.run([sys.executable, *words], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "20 rounds of 8 processes for 4 cards" in done.stdout
    assert "; 5 files are left" in done.stdout  # the guard, and one for each card


# --- luthier run --------------------------------------------------------------------------------

SHOW = "import os; print(os.environ['CUDA_VISIBLE_DEVICES'], os.environ['CUDA_DEVICE_ORDER'])"


def run_words(*words: str) -> list[str]:
    return ["-m", "luthier", "run", *words]


def test_a_command_sees_its_accelerators_alone(driver: Driver) -> None:
    driver.has(line_of(0, free=GIB), line_of(1), line_of(2, free=70 * GIB))
    shown = driver.call(*run_words("--gpus", "2", "--", sys.executable, "-c", SHOW))
    assert f"{uuid_of(1)},{uuid_of(2)} PCI_BUS_ID" in shown
    assert "luthier: device 1 (NVIDIA A100, 80.0 GiB free, 0 % busy), 2 (" in shown
    inside = {"CUDA_VISIBLE_DEVICES": "2,0", "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
    shown = driver.call(*run_words("--", sys.executable, "-c", SHOW), **inside)
    assert uuid_of(2) in shown
    refused = driver.call(*run_words("--gpus", "3", "--", "true"), status=2, **inside)
    assert "3 accelerators asked for, and there are 2" in refused


PROMISE = """
import luthier.accelerators as a
print([a.acquire(a.Request(share=share)).share for share in (None, 2 * 2**30)])
a.acquire(a.Request(share=5 * 2**30))
"""


def test_a_promise_binds_what_the_command_leases(driver: Driver) -> None:
    driver.has(line_of(0))
    inside = [sys.executable, "-c", PROMISE]
    shown = driver.call(*run_words("--share", "4GiB", "--", *inside), status=1)
    assert str([4 * GIB, 2 * GIB]) in shown
    assert "5.0 GiB asked for on a shared accelerator, and luthier run has promised 4.0" in shown
    again = run_words("--", sys.executable, *run_words("--", *inside))
    assert str([None, 2 * GIB]) in driver.call(*again)
    again = run_words("--share", "4GiB", "--", sys.executable, *run_words("--", *inside))
    assert str([4 * GIB, 2 * GIB]) in driver.call(*again, status=1)
    # Who leases anew owes nothing of what was promised before.
    variables = {"LUTHIER_PROMISED": str(GIB)}
    assert str([None, 2 * GIB]) in driver.call(*run_words("--", *inside), **variables)


@pytest.mark.parametrize(
    ("code", "status"),
    [("raise SystemExit(7)", 7), ("import os; os.kill(os.getpid(), 9)", 137)],
)
def test_a_command_s_end_is_passed_on(driver: Driver, code: str, status: int) -> None:
    driver.has(line_of(0))
    driver.call(*run_words("--", sys.executable, "-c", code), status=status)


def test_a_command_that_cannot_be_started_is_said(driver: Driver) -> None:
    driver.has(line_of(0))
    assert "no-such-program cannot be started: No such file" in driver.call(
        *run_words("--", "no-such-program"), status=2
    )
    assert "no command to run" in driver.call(*run_words("--gpus", "1"), status=2)


LISTEN = """
import signal, sys
names = "SIGTERM", "SIGINT", "SIGHUP", "SIGUSR1"
for name in names:
    number = getattr(signal, name)
    signal.signal(number, lambda number, _: print(signal.Signals(number).name, flush=True))
print("ready", flush=True)
while sys.stdin.read(1):
    pass
"""


def listening(driver: Driver, *flags: str) -> subprocess.Popen[str]:
    """Start ``luthier run`` with a command that prints the signals it gets."""
    return subprocess.Popen(
        [sys.executable, *run_words(*flags, "--", sys.executable, "-c", LISTEN)],
        env=driver.environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def test_signals_reach_the_command(driver: Driver) -> None:
    driver.has(line_of(0))
    child = listening(driver)
    assert child.stdout is not None
    assert child.stdout.readline() == "ready\n"
    for name in ("SIGTERM", "SIGINT", "SIGHUP", "SIGUSR1"):
        child.send_signal(getattr(signal, name))
        assert child.stdout.readline() == f"{name}\n"
    out, _ = child.communicate("")
    assert (out, child.returncode) == ("", 0)


@pytest.mark.parametrize("share", [None, 50 * GIB])
def test_a_command_keeps_its_accelerator_when_luthier_is_killed(
    driver: Driver, share: int | None
) -> None:
    driver.has(line_of(0))
    leases = Leases(driver.folder / "leases")
    child = listening(driver, *([] if share is None else ["--share", str(share)]))
    assert child.stdout is not None
    assert child.stdin is not None
    child.stdout.readline()
    child.kill()
    child.wait()
    assert [h.share for h in leases.holders([uuid_of(0)])] == [share]
    with pytest.raises(BusyError):
        leases.acquire(alone(), Request())
    with pytest.raises(BusyError):
        leases.acquire(alone(), Request(share=31 * GIB))
    if share is not None:
        leases.acquire(alone(), Request(share=30 * GIB)).release()
    child.stdin.close()  # the command ends
    assert child.stdout.read() == ""
    child.stdout.close()
    leases.acquire(alone(), Request(), wait=60).release()


@pytest.mark.parametrize(
    ("text", "size"),
    [("10GiB", 10 * GIB), ("10GB", 10**10), ("10g", 10 * GIB), ("1.5 KiB", 1536), ("7", 7)],
)
def test_sizes(text: str, size: int) -> None:
    assert parse_size("--min-free", text) == size


@pytest.mark.parametrize("text", ["", "x", "10 apples", "-1", "1e3"])
def test_what_is_no_size_and_no_time_is_named(text: str) -> None:
    with pytest.raises(RecipeError, match="--min-free"):
        parse_size("--min-free", text)
    with pytest.raises(RecipeError, match="--wait"):
        parse_time("--wait", text)


@pytest.mark.parametrize(
    ("text", "seconds"), [("90", 90), ("15min", 900), ("2h", 7200), ("1.5m", 90), ("1d", 86400)]
)
def test_times(text: str, seconds: float) -> None:
    assert parse_time("--wait", text) == seconds
