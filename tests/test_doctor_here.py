"""doctor at work: real processes, limits, file systems, namespaces, and torches that are broken."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import luthier
from luthier.errors import RecipeError
from luthier.machine import facts, probes
from luthier.machine.allowed import memory_limit, processes_left
from luthier.machine.probes import Torch, Unknown, file_system
from stand_in import Driver, line_of

LIMIT = 60.0
DOCTOR = [sys.executable, "-m", "luthier", "doctor"]
HOLLOW = """
import sys, types
__version__ = "{version}"
version = types.SimpleNamespace(cuda=None, hip=None)
cuda = types.SimpleNamespace(is_available=lambda: False, get_arch_list=lambda: [])
get_num_threads = lambda: 1
_C = None
distributed = sys.modules["torch.distributed"] = types.ModuleType("torch.distributed")
distributed.is_available = lambda: False
"""
FOLDER = Path(probes.__file__).with_name("children") / "folder.py"
ROOT = pytest.mark.skipif(os.getuid() != 0, reason="only root makes namespaces and mounts")


def call(
    *words: str | Path, before: tuple[str, ...] = (), status: int = 0, **variables: str
) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [*before, *DOCTOR, *map(str, words)],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | variables,
    )
    assert done.returncode == status, done.stderr + done.stdout
    assert "Traceback" not in done.stderr
    return done


def found(
    out: Path, *words: str, before: tuple[str, ...] = (), status: int = 0, **variables: str
) -> dict[str, dict[str, Any]]:
    """Return the findings of a command by their names."""
    done = call("--json", "--out", out, *words, before=before, status=status, **variables)
    return {one["name"]: one for one in json.loads(done.stdout)["findings"]}


@pytest.fixture
def quick(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put a torch of no substance in place, where a test is about something else."""
    torch_that(tmp_path_factory.mktemp("quick"), HOLLOW.format(version="2.13.0"), monkeypatch)


# --- the command ------------------------------------------------------------------------------


@pytest.mark.usefixtures("quick")
def test_a_checkup_leaves_nothing_behind_and_says_the_same_in_both_languages(
    tmp_path: Path,
) -> None:
    english = found(tmp_path / "not" / "there", LUTHIER_LANG="en")
    chinese = found(tmp_path / "not" / "there", LUTHIER_LANG="zh")
    assert list(tmp_path.iterdir()) == []
    assert [(n, f["level"]) for n, f in english.items()] == [
        (n, f["level"]) for n, f in chinese.items()
    ]
    assert english["folder"]["facts"]["path"] == str(tmp_path)
    assert english["gloo"]["text"].startswith("is not in this torch")
    assert chinese["gloo"]["text"].startswith("当前 torch 不含 Gloo")


@pytest.mark.usefixtures("quick")
def test_the_list_in_a_pipe_is_plain_and_ends_with_the_sum(tmp_path: Path) -> None:
    lines = call("--out", tmp_path, LUTHIER_LANG="zh").stdout.splitlines()
    assert lines[0] == "软件"
    assert any(line.startswith("  正常  Python：") for line in lines)
    assert lines[-1].startswith("共检查 ")
    assert lines[-1].endswith("0 项故障")
    assert "\033" not in "".join(lines)


