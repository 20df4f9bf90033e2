"""What doctor makes of facts: the level and the state of everything that can be found, in words."""

from __future__ import annotations

import dataclasses
import itertools
import json
import string
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from luthier.accelerators import Accelerator, Survey
from luthier.accelerators.values import Driver
from luthier.language import LANGUAGES, columns, places
from luthier.machine import wording
from luthier.machine.doctor import Checkup
from luthier.machine.facts import (
    Clock,
    Cpus,
    Gpus,
    LeaseFolder,
    Limit,
    Memory,
    Package,
    Ports,
    Processes,
    Python,
    Space,
    Variables,
    Vision,
)
from luthier.machine.findings import LEVELS, Finding
from luthier.machine.judging import TOPICS, Facts, judge
from luthier.machine.probes import Compiled, Folder, Group, Host, Torch, Unknown

MIB, GIB = 2**20, 2**30
NOW = 1_800_000_000.0
CPU = Torch(version="2.13.0+cpu", threads=2)
CUDA = Torch(
    version="2.13.0+cu128",
    cuda="12.8",
    arches=("sm_80", "sm_90", "compute_90"),
    available=True,
    threads=2,
)
FOLDER = Folder(
    path="/runs",
    kind="ext4",
    free=100 * GIB,
    files=1_000_000,
    speed=200.0 * MIB,
    skew=0.0,
    links=True,
    renames=True,
    syncs=True,
    locks=True,
)
HEALTHY = Facts(
    python=Python("3.12.1", 64, "Linux x86_64"),
    torch=CPU,
    vision=Vision("0.28.0+cpu", "2.13.0"),
    compiled=Compiled(),
    packages=(Package("torch", ">=2.4", "2.13.0"), Package("numpy", ">=1.26", "2.4.6")),
    gpus=Gpus(Survey(), 0),
    nccl=None,
    leases=LeaseFolder("/run/lock/luthier", None),
    cpus=Cpus(2, 2, None),
    memory=Memory(32 * GIB, None, 20 * GIB, 0, 0),
    shared_memory=Space("/shm", 16 * GIB, 16 * GIB, True),
    open_files=Limit(1024, 4096),
    processes=Processes(None),
    temporary=Space("/temporary", 100 * GIB, 50 * GIB, True),
    clock=Clock(NOW, NOW - 1000, 0.0),
    folder=FOLDER,
    host=Host("here", ("127.0.1.1",)),
    ports=Ports(None, True),
    gloo=Group(sum=3.0),
    variables=Variables({}, ()),
)


def cards(*capabilities: tuple[int, int], driver: Driver | None = None) -> Gpus:
    found = [
        Accelerator(index=i, uuid=f"GPU-{i}", name=f"H{i}", capability=one, total=GIB, free=GIB)
        for i, one in enumerate(capabilities)
    ]
    return Gpus(Survey(tuple(found), driver=driver or Driver("580.65.06", (13, 0))), len(found))


def on_cuda(torch: Torch = CUDA, gpus: Gpus | None = None, **others: Any) -> Facts:
    gpus = cards((9, 0)) if gpus is None else gpus
    nccl = Group(sum=1.0, version="2.27.3")
    return replace(HEALTHY, **{"torch": torch, "gpus": gpus, "nccl": nccl} | others)


def environment(**values: str) -> Facts:
    return replace(HEALTHY, variables=Variables(values, ()))


def folder(**changes: Any) -> Facts:
    return replace(HEALTHY, folder=replace(FOLDER, **changes))


def unknown(kind: str) -> Unknown:
    told: dict[str, dict[str, object]] = {
        "timeout": {"seconds": "60"},
        "signal": {"signal": "SIGSEGV"},
        "exit": {"status": 3, "error": "ImportError: libfoo"},
        "error": {"error": "rubbish"},
    }
    return Unknown(kind, told[kind])


