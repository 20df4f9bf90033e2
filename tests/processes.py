"""Processes forked from this one, which has torch imported: starting Python anew takes seconds.

They are what a fresh process is in all that the tests look at: a group of their own, signals as a
new process has them, standard output and error in pipes. Their end is ``os._exit``: where a test is
about the interpreter's own start or end, it takes a fresh one.
"""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import sys
import threading
import traceback
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, NoReturn

from luthier import vision
from luthier.cli.main import main
from luthier.run import finetune, loop, verify

# What a command would import for itself each time; nothing may compute before the fork.
PRELOADED = (finetune, loop, verify, vision.load("torchvision.transforms"))
PATIENCE = 60  # seconds, then it hangs


class Forked:
    """A function at work in a forked process.

    Args:
        function: what it returns is the exit status; None is 0.
        cwd: where it works.
    """

    def __init__(self, function: Callable[[], int | None], cwd: Path | None = None) -> None:
        out, err = os.pipe(), os.pipe()
        self.returncode: int | None = None
        self._said: tuple[str, str] | None = None
        self.pid = os.fork()
        # Both make the group: the child may not have come so far when it is sent a signal.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.setpgid(self.pid, self.pid)
        if self.pid == 0:
            _be_child(function, cwd, out[1], err[1])
        os.close(out[1])
        os.close(err[1])
        self.stdout: IO[str] = os.fdopen(out[0], encoding="utf-8")
        self.stderr: IO[str] = os.fdopen(err[0], encoding="utf-8")

    def poll(self) -> int | None:
        """Return the exit status, or None while it is at work."""
        return self._wait(os.WNOHANG)

    def wait(self) -> int | None:
        """Wait for its end and return the exit status."""
        return self._wait(0)

    def _wait(self, how: int) -> int | None:
        if self.returncode is None:
            found, status = os.waitpid(self.pid, how)
            self.returncode = os.waitstatus_to_exitcode(status) if found else None
        return self.returncode

    def communicate(self, timeout: float = PATIENCE) -> tuple[str, str]:
        """Return the rest of what it says, once it has ended; what hangs is killed."""
        if self._said is None:
            end = threading.Timer(timeout, os.killpg, (self.pid, signal.SIGKILL))
            end.start()
            try:
                with ThreadPoolExecutor(1) as pool, self.stdout, self.stderr:
                    out = pool.submit(self.stdout.read)
                    said = self.stderr.read()
                    self._said = out.result(), said
                self.wait()
            finally:
                end.cancel()
        return self._said


def luthier(*words: str | Path, cwd: Path | None = None) -> Forked:
    """Run the command line."""
    return Forked(lambda: main([str(word) for word in words]), cwd)


def _be_child(function: Callable[[], int | None], cwd: Path | None, out: int, err: int) -> NoReturn:
    status = 1
    gc.freeze()  # to look at what is the parent's would copy its memory
    try:
        os.dup2(out, 1)
        os.dup2(err, 2)
        sys.stdout = os.fdopen(1, "w", buffering=1, encoding="utf-8", closefd=False)
        sys.stderr = os.fdopen(2, "w", buffering=1, encoding="utf-8", closefd=False)
        warnings.resetwarnings()  # pytest makes errors of them
        signal.signal(signal.SIGINT, signal.default_int_handler)
        if cwd is not None:
            os.chdir(cwd)
            sys.path.insert(0, str(cwd))
        status = function() or 0
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)