@pytest.mark.usefixtures("quick")
def test_a_stream_without_chinese_shows_it_escaped(tmp_path: Path) -> None:
    ascii_only = {"LC_ALL": "C", "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
    done = call("--out", tmp_path, LUTHIER_LANG="zh", **ascii_only)
    assert done.stdout.startswith(r"\u8f6f\u4ef6")
    assert done.stdout.isascii()


@pytest.mark.usefixtures("quick")
def test_commands_that_would_cure_are_printed_and_not_run(tmp_path: Path) -> None:
    file = tmp_path / "x'; touch gone; '"
    file.write_text("")
    wrong = {"CUDA_LAUNCH_BLOCKING": "1", "OMP_NUM_THREADS": "2"}
    lines = call("--fix", "--out", file, status=1, **wrong).stdout.splitlines()
    assert "unset CUDA_LAUNCH_BLOCKING" in lines
    assert all(line.startswith("#") for line in lines[::2])
    script = tmp_path / "script"
    script.write_text("\n".join(line for line in lines if line.startswith("df ")))
    subprocess.run(["sh", script], cwd=tmp_path, capture_output=True, check=False)
    assert sorted(tmp_path.iterdir()) == sorted([file, script])


@pytest.mark.parametrize(
    "words",
    [
        ["--json", "--fix"],
        ["--out", "s3://bucket/runs"],
        ["--timeout", "0"],
        ["--timeout", "long"],
        ["--frobnicate"],
    ],
)
def test_a_wrong_request_is_refused(words: list[str]) -> None:
    assert call(*words, status=2).stdout == ""


def test_the_function_is_the_command(tmp_path: Path) -> None:
    checkup = luthier.doctor(tmp_path, timeout="60s")
    assert isinstance(checkup, luthier.Checkup)
    assert checkup.sound
    levels = {finding.name: finding.level for finding in checkup.findings}
    assert levels["torch"] == levels["gloo"] == levels["rename"] == "ok"
    assert str(checkup).endswith("0 with a fault")
    with pytest.raises(RecipeError):
        luthier.doctor("s3://bucket")


@pytest.mark.usefixtures("quick")
def test_a_folder_that_was_removed_under_the_program_is_a_fault(tmp_path: Path) -> None:
    removed = ("sh", "-c", 'mkdir gone; cd gone; rmdir ../gone; exec "$@"', "-")
    before = ("sh", "-c", f'cd {tmp_path}; exec "$@"', "-", *removed)
    told = found(Path("runs"), before=before, status=1)
    assert told["folder"]["state"] == "unwritable"


@pytest.mark.usefixtures("quick")
def test_a_terminal_has_colours_unless_they_are_not_wanted(tmp_path: Path) -> None:
    for variables, coloured in (({}, True), ({"NO_COLOR": "1"}, False)):
        ours, theirs = pty.openpty()
        with subprocess.Popen(
            [*DOCTOR, "--out", tmp_path],
            stdout=theirs,
            env=os.environ | {"COLUMNS": "120", "LINES": "20"} | variables,
        ):
            os.close(theirs)
            shown = b""
            with contextlib.suppress(OSError):  # how a terminal ends
                while piece := os.read(ours, 1 << 16):
                    shown += piece
            os.close(ours)
        assert (b"\033[32mok" in shown) == coloured
        assert max(map(len, re.sub(rb"\033\[\d+m", b"", shown).decode().splitlines())) <= 120


# --- torch ------------------------------------------------------------------------------------

BROKEN = {
    "missing": ("raise ModuleNotFoundError('torch', name='torch')", "missing"),
    "part missing": ("import _not_there_", "broken"),
    "cannot load": ("raise OSError('libcudart.so.13: cannot open')", "broken"),
    "crashes": ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "signal"),
    "ends": ("import os; os._exit(3)", "exit"),
    "exits": ("raise SystemExit('no licence')", "exit"),
    "is something else": ("", "exit"),
    "prints, and ends": ("import os; print('[1]', flush=True); os._exit(0)", "error"),
}


def torch_that(folder: Path, does: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "torch").mkdir()
    (folder / "torch" / "__init__.py").write_text(does + "\n")
    monkeypatch.setenv("PYTHONPATH", str(folder), prepend=os.pathsep)