def space(size: int, free: int | None = None, writable: bool = True) -> Space:
    return Space("/place", size, size if free is None else free, writable)


OLD_DRIVER = Driver("470.57.02", (11, 4))
BLIND = replace(CUDA, available=False)
EXTRA = Package("timm", ">=1.0", "0.9.2", "timm")

# Facts, and what is found beside what is as it should be.
CASES: list[tuple[Facts, str, str, str]] = [
    (replace(HEALTHY, python=Python("3.10.2", 64, "Linux")), "python", "fault", "old"),
    (replace(HEALTHY, python=Python("3.12.2", 32, "Linux")), "python", "fault", "narrow"),
    (replace(HEALTHY, torch=Torch(missing=True)), "torch", "fault", "missing"),
    (replace(HEALTHY, torch=Torch(error="OSError: no")), "torch", "fault", "broken"),
    *((replace(HEALTHY, torch=unknown(k)), "torch", "fault", k) for k in ("timeout", "signal")),
    *((replace(HEALTHY, torch=unknown(k)), "torch", "fault", k) for k in ("exit", "error")),
    (
        replace(HEALTHY, torch=Torch(version="2.3.1"), vision=Vision("0.18.1", None)),
        *("torch", "fault", "old"),
    ),
    (replace(HEALTHY, vision=Vision(None, None)), "torchvision", "fault", "missing"),
    (replace(HEALTHY, vision=Vision("0.28.0", "2.12.0")), "torchvision", "warning", "pair"),
    (replace(HEALTHY, vision=Vision("0.27.0", None)), "torchvision", "warning", "pair"),
    (
        replace(HEALTHY, compiled=Compiled(operators="no")),
        *("torchvision_operators", "warning", "broken"),
    ),
    (replace(HEALTHY, compiled=Compiled(decoders="no")), "image_decoders", "warning", "broken"),
    (
        replace(HEALTHY, packages=(Package("pillow", ">=10.1", "9.0"),)),
        *("packages", "fault", "wrong"),
    ),
    (
        replace(HEALTHY, packages=(Package("pillow", ">=10.1", None),)),
        *("packages", "fault", "wrong"),
    ),
    (replace(HEALTHY, packages=(EXTRA,)), "extras", "warning", "outside"),
    (replace(HEALTHY, gpus=Gpus(Survey(), 2)), "driver", "warning", "absent"),
    (
        replace(HEALTHY, gpus=Gpus(Survey(driver=Driver(error="mismatch")), 1)),
        *("driver", "fault", "silent"),
    ),
    (replace(HEALTHY, gpus=cards((9, 0))), "driver", "warning", "cpu_build"),
    (on_cuda(BLIND, cards((9, 0), driver=OLD_DRIVER)), "driver", "fault", "old"),
    (
        on_cuda(replace(BLIND, cuda="14.1"), cards((9, 0), driver=Driver("600.1", (13, 2)))),
        *("driver", "fault", "old"),
    ),
    (on_cuda(BLIND), "cuda", "fault", "broken"),
    (on_cuda(replace(BLIND, reason="error 802")), "cuda", "fault", "broken"),
    (on_cuda(gpus=cards((7, 5))), "kernels", "fault", "none"),
    (on_cuda(gpus=cards((9, 0), (10, 0))), "kernels", "warning", "compiled"),
    (on_cuda(nccl=None), "nccl", "warning", "full"),
    (on_cuda(nccl=Group(absent=True)), "nccl", "warning", "absent"),
    (on_cuda(nccl=Group(error="NCCL error")), "nccl", "fault", "broken"),
    (on_cuda(nccl=Group(sum=7.0)), "nccl", "fault", "broken"),
    *((on_cuda(nccl=unknown(kind)), "nccl", "fault", kind) for kind in ("timeout", "signal")),
    *((on_cuda(nccl=unknown(kind)), "nccl", "warning", kind) for kind in ("exit", "error")),
    (
        on_cuda(variables=Variables({"CUDA_VISIBLE_DEVICES": "7"}, ())),
        *("visible_cards", "warning", "nothing"),
    ),
    (
        on_cuda(variables=Variables({"CUDA_VISIBLE_DEVICES": "0,7,1"}, ())),
        *("visible_cards", "warning", "fewer"),
    ),
    (replace(HEALTHY, leases=LeaseFolder(None, "no place")), "leases", "warning", "broken"),
    (replace(HEALTHY, cpus=Cpus(64, 1, 1.5)), "cpus", "warning", "crowded"),
    (replace(HEALTHY, cpus=Cpus(64, 1, None)), "cpus", "warning", "crowded"),
    (replace(HEALTHY, memory=Memory(8 * GIB, 3 * GIB, GIB)), "memory", "warning", "little"),
    (replace(HEALTHY, memory=Memory(8 * GIB, None, GIB, GIB, GIB)), "memory", "warning", "little"),
    (replace(HEALTHY, memory=Memory(8 * GIB, None, 9 * MIB)), "memory", "fault", "none"),
    (replace(HEALTHY, shared_memory=space(64 * MIB)), "shared_memory", "warning", "small"),
    (replace(HEALTHY, shared_memory=space(9 * GIB, MIB)), "shared_memory", "warning", "full"),
    (replace(HEALTHY, shared_memory=space(0, 0, False)), "shared_memory", "fault", "absent"),
    (replace(HEALTHY, open_files=Limit(256, None)), "open_files", "warning", "few"),
    (replace(HEALTHY, open_files=Limit(256, 512)), "open_files", "warning", "capped"),
    (replace(HEALTHY, open_files=Limit(32, 2048)), "open_files", "fault", "few"),
    (replace(HEALTHY, open_files=Limit(32, 32)), "open_files", "fault", "capped"),
    (replace(HEALTHY, processes=Processes(100, "pids.max")), "processes", "warning", "few"),
    (replace(HEALTHY, processes=Processes(3, "ulimit -u")), "processes", "fault", "few"),
    (replace(HEALTHY, temporary=None), "temporary", "fault", "absent"),
    (replace(HEALTHY, temporary=space(9 * GIB, 100 * MIB)), "temporary", "warning", "full"),
    (replace(HEALTHY, temporary=space(9 * GIB, MIB)), "temporary", "fault", "full"),
    (replace(HEALTHY, clock=Clock(0.0, NOW, 0.0)), "clock", "fault", "early"),
    (replace(HEALTHY, clock=Clock(NOW, NOW - 9, -3.0)), "clock", "warning", "jump"),
    (folder(error="Read-only file system"), "folder", "fault", "unwritable"),
    (folder(kind="nfs4"), "folder", "warning", "network"),
    (folder(kind="tmpfs"), "folder", "warning", "volatile"),
    (replace(HEALTHY, folder=unknown("timeout")), "folder", "fault", "timeout"),
    (folder(free=GIB), "free_space", "warning", "little"),
    (folder(free=MIB), "free_space", "fault", "little"),
    (folder(files=5000), "free_space", "warning", "few_files"),
    (folder(files=5), "free_space", "fault", "few_files"),
    (folder(speed=1.0 * MIB), "write_speed", "warning", "slow"),
    (folder(renames=False), "rename", "fault", "refused"),
    (folder(locks=False), "file_locks", "fault", "refused"),
    (folder(links=False), "hard_links", "warning", "refused"),
    (folder(syncs=False), "folder_sync", "warning", "refused"),
    (folder(skew=-30.0), "file_times", "warning", "skewed"),
    (replace(HEALTHY, host=Host("here", error="unknown")), "hostname", "warning", "unresolved"),
    (replace(HEALTHY, host=Host("here")), "hostname", "warning", "unresolved"),
    (replace(HEALTHY, host=unknown("timeout")), "hostname", "warning", "timeout"),
    (replace(HEALTHY, ports=Ports(None, False)), "ports", "warning", "taken"),
    (replace(HEALTHY, ports=Ports("denied", False)), "ports", "fault", "none"),
    (replace(HEALTHY, gloo=Group(absent=True)), "gloo", "warning", "absent"),
    (replace(HEALTHY, gloo=Group(error="refused")), "gloo", "fault", "broken"),
    (replace(HEALTHY, gloo=Group(sum=4.0)), "gloo", "fault", "broken"),
    *((replace(HEALTHY, gloo=unknown(k)), "gloo", "fault", k) for k in ("timeout", "signal")),
    (environment(OMP_NUM_THREADS="many"), "thread_variables", "warning", "wrong"),
    (environment(MKL_NUM_THREADS="0"), "thread_variables", "warning", "wrong"),
    (environment(CUDA_LAUNCH_BLOCKING="1"), "debug_variables", "warning", "on"),
    (environment(TORCH_DISTRIBUTED_DEBUG="DETAIL"), "debug_variables", "warning", "on"),
    (environment(RANK="0", WORLD_SIZE="2"), "rank_variables", "warning", "left"),
    (
        environment(PYTORCH_CUDA_ALLOC_CONF="rubbish"),
        *("allocator_variables", "warning", "malformed"),
    ),
    (
        replace(
            environment(PYTORCH_ALLOC_CONF="max_split:1"),
            torch=replace(CPU, allocator="Unrecognized key"),
        ),
        *("allocator_variables", "warning", "refused"),
    ),
    (
        replace(HEALTHY, variables=Variables({"LD_PRELOAD": "/x.so"}, ("/x.so",))),
        *("preload", "warning", "absent"),
    ),
]
FINE: list[tuple[Facts, str, str]] = [  # other ways of being as it should be
    (on_cuda(), "cuda", "ok"),
    (on_cuda(), "kernels", "ok"),
    (on_cuda(), "nccl", "ok"),
    (on_cuda(gpus=cards((9, 0), driver=OLD_DRIVER)), "driver", "ok"),  # torch computes: it will do
    (on_cuda(gpus=cards((8, 6))), "kernels", "ok"),  # sm_80 runs on 8.6
    (on_cuda(replace(CUDA, cuda="13.0"), cards((9, 0))), "driver", "ok"),
    (replace(HEALTHY, gpus=Gpus(Survey(), 0)), "driver", "none"),
    (on_cuda(variables=Variables({"CUDA_VISIBLE_DEVICES": ""}, ())), "visible_cards", "hidden"),
    (on_cuda(variables=Variables({"CUDA_VISIBLE_DEVICES": "0"}, ())), "visible_cards", "ok"),
    (folder(kind="overlay"), "folder", "layer"),
    (replace(HEALTHY, open_files=Limit(None, None)), "open_files", "ok"),
    (replace(HEALTHY, vision=Vision("0.28.0", None)), "torchvision", "ok"),
    (replace(HEALTHY, python=Python("3.11.2+", 64, "Linux")), "python", "ok"),
    (
        replace(HEALTHY, torch=Torch(version="2.14.0.dev1"), vision=Vision("0.29.0.dev2", None)),
        *("torchvision", "ok"),
    ),
    (
        environment(OMP_NUM_THREADS="4,2", CUDA_LAUNCH_BLOCKING="0", TORCH_DISTRIBUTED_DEBUG="OFF"),
        *("environment", "ok"),
    ),
    (environment(RANK="0", TORCHELASTIC_RUN_ID="job"), "environment", "ok"),
    (
        environment(PYTORCH_CUDA_ALLOC_CONF="roundup_power2_divisions:[256:1,>:2],backend:native,"),
        *("environment", "ok"),
    ),
]
EVERY = [*(facts for facts, *_ in CASES), *(facts for facts, *_ in FINE), HEALTHY]


