"""``doctor``: what is wrong with a machine, before a run finds out."""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from luthier.accelerators import parse_time, visible
from luthier.errors import RecipeError
from luthier.language import Language, columns, folded, language
from luthier.machine import facts, probes, wording
from luthier.machine.facts import Gpus, Variables
from luthier.machine.findings import LEVELS, Finding
from luthier.machine.judging import TOPICS, Facts, judge
from luthier.machine.probes import Group, Torch, Unknown

PATIENCE = 60.0  # seconds: torch's first import from a network file system takes most of them
_ROOM = 2**30  # bytes of a card that a first use of CUDA and NCCL may take
_PROBES = 5  # at the same time

T = TypeVar("T")


@dataclass(frozen=True)
class Checkup:
    """What was found about a machine. ``str`` lists it by topic, with cures.

    Attributes:
        findings: one or more of each thing that was checked, by topic.
        language: of the sentences.
    """

    findings: tuple[Finding, ...]
    language: Language = "en"

    @property
    def sound(self) -> bool:
        """Whether nothing is at fault; warnings there may be."""
        return all(finding.level != "fault" for finding in self.findings)

    def as_dict(self) -> dict[str, Any]:
        """Return it as plain JSON values; names and levels are the same in all languages."""
        return {
            "sound": self.sound,
            "findings": [self._told(finding) for finding in self.findings],
        }

    def _told(self, finding: Finding) -> dict[str, Any]:
        return {
            "name": finding.name,
            "level": finding.level,
            "state": finding.state,
            "facts": dict(finding.facts),
            "text": wording.text(finding, self.language),
            "cure": wording.cure(finding, self.language),
            "fix": wording.fix(finding),
        }

    def lines(
        self,
        paint: Callable[[str, str], str] = lambda _level, word: word,
        width: int = sys.maxsize,
    ) -> Iterator[str]:
        """Yield the lines of the list.

        Args:
            paint: given a level and its word as it is shown, returns what is printed for it.
            width: columns that a line may have.
        """
        longest = max(len(wording.level(level, self.language)) for level in LEVELS)
        for topic, names in TOPICS.items():
            yield wording.topic(topic, self.language)
            for finding in (one for one in self.findings if one.name in names):
                word = wording.level(finding.level, self.language).ljust(longest)
                indent = " " * (columns(word) + 4)
                left = width - len(indent)
                first, *rest = folded(self._said(finding), left)
                yield f"  {paint(finding.level, word)}  {first}"
                yield from (indent + line for line in rest)
                cure = wording.cure(finding, self.language)
                if cure is not None:
                    first, *rest = folded(cure, left - 2)
                    yield f"{indent}→ {first}"
                    yield from (f"{indent}  {line}" for line in rest)
            yield ""
        yield self.sum

    def _said(self, finding: Finding) -> str:
        """Return what was checked and what was found, in one line."""
        title = wording.title(finding, self.language)
        said = wording.text(finding, self.language)
        line = wording.frame("line", self.language, title=title, text=said)
        return " ".join(line.split())

    @property
    def sum(self) -> str:
        """How many findings there are of each level, in a line."""
        counted = Counter(finding.level for finding in self.findings)
        numbers = {level: counted[level] for level in LEVELS}
        return wording.frame("sum", self.language, checks=len(self.findings), **numbers)

    def fixes(self) -> Iterator[str]:
        """Yield a script: shell commands that would cure what is found, each after its reason."""
        told = set()
        for finding in self.findings:
            command = None if finding.level == "ok" else wording.fix(finding)
            if command is None or command in told:
                continue
            told.add(command)
            yield f"# {self._said(finding)}\n{command}"
        if not told:
            yield f"# {wording.frame('nothing_to_fix', self.language)}"

    def __str__(self) -> str:
        return "\n".join(self.lines())


def doctor(
    out: str | os.PathLike[str] = "runs",
    *,
    timeout: float | str = PATIENCE,
    lang: Language | None = None,
) -> Checkup:
    """Check this machine: what torch needs, the GPUs, limits, the network, and a run's folder.

    torch is imported in processes of their own. What is written is taken away again.

    Args:
        out: the folder where runs will be; it need not be there yet.
        timeout: seconds that one check may take, or a time such as ``"2min"``.
        lang: "en" or "zh"; by default what ``LUTHIER_LANG`` or the locale says.

    Raises:
        RecipeError: ``out`` is no folder of this machine, ``timeout`` is no time, or
            ``LUTHIER_LANG`` names a language that is not spoken.
    """
    limit = parse_time("timeout", timeout)
    if limit <= 0:
        raise RecipeError(f"timeout {timeout}: expected more than 0 seconds")
    if "://" in os.fspath(out):
        raise RecipeError(f"{out}: doctor looks at folders of this machine")
    spoken = language(os.environ) if lang is None else lang
    return Checkup(judge(gather(Path(out), limit)), spoken)


def gather(out: Path, limit: float) -> Facts:
    """Find everything out, the slow things at the same time."""
    watch = facts.Watch()
    with ThreadPoolExecutor(_PROBES) as pool:
        torch = pool.submit(_tried, lambda: probes.torch(limit))
        compiled = pool.submit(_tried, lambda: probes.compiled(limit))
        gloo = pool.submit(_tried, lambda: probes.gloo(limit))
        host = pool.submit(_tried, lambda: probes.host(limit))
        folder = pool.submit(_tried, lambda: probes.folder(out, limit))
        gpus, variables = _tried(facts.gpus), _tried(facts.variables)
        return Facts(
            python=_tried(facts.python),
            vision=_tried(facts.vision),
            packages=_tried(facts.packages),
            gpus=gpus,
            variables=variables,
            leases=_tried(facts.leases),
            cpus=_tried(facts.cpus),
            memory=_tried(facts.memory),
            shared_memory=_tried(facts.shared_memory),
            open_files=_tried(facts.open_files),
            processes=_tried(facts.processes),
            temporary=_tried(facts.temporary),
            ports=_tried(facts.ports),
            torch=torch.result(),
            compiled=compiled.result(),
            gloo=gloo.result(),
            host=host.result(),
            folder=folder.result(),
            nccl=_tried(lambda: _nccl(torch.result(), gpus, variables, limit)),
            clock=_tried(watch.clock),
        )


def _tried(ask: Callable[[], T]) -> T | Unknown:
    """Return what a question is answered with, or why it could not be."""
    try:
        return ask()
    except Exception as error:
        return Unknown("error", {"error": f"{type(error).__name__}: {error}"})


def _nccl(
    torch: Torch | Unknown, gpus: Gpus | Unknown, variables: Variables | Unknown, limit: float
) -> Group | Unknown | None:
    """Try NCCL on the card that has the most memory free; None where none has enough."""
    if isinstance(torch, Unknown) or isinstance(gpus, Unknown) or isinstance(variables, Unknown):
        return None
    shown = visible(gpus.survey.accelerators, variables.values).accelerators
    free = [card.free or 0 for card in shown]
    if not torch.available or not free or max(free) < _ROOM:
        return None
    return probes.nccl(limit, free.index(max(free)))