@pytest.mark.parametrize("kind", BROKEN)
def test_a_torch_that_cannot_be_imported_is_a_fault(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    does, state = BROKEN[kind]
    torch_that(tmp_path, does, monkeypatch)
    told = probes.torch(LIMIT)
    if isinstance(told, Unknown):
        assert told.kind == state
    else:
        assert state == ("missing" if told.missing else "broken")
        assert told.missing or told.error


def test_a_torch_that_crashes_is_one_fault_and_no_crash(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch_that(tmp_path, BROKEN["crashes"][0], monkeypatch)
    told = found(tmp_path, status=1)
    assert [name for name, one in told.items() if one["level"] == "fault"] == ["torch"]
    assert told["torch"]["facts"] == {"signal": "SIGSEGV"}
    assert "gloo" not in told


def test_a_torch_that_hangs_is_waited_for_no_longer_than_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch_that(tmp_path, "import signal; signal.pause()", monkeypatch)
    assert probes.torch(0.5) == Unknown("timeout", {"seconds": "0.5"})
    assert probes.gloo(0.5) == Unknown("timeout", {"seconds": "0.5"})


def test_an_old_torch_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch_that(tmp_path, HOLLOW.format(version="1.13.1"), monkeypatch)
    told = found(tmp_path, status=1)
    assert told["torch"]["state"] == "old"
    assert told["torch"]["facts"]["version"] == "1.13.1"


def test_a_long_answer_is_read_to_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    many = "cuda.get_arch_list = lambda: [f'sm_{n}' for n in range(500)]\nprint('hello')"
    torch_that(tmp_path, HOLLOW.format(version="2.13.0") + many, monkeypatch)
    told = probes.torch(LIMIT)
    assert isinstance(told, Torch)
    assert len(told.arches) == 500


def test_settings_that_torch_refuses_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTORCH_CUDA_ALLOC_CONF", "max_split_size_mb:large")
    told = probes.torch(LIMIT)
    assert isinstance(told, Torch)
    if told.allocator is None:
        pytest.skip("this torch has no way to try the settings of its allocator")
    monkeypatch.setenv("PYTORCH_CUDA_ALLOC_CONF", "max_split_size_mb:128")
    told = probes.torch(LIMIT)
    assert isinstance(told, Torch)
    assert told.allocator is None


def test_the_parts_of_torchvision_are_found_as_luthier_finds_them() -> None:
    from luthier import vision  # noqa: PLC0415 - torch comes with it

    told = probes.compiled(LIMIT)
    assert isinstance(told, probes.Compiled)
    assert (told.operators is None) == vision.compiled_part_loads("_C")
    assert (told.decoders is None) == vision.compiled_part_loads("image")


def test_a_package_that_the_checkup_itself_needs_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "packaging.py").write_text("raise ModuleNotFoundError('no', name='packaging')")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    assert "needs the package 'packaging'" in call(status=2).stderr


# --- packages ---------------------------------------------------------------------------------


def test_packages_are_those_of_the_metadata(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    info = tmp_path / "cello-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: cello\nVersion: 1.0\nProvides-Extra: bow\n"
        "Requires-Dist: numpy>=99\nRequires-Dist: rosin==1.0; extra == 'bow'\n"
        "Requires-Dist: cello[other]; extra == 'bow'\n"
        "Requires-Dist: winonly; sys_platform == 'nowhere'\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    numpy, rosin = facts.packages("cello")
    assert (numpy.name, numpy.wanted, numpy.extra) == ("numpy", ">=99", None)
    assert numpy.version is not None
    assert (rosin.name, rosin.version, rosin.extra) == ("rosin", None, "bow")


# --- cards ------------------------------------------------------------------------------------


@pytest.mark.usefixtures("quick")
def test_the_driver_says_its_version_and_what_is_wrong_with_it(
    driver: Driver, tmp_path: Path
) -> None:
    driver.has("driver 470.57.02 11040", line_of(0))
    print_it = "from luthier.machine.facts import gpus; print(gpus().survey.driver)"
    told = driver.call("-c", print_it)
    assert told.strip() == "Driver(version='470.57.02', cuda=(11, 4), error=None)"
    driver.has(line_of(0))
    assert "Driver(version=None, cuda=None, error=None)" in driver.call("-c", print_it)
    driver.has("error nvmlInitWithFlags 15")
    assert "error='GPU is lost'" in driver.call("-c", print_it)
    told = found(tmp_path, status=1, **driver.environment)
    assert told["driver"]["state"] == "silent"


@pytest.mark.usefixtures("quick")
def test_cards_that_torch_does_not_use_and_variables_that_hide_them(
    driver: Driver, tmp_path: Path
) -> None:
    torch = probes.torch(LIMIT)
    if isinstance(torch, Unknown) or torch.cuda is not None:
        pytest.skip("this torch is a build with CUDA")
    driver.has("driver 580.65.06 13000", line_of(0), line_of(1))
    environment = driver.environment | {"CUDA_VISIBLE_DEVICES": "0,5"}
    told = found(tmp_path, **environment)
    assert told["driver"]["state"] == "cpu_build"
    assert told["driver"]["facts"]["driver"] == "580.65.06"
    assert told["visible_cards"]["state"] == "fewer"
    assert "cuda" not in told


def test_cards_on_the_bus_are_counted_whatever_the_driver_says(tmp_path: Path) -> None:
    devices = {
        "0000:01:00.0": ("0x10de", "0x030200"),  # computes
        "0000:01:00.1": ("0x10de", "0x040300"),  # the sound of a card
        "0000:02:00.0": ("0x8086", "0x030000"),
    }
    for name, (vendor, kind) in devices.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "vendor").write_text(f"{vendor}\n")
        (tmp_path / name / "class").write_text(f"{kind}\n")
    (tmp_path / "0000:03:00.0").mkdir()
    assert facts.gpus(tmp_path).on_bus == 1


# --- limits -----------------------------------------------------------------------------------

GROUPS = {
    "v2": (
        "0::/job/step\n",
        {
            "job/memory.max": "1000",
            "job/memory.current": "1",
            "job/step/memory.max": "max",
            "job/pids.max": "100",
            "job/pids.current": "40",
            "job/step/pids.max": "max",
        },
    ),
    "v1": (
        "3:memory:/job\n2:pids:/job\n",
        {
            "memory/job/memory.limit_in_bytes": "1000",
            "memory/job/memory.usage_in_bytes": "5",
            "pids/job/pids.max": "100",
            "pids/job/pids.current": "40",
        },
    ),
}


@pytest.mark.parametrize("version", GROUPS)
def test_limits_of_control_groups_are_read(version: str, tmp_path: Path) -> None:
    own, files = GROUPS[version]
    (tmp_path / "own").write_text(own)
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text + "\n")
    place = tmp_path, tmp_path / "own"
    assert memory_limit(*place) == 1000
    assert processes_left(*place) == 60
    (tmp_path / "own").write_text("")
    assert memory_limit(*place) is processes_left(*place) is None