def states(facts: Facts) -> set[tuple[str, str, str]]:
    return {(finding.name, finding.level, finding.state) for finding in judge(facts)}


def test_nothing_is_wrong_with_a_healthy_machine() -> None:
    assert {finding.level for finding in judge(HEALTHY)} == {"ok"}
    assert {finding.level for finding in judge(on_cuda())} == {"ok"}


@pytest.mark.parametrize(
    ("facts", "name", "level", "state"), CASES, ids=[f"{n}-{lv}-{s}" for _, n, lv, s in CASES]
)
def test_what_is_wrong_is_found_and_nothing_else(
    facts: Facts, name: str, level: str, state: str
) -> None:
    found = {one for one in states(facts) if one[1] != "ok"}
    assert found == {(name, level, state)}


@pytest.mark.parametrize(("facts", "name", "state"), FINE, ids=[f"{n}-{s}" for _, n, s in FINE])
def test_what_only_looks_wrong_is_not_held_against_a_machine(
    facts: Facts, name: str, state: str
) -> None:
    assert (name, "ok", state) in states(facts)


@pytest.mark.parametrize("torch", ["2.4.0", "2.5.1", "2.9.1", "2.10.0", "2.13.0+cu130"])
def test_torchvision_is_15_minor_versions_apart_from_torch(torch: str) -> None:
    _, minor, _ = torch.split(".", 2)
    pair = replace(HEALTHY, torch=Torch(version=torch, cuda=None, threads=1))
    for other in range(19, 32):
        found = states(replace(pair, vision=Vision(f"0.{other}.0", None)))
        assert (("torchvision", "ok", "ok") in found) == (other == int(minor) + 15)


