"""What a run shows: a progress bar on a terminal, plain lines in a pipe, all lines in a log."""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TextIO

from tqdm import tqdm

from luthier.values import Step, Tally


class Console:
    """Says things to standard error and to a run's ``log.txt``.

    Args:
        stream: where to; standard error by default.
        quiet: say nothing to the stream.
    """

    def __init__(self, stream: TextIO | None = None, quiet: bool = False) -> None:
        self.stream = stream or sys.stderr
        self.quiet = quiet
        self._log: Path | None = None
        self._said: list[str] = []
        self._bar: tqdm[object] | None = None
        self._lock = threading.Lock()

    @property
    def live(self) -> bool:
        """Whether a bar can be drawn."""
        return not self.quiet and self.stream.isatty()

    def say(self, text: str) -> None:
        """Print a line, above the bar where there is one."""
        with self._lock:  # what saves behind may have something to say too
            if self._bar is not None:
                self._bar.write(text, file=self.stream)
            elif not self.quiet:
                print(text, file=self.stream, flush=True)
            self._said.append(text)
            self._write_log()

    def log_to(self, path: Path) -> None:
        """Add all that was said so far, and all that will be, to a file."""
        self._log = path
        self._write_log()

    def _write_log(self) -> None:
        if self._log is None or not self._said:
            return
        # On a full disk the lines wait for the next try: that it is full has to be said too.
        with contextlib.suppress(OSError):
            with self._log.open("a", encoding="utf-8", errors="backslashreplace") as file:
                file.writelines(line + "\n" for line in self._said)
            self._said.clear()

    def start(self, images: int, done: int, unit: str = "img") -> None:
        """Begin a bar of so many images, of which some are done."""
        if self.live:
            tqdm.monitor_interval = 0  # its thread would outlive the bar
            self._bar = tqdm(
                total=images,
                initial=done,
                unit=unit,
                file=self.stream,
                dynamic_ncols=True,
                leave=False,
                smoothing=0.1,
                mininterval=0.2,
            )

    def advance(self, count: int) -> None:
        """Move the bar on."""
        if self._bar is not None:
            self._bar.update(count)

    def step(self, step: Step, tally: Tally, epochs: int) -> None:
        """Move the bar on by one batch."""
        if self._bar is not None:
            self._bar.set_description(f"epoch {step.epoch + 1}/{epochs}", refresh=False)
            now = f"loss {tally.loss:.4f}, accuracy {100 * tally.accuracy.value:.1f} %"
            self._bar.set_postfix_str(now, refresh=False)
            self._bar.update(step.images)

    def stop(self) -> None:
        """Take the bar away."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None


def epoch_line(record: Mapping[str, Any], epochs: int, iterations: int) -> str:
    """Return the one line an epoch for training or validation.

    Args:
        record: a "train" or "val" record of ``metrics.jsonl``.
        epochs: of the whole run.
        iterations: batches of the whole run.
    """
    return (
        f"{record['kind']!s:<5} epoch {record['epoch']}/{epochs}"
        f"  iteration {record['iteration']}/{iterations}"
        f"  loss {record['loss']:.4f}"
        f"  accuracy {100 * float(record['accuracy']):.2f} %"
        f"  lr {record['lr']:.3g}"
        f"  {record['seconds']:.1f} s"
    )