def test_memory_is_read_from_the_system(tmp_path: Path) -> None:
    told = tmp_path / "meminfo"
    told.write_text(
        "MemTotal: 90 kB\nMemAvailable: 5 kB\nSwapTotal: 8 kB\nSwapFree: 5 kB\nHugePages_Total: 0\n"
    )
    memory = facts.memory(told)
    assert (memory.total, memory.available) == (90 << 10, 5 << 10)
    assert (memory.swap, memory.swapped) == (8 << 10, 3 << 10)
    assert facts.memory(tmp_path / "absent").total is None


def limited(limits: str, code: str) -> str:
    """Return what Python prints under limits of a shell."""
    words = ["bash", "-c", f'{limits}; exec "$@"', "-", sys.executable, "-c", code]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.usefixtures("quick")
def test_the_limit_of_open_files_is_that_of_the_shell(tmp_path: Path) -> None:
    code = "from luthier.machine.facts import open_files; print(open_files())"
    assert limited("ulimit -Sn 200; ulimit -Hn 300", code) == "Limit(soft=200, hard=300)"
    under = ("bash", "-c", 'ulimit -n 200; exec "$@"', "-")
    told = found(tmp_path, before=under)
    assert told["open_files"]["state"] == "capped"
    assert told["open_files"]["facts"] == {"limit": 200, "hard": 200}


@ROOT
def test_the_limit_of_processes_is_the_users_and_not_roots() -> None:
    code = (
        "import os, resource; from luthier.machine.facts import processes; {}; print(processes())"
    )
    limits = "ulimit -u 50"
    nobody = "os.setuid(54321)"  # a user that has no other process
    assert limited(limits, code.format(nobody)) == "Processes(left=49, by='ulimit -u')"
    assert "ulimit -u" not in limited(limits, code.format("0"))


@pytest.mark.usefixtures("quick")
def test_environment_and_leases_that_cannot_be_used_are_told(tmp_path: Path) -> None:
    wrong = {
        "OMP_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "several",
        "RANK": "0",
        "LD_PRELOAD": "/nowhere/libnone.so",
        "LUTHIER_LEASES": "/proc/none/leases",
    }
    told = found(tmp_path, **wrong)
    assert told["thread_variables"]["facts"] == {"name": "MKL_NUM_THREADS", "value": "several"}
    assert told["rank_variables"]["facts"] == {"names": ["RANK"]}
    assert told["preload"]["facts"] == {"libraries": ["/nowhere/libnone.so"]}
    assert told["leases"]["level"] == "warning"
    assert "environment" not in told


# --- the folder -------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Give a file system of 6 MiB."""
    place = tmp_path / "small"
    place.mkdir()
    mount = shutil.which("mount")
    words = [mount or "mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", str(place)]
    if mount is None or os.getuid() or subprocess.run(words, check=False).returncode:
        pytest.skip("a small tmpfs cannot be mounted here")
    yield place
    subprocess.run(["umount", place], check=True)


@pytest.mark.usefixtures("quick")
def test_a_full_disk_is_a_fault_and_is_left_as_it_was(small_disk: Path) -> None:
    told = found(small_disk / "runs", status=1)
    assert told["folder"]["state"] == "unwritable"
    assert told["folder"]["facts"]["error"] == "No space left on device"
    assert list(small_disk.iterdir()) == []