@pytest.mark.parametrize(
    ("arches", "capability", "state"),
    [
        (["sm_90"], (9, 0), "ok"),
        (["sm_80"], (8, 9), "ok"),
        (["sm_89"], (8, 0), "none"),
        (["sm_80"], (9, 0), "none"),
        (["sm_90a"], (9, 0), "ok"),
        (["sm_100a"], (10, 3), "none"),
        (["sm_100f"], (10, 3), "ok"),
        (["sm_120"], (12, 0), "ok"),
        (["compute_90"], (12, 0), "compiled"),
        (["compute_90"], (8, 0), "none"),
        (["compute_90a"], (10, 0), "none"),
        (["compute_80", "sm_90"], (9, 0), "ok"),
    ],
)
def test_a_kernel_runs_on_later_cards_of_its_generation(
    arches: list[str], capability: tuple[int, int], state: str
) -> None:
    torch = replace(CUDA, arches=tuple(arches))
    assert {s for n, _, s in states(on_cuda(torch, cards(capability))) if n == "kernels"} == {state}


@pytest.mark.parametrize("field", [f.name for f in dataclasses.fields(Facts) if f.name != "nccl"])
@pytest.mark.parametrize("kind", ["timeout", "signal", "exit", "error"])
def test_what_cannot_be_found_out_is_told(field: str, kind: str) -> None:
    found = states(replace(HEALTHY, **{field: unknown(kind)}))
    assert {state for _, level, state in found if level != "ok"} == {kind}


