"""Hosts for a job of ``torchrun``: network namespaces on a switch that is a namespace, too.

Each host has an address, a name and a link of its own, and everything else of this machine. What
is made here is called by the process that made it: what a killed one has left, the next removes.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

_PREFIX = "luthier-"
_NETWORK = "10.9.0."
PORT = 29400  # of the rendezvous
PATIENCE = 90.0  # seconds in which what is waited for must come
ENVIRONMENT = {
    "GLOO_SOCKET_IFNAME": "eth0",
    "TP_SOCKET_IFNAME": "eth0",
    "PYTHONUNBUFFERED": "1",
    # An agent that has kept the store of one start tells nobody where it is in the next.
    "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1",
}
_numbers = itertools.count()
# In the host's namespaces: its name, then its command.
_NAMED = 'echo "$0" > /proc/sys/kernel/hostname; exec "$@"'
_SWITCHBOARD = (
    "import torch.distributed as d, sys, signal;"
    "s = d.TCPStore(sys.argv[1], int(sys.argv[2]), is_master=True, wait_for_workers=False);"
    "print('here', flush=True); signal.pause()"
)


@functools.cache
def why_not() -> str:
    """Return why there can be no hosts here; nothing where there can."""
    if sys.platform != "linux" or shutil.which("ip") is None or shutil.which("unshare") is None:
        return "hosts are network namespaces: needs Linux with iproute2 and util-linux"
    if os.geteuid():
        return "hosts are network namespaces: needs root"
    name = f"{_PREFIX}{os.getpid()}-try"
    try:
        _ip("netns", "add", name)
    except OSError as error:
        return f"hosts are network namespaces: none can be made here ({error})"
    _remove(name)
    return ""


@dataclass
class Host:
    """One host of a network.

    Attributes:
        name: of the host.
        space: its network namespace.
        address: in the network.
        cuts: what sets its link down, or up again.
        agents: every ``torchrun`` that was started on it.
    """

    name: str
    space: str
    address: str
    cuts: Callable[[bool], None]
    agents: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def run(
        self, words: Sequence[str | Path], log: Path, **environment: str
    ) -> subprocess.Popen[bytes]:
        """Start a command on the host; what it says is added to a file."""
        inside = ["unshare", "--uts", "sh", "-c", _NAMED, self.name, *map(str, words)]
        with log.open("ab") as file:
            process = subprocess.Popen(
                [_program("ip"), "netns", "exec", self.space, *inside],
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                env=os.environ | ENVIRONMENT | environment,
                start_new_session=True,
            )
        self.agents.append(process)
        return process

    def pids(self) -> list[int]:
        """Return every process that is at work on the host."""
        return _pids(self.space)

    def rank(self, rank: int) -> int | None:
        """Return the process that has a rank of the present start of a job, or None."""
        for pid in reversed(self.pids()):
            told = environment_of(pid)
            if told.get("RANK") == str(rank) and "LOCAL_RANK" in told:
                return pid
        return None

    def kill(self) -> None:
        """End everything on the host at once, by SIGKILL, as if its power had failed."""
        while pids := self.pids():
            _kill(pids)
        for agent in self.agents:
            agent.wait()

    def cut(self) -> None:
        """Take its link down."""
        self.cuts(True)

    def mend(self) -> None:
        """Take its link up again."""
        self.cuts(False)


class Network:
    """A switch, to which hosts are joined.

    Attributes:
        address: of the switch itself, where a rendezvous can stand that no host's end takes away.
        hosts: by name.
    """

    address = f"{_NETWORK}254"

    def __init__(self) -> None:
        self._name = f"{_PREFIX}{os.getpid()}-{next(_numbers)}"
        self.hosts: dict[str, Host] = {}
        self._switch = Host("switch", f"{self._name}-switch", self.address, lambda _down: None)

    def host(self, name: str) -> Host:
        """Return a new host."""
        number = len(self.hosts) + 1
        space, port, address = f"{self._name}-{name}", f"port{number}", f"{_NETWORK}{number}"
        switch = self._switch.space

        def cut(down: bool) -> None:
            _ip("-n", switch, "link", "set", port, "down" if down else "up")

        self.hosts[name] = host = Host(name, space, address, cut)
        _ip("netns", "add", space)
        _ip("-n", space, "link", "set", "lo", "up")
        _ip("-n", switch, "link", "add", port, "type", "veth", "peer", "eth0", "netns", space)
        _ip("-n", switch, "link", "set", port, "master", "switch", "up")
        _ip("-n", space, "address", "add", f"{address}/24", "dev", "eth0")
        _ip("-n", space, "link", "set", "eth0", "up")
        return host

    def switchboard(self, log: Path) -> str:
        """Have a store on the switch for ``--rdzv-endpoint``, and return where it is."""
        if self._switch.agents:
            return f"{self.address}:{PORT}"
        self._switch.run([sys.executable, "-c", _SWITCHBOARD, self.address, str(PORT)], log)
        until(lambda: log.exists() and b"here" in log.read_bytes())
        return f"{self.address}:{PORT}"

    def __enter__(self) -> Network:
        _sweep()
        try:
            self._make_switch()
        except BaseException:
            self.__exit__()
            raise
        return self

    def _make_switch(self) -> None:
        _ip("netns", "add", self._switch.space)
        _ip("-n", self._switch.space, "link", "set", "lo", "up")
        _ip("-n", self._switch.space, "link", "add", "switch", "type", "bridge")
        _ip("-n", self._switch.space, "address", "add", f"{self.address}/24", "dev", "switch")
        _ip("-n", self._switch.space, "link", "set", "switch", "up")

    def __exit__(self, *_: object) -> None:
        for host in (*self.hosts.values(), self._switch):
            with contextlib.suppress(subprocess.SubprocessError):
                host.kill()
            _remove(host.space)


def torchrun(
    host: Host,
    endpoint: str,
    *,
    processes: int = 1,
    hosts: str = "1:3",
    restarts: int = 9,
    name: str = "job",
) -> list[str]:
    """Return the words before the program for an agent on a host.

    Args:
        host: where it will be.
        endpoint: of the rendezvous; where it is the host's own, it keeps it.
        processes: on this host.
        hosts: how many, least and most.
        restarts: that the job may need.
        name: of the job.
    """
    own = int(endpoint.startswith(f"{host.address}:"))
    settings = {"is_host": own, "last_call_timeout": 1, "keep_alive_interval": 1}
    return [
        *(sys.executable, "-m", "torch.distributed.run"),
        *("--nnodes", hosts, "--nproc-per-node", str(processes), "--max-restarts", str(restarts)),
        *("--rdzv-backend", "c10d", "--rdzv-endpoint", endpoint, "--rdzv-id", name),
        *("--rdzv-conf", ",".join(f"{name}={value}" for name, value in settings.items())),
        *("--local-addr", host.address, "--monitor-interval", "0.1"),
    ]


def until(true: Callable[[], object], patience: float = PATIENCE) -> None:
    """Wait until something is true.

    Raises:
        TimeoutError: it does not come to be.
    """
    end = time.monotonic() + patience
    while not true():
        if time.monotonic() > end:
            raise TimeoutError(f"{patience:.0f} s have passed")
        time.sleep(0.01)


def environment_of(pid: int) -> dict[str, str]:
    """Return what a process was given; nothing where it is gone."""
    with contextlib.suppress(OSError):
        words = Path(f"/proc/{pid}/environ").read_bytes().decode(errors="replace").split("\0")
        return dict(word.split("=", 1) for word in words if "=" in word)
    return {}


def _ip(*words: str) -> str:
    done = subprocess.run([_program("ip"), *words], check=False, capture_output=True, text=True)
    if done.returncode:
        raise OSError(f"ip {' '.join(words)}: {done.stderr.strip()}")
    return done.stdout


def _program(name: str) -> str:
    return shutil.which(name) or name


def _pids(space: str) -> list[int]:
    # A process that has ended, and that nobody has waited for, is in no namespace any more.
    with contextlib.suppress(OSError):
        return [int(pid) for pid in _ip("netns", "pids", space).split()]
    return []


def _kill(pids: Sequence[int]) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def _remove(space: str) -> None:
    while pids := _pids(space):
        _kill(pids)
    with contextlib.suppress(OSError):
        _ip("netns", "delete", space)


def _sweep() -> None:
    """Remove what processes have left that are no more."""
    for line in _ip("netns", "list").splitlines():
        space = line.split()[0]
        owner = space.removeprefix(_PREFIX).partition("-")[0]
        if space.startswith(_PREFIX) and owner.isdigit() and not Path(f"/proc/{owner}").exists():
            _remove(space)