@pytest.mark.usefixtures("quick")
def test_a_folder_in_memory_is_told(small_disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,size=300m", small_disk], check=True)
    told = found(small_disk)
    assert told["folder"]["state"] == "volatile"
    assert told["free_space"]["level"] == "warning"
    assert list(small_disk.iterdir()) == []


def test_a_folder_that_may_not_be_written_to_is_a_fault(tmp_path: Path) -> None:
    locked = tmp_path / "locked"
    locked.mkdir()
    locked.chmod(0o555)
    code = (
        "import os, pathlib; from luthier.machine.children.folder import look;"
        f" os.chdir({str(locked)!r}); os.getuid() or os.setuid(54321);"
        " print(look(pathlib.Path('.'))['error'])"
    )
    assert limited("true", code) == "Permission denied"


def test_a_check_that_is_ended_takes_away_what_it_has_made(tmp_path: Path) -> None:
    # It is held where it writes: as large a file as it wants is not allowed, and the signal comes.
    code = (
        "import runpy, sys, os, signal, threading\n"
        f"sys.argv = ['x', {str(tmp_path)!r}]\n"
        "os.fsync = lambda _: os.kill(os.getpid(), signal.SIGTERM)\n"
        f"runpy.run_path({str(FOLDER)!r}, run_name='__main__')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    assert done.returncode == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/home/me/runs", "nfs4"),
        ("/home/mellow", "ext4"),
        ("/", "ext4"),
        ("/with space/x", "tmpfs"),
        ("/twice", "overlay"),
    ],
)
def test_the_file_system_is_that_of_the_nearest_mount(path: str, kind: str) -> None:
    mounts = (
        "/dev/a / ext4 rw 0 0\nserver:/x /home/me nfs4 rw 0 0\n"
        "tmpfs /with\\040space tmpfs rw 0 0\nx /twice xfs rw 0 0\ny /twice overlay rw 0 0\n"
    )
    assert file_system(path, mounts) == kind
    assert file_system(path, "") is None


# --- the network ------------------------------------------------------------------------------


def unshared(kind: str, *then: str) -> tuple[str, ...]:
    words = ("unshare", kind)
    if shutil.which("unshare") is None or subprocess.run([*words, "true"], check=False).returncode:
        pytest.skip(f"no namespace can be made here by unshare {kind}")
    return (*words, "sh", "-c", " ".join([*then, 'exec "$@"']), "-")


@pytest.mark.usefixtures("quick")
@ROOT
def test_a_host_name_without_an_address_is_told(tmp_path: Path) -> None:
    named = unshared("--uts", "echo nowhere.invalid > /proc/sys/kernel/hostname;")
    told = found(tmp_path, before=named)
    assert told["hostname"]["state"] == "unresolved"
    assert told["hostname"]["fix"].startswith("echo 127.0.1.1 nowhere.invalid |")


@ROOT
def test_without_a_network_processes_do_not_meet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = "from luthier.machine.probes import gloo; print(gloo(10))"
    words = [*unshared("--net"), sys.executable, "-c", code]
    said = subprocess.run(words, capture_output=True, text=True, check=True).stdout
    assert "error=None" not in said
    torch_that(tmp_path, HOLLOW.format(version="2.13.0"), monkeypatch)
    told = found(tmp_path, before=unshared("--net"), status=1)
    assert told["ports"]["level"] == "fault"


def test_a_port_that_is_taken_is_told() -> None:
    import socket  # noqa: PLC0415 - of this test alone

    with socket.socket() as other:
        try:
            other.bind(("127.0.0.1", facts.TORCHRUN_PORT))
        except OSError:
            pass  # another program has it, which does as well
        else:
            other.listen()
        assert facts.ports() == facts.Ports(None, torchrun_free=False)


def test_the_clock_is_later_than_the_program_and_does_not_jump() -> None:
    watch = facts.Watch()
    clock = watch.clock()
    assert clock.now > clock.built - 86_400
    watch._wall -= 100  # as if it had been set forward since
    assert round(watch.clock().jump) == 100


def test_an_interrupt_ends_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun = tmp_path / "begun"
    begun.touch()
    hangs = f"import signal\nwith open({str(begun)!r}, 'a') as f: f.write('x')\nsignal.pause()"
    torch_that(tmp_path, hangs, monkeypatch)
    process = subprocess.Popen(
        [*DOCTOR, "--out", tmp_path], stdout=-1, stderr=-1, text=True, start_new_session=True
    )
    while begun.stat().st_size < 3:  # all that import torch
        assert process.poll() is None
    os.killpg(process.pid, signal.SIGINT)  # as Ctrl-C does
    out, said = process.communicate(timeout=LIMIT)
    assert process.returncode == 130, (out, said)
    assert said == "luthier: interrupted\n"