def words_of(finding: Finding) -> list[str]:
    said = [wording.text(finding, language) for language in LANGUAGES]
    for language in LANGUAGES:
        assert wording.title(finding, language)
        assert (wording.cure(finding, language) is None) == (finding.level == "ok") or (
            finding.state in ("exit", "error")
        )
    return said


@pytest.mark.parametrize("facts", EVERY)
def test_each_finding_has_words_and_a_cure_in_both_languages(facts: Facts) -> None:
    for finding in judge(facts):
        english, chinese = words_of(finding)
        assert finding.state not in (english, chinese) or finding.state in finding.facts.values()
        assert "{" not in english + chinese
        assert "None" not in english + chinese
        assert chinese != english or finding.name in ("clock", "free_space")


def _sentences(entry: Any) -> list[str]:
    return [entry] if isinstance(entry, str) else list(entry)


def _pairs() -> list[tuple[str, Any, Any]]:
    """Return all that is said in both languages, by its place in the table."""
    found = []
    todo: list[tuple[str, Any]] = [("", wording.table())]
    while todo:
        path, entry = todo.pop()
        if not isinstance(entry, dict):
            continue
        if "en" in entry or "zh" in entry:
            found.append((path, entry.get("en"), entry.get("zh")))
        todo += [(f"{path}.{name}", value) for name, value in entry.items()]
    return found


@pytest.mark.parametrize(("path", "english", "chinese"), _pairs(), ids=[p for p, _, _ in _pairs()])
def test_both_languages_say_the_same_facts(path: str, english: Any, chinese: Any) -> None:
    ours, theirs = _sentences(english), _sentences(chinese)
    assert [places(sentence) for sentence in ours] == [places(sentence) for sentence in theirs]
    for sentence in theirs:
        for before, mark in itertools.pairwise(sentence):  # Chinese punctuation after Chinese
            assert not ("\u4e00" <= before <= "\u9fff" and mark in ",;:?!"), path
    for sentence in ours:
        assert all(sign in string.printable for sign in sentence.replace("→", "")), path


def test_each_word_of_the_table_is_used() -> None:
    used = {(finding.name, finding.state) for facts in EVERY for finding in judge(facts)}
    own = {
        (name, state)
        for name, entry in wording.table()["checks"].items()
        for state in entry.keys() - {"title"}
    }
    assert own <= used
    assert set(wording.table()["checks"]) == {name for names in TOPICS.values() for name in names}
    assert set(wording.table()["topics"]) == set(TOPICS)
    assert set(wording.table()["levels"]) == set(LEVELS)
    assert set(wording.table()["unchecked"]) == {"timeout", "signal", "exit", "error"}


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("width", [60, 80, 120])
def test_a_list_on_a_terminal_is_no_wider_than_it(language: Any, width: int) -> None:
    found = tuple(finding for facts, *_ in CASES for finding in judge(facts))
    for line in Checkup(found, language).lines(width=width):
        # Only a word that is longer than all the room sticks out.
        assert columns(line) <= width or len(line.split(maxsplit=2)[-1].split()) == 1
        assert line.strip()[:1] not in tuple("，。：；、）")  # noqa: RUF001 - Chinese signs


def test_each_finding_belongs_to_one_topic_and_is_told_once() -> None:
    names = [name for names in TOPICS.values() for name in names]
    assert len(names) == len(set(names))
    for facts in EVERY:
        found = judge(facts)
        order = [names.index(finding.name) for finding in found]
        assert order == sorted(order)
        lines = list(Checkup(found).lines())
        assert sum(line.startswith("  ") and "→" not in line[:14] for line in lines) == len(found)


some = st.none() | st.integers(0, 2**45)
FACTS = st.builds(
    Facts,
    python=st.builds(
        Python,
        version=st.sampled_from(["3.11.2+", "3.14.0rc1", "3.10.1", "odd"]),
        bits=st.sampled_from([32, 64]),
        system=st.text(),
    ),
    torch=st.builds(
        Torch,
        version=st.sampled_from(["2.13.0+cu128", "2.4.1", "2.14.0a0+git123", "mine", None]),
        cuda=st.sampled_from([None, "11.8", "12.8", "13.0", "19.1", "odd"]),
        arches=st.lists(st.sampled_from(["sm_50", "sm_90a", "compute_120", "odd"])).map(tuple),
        error=st.none() | st.text(),
    ),
    vision=st.builds(
        Vision,
        version=st.sampled_from(["0.28.0", "0.19.0a0", "odd", None]),
        built_for=st.sampled_from([None, "2.13.0", "2.14.0.dev1", "2.13.*"]),
    ),
    compiled=st.builds(Compiled, operators=st.none() | st.text(), decoders=st.none() | st.text()),
    packages=st.lists(
        st.builds(
            Package,
            name=st.text(min_size=1),
            wanted=st.sampled_from([">=1.0", "==2.0", ""]),
            version=st.sampled_from([None, "1.0", "2.0.post1", "odd"]),
            extra=st.none() | st.text(),
        )
    ).map(tuple),
    gpus=st.builds(
        cards,
        st.tuples(st.integers(3, 13), st.integers(0, 9)),
        driver=st.builds(
            Driver,
            version=st.sampled_from([None, "525.60", "580.65.06", "odd"]),
            cuda=st.none() | st.tuples(st.integers(10, 14), st.integers(0, 9)),
            error=st.none() | st.text(),
        ),
    ),
    memory=st.builds(Memory, total=some, limit=some, available=some, swap=some, swapped=some),
    open_files=st.none() | st.builds(Limit, soft=some, hard=some),
    processes=st.builds(Processes, left=some, by=st.text()),
    cpus=st.builds(
        Cpus, machine=st.integers(1), allowed=st.integers(1), quota=st.none() | st.floats(0.01, 99)
    ),
    clock=st.builds(
        Clock, now=st.floats(0, 1e11), built=st.floats(0, 1e11), jump=st.floats(-1e9, 1e9)
    ),
    folder=st.builds(Folder, path=st.text(), kind=st.none() | st.text(), free=st.integers(0)),
    variables=st.builds(
        Variables,
        values=st.dictionaries(
            st.sampled_from(
                ["OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES", "PYTORCH_CUDA_ALLOC_CONF", "RANK"]
            ),
            st.text(),
        ),
        not_there=st.lists(st.text()).map(tuple),
    ),
    **{
        field: st.just(getattr(HEALTHY, field))
        for field in ("nccl", "leases", "shared_memory", "temporary", "host", "ports", "gloo")
    },
)


@given(FACTS, st.sampled_from(LANGUAGES))
def test_whatever_the_facts_are_there_are_findings_that_can_be_told(
    facts: Facts, language: Any
) -> None:
    found = Checkup(judge(facts), language)
    assert "error" not in {finding.state for finding in found.findings}  # all facts make sense
    assert found.sound == ("fault" not in {finding.level for finding in found.findings})
    told = json.loads(json.dumps(found.as_dict()))
    assert [one["level"] for one in told["findings"]] == [f.level for f in found.findings]
    assert str(found).endswith(found.sum)
    for script in found.fixes():
        reason, *commands = script.split("\n")
        assert reason.startswith("# ")
        assert len(commands) <= 1 or "'" in script  # a name with a line break is quoted


def test_facts_that_make_no_sense_end_no_checkup() -> None:
    nonsense: Any = replace(HEALTHY, memory="much", clock=Clock(1e30, 0.0, 0.0))
    found = {finding.name: finding.state for finding in judge(nonsense)}
    assert found["memory"] == found["clock"] == "error"
    assert found["gloo"] == "ok"


@given(st.integers(0, 2**45), st.integers(0, 2**45))
def test_more_memory_is_never_worse(one: int, other: int) -> None:
    levels = []
    for available in sorted((one, other)):
        facts = replace(HEALTHY, memory=Memory(2**46, None, available))
        levels.append([f.level for f in judge(facts) if f.name == "memory"])
    assert LEVELS.index(levels[1][0]) <= LEVELS.index(levels[0][0])


def test_a_command_that_would_cure_is_quoted_for_the_shell() -> None:
    hostile = folder(free=MIB, path="/runs/$(touch x); 'y'")
    (script,) = Checkup(judge(hostile)).fixes()
    assert script.split("\n")[1].startswith(
        "du -xh --max-depth=1 '/runs/$(touch x); '\"'\"'y'\"'\"''"
    )
    assert list(Checkup(judge(HEALTHY)).fixes()) == ["# no command would change anything here"]
