"""Errors of several processes: their meeting, what they exchange, and who ended first."""

from __future__ import annotations

import re

from luthier.explanations.checks.evidence import innermost_in, listed, of_torch
from luthier.explanations.values import Case, Facts, ModuleFacts

_WRAPPER = "DistributedDataParallel"
_UNUSED = re.compile(r"did not receive grad for rank (\d+): ([^\n]+)")
_TWICE = re.compile(r"Parameter at index (\d+)(?: with name (\S+))? has been marked as ready twice")
_WATCHDOG = re.compile(
    r"\[Rank (?P<rank>\d+)\] Watchdog caught collective operation timeout: "
    r"WorkNCCL\((?:SeqNum=(?P<number>\d+), )?OpType=(?P<operation>\w+).*?"
    r"Timeout\(ms\)=(?P<limit>\d+)\) ran for (?P<ran>\d+) milliseconds"
)
_CRASHES = {6: "SIGABRT", 7: "SIGBUS", 8: "SIGFPE", 11: "SIGSEGV"}


def ddp_unused(case: Case) -> Facts | None:
    """Return the parameters without a gradient, by the message's indices or names."""
    if of_torch(case) is None:
        return None
    found = _UNUSED.search(case.raised.message)
    if found is None:
        return {}
    rank, listing = found[1], found[2].strip().rstrip(". ")
    model = _wrapped(case)
    every = [n for n, t in model.parameters.items() if t.requires_grad] if model else []
    words = listing.replace(",", " ").split()
    if not all(word.isdecimal() for word in words):
        return {"rank": rank, "parameters": listed(words), "layer": _layer(words[-1])}
    names = [every[int(word)] for word in words if int(word) < len(every)]
    known: dict[str, object] = {"rank": rank, "indices": listed(words)}
    if model is None or len(names) < len(words):
        return known
    bare = [name.removeprefix("module.") for name in names]
    more = {"parameters": listed(bare), "layer": _layer(bare[-1])}
    return known | more | {"kind": model.kind, "all": len(every)}


def ddp_twice(case: Case) -> Facts | None:
    """Return the parameter that was marked twice."""
    if of_torch(case) is None:
        return None
    found = _TWICE.search(case.raised.message)
    return {} if found is None else {"parameter": found[2] or f"parameter {found[1]}"}


def ddp_shapes(case: Case) -> Facts | None:
    """Return the name of the parameter whose shape differs."""
    if of_torch(case) is None:
        return None
    model = _wrapped(case)
    if model is None or "index" not in case.found:
        return {}
    names = [n for n, t in model.parameters.items() if t.requires_grad]
    index = int(case.found["index"])
    return {"parameter": names[index].removeprefix("module.")} if index < len(names) else {}


def variable_missing(case: Case) -> Facts | None:
    """Return the variable of torchrun that was asked for, and of the environment only."""
    known = of_torch(case)
    if known is None:
        return None
    if "wanted" in case.found:
        return {**known, "variable": case.found["wanted"]}
    at = case.raised.innermost
    if at is None or at.function != "__getitem__" or not re.search(r"\bos(?:\.py|>)$", at.path):
        return None
    return {**known, "variable": case.found["asked"]}


def port_in_use(case: Case) -> Facts | None:
    """Return the port that was to be listened at."""
    if of_torch(case) is None or ("bare" in case.found and not innermost_in(case, "distributed")):
        return None
    return {"number": case.found.get("port") or case.found.get("bound")}


def collective_timeout(case: Case) -> Facts | None:
    """Return which exchange NCCL's watchdog gave up, from the message or the log before it."""
    said = None
    for text in (case.raised.message, case.raised.before):
        said = said or _WATCHDOG.search(text)
    if said is None or of_torch(case) is None:
        return None
    return {
        "rank": said["rank"],
        "number": said["number"] or "?",
        "operation": said["operation"],
        "seconds": int(said["ran"]) // 1000,
        "limit": int(said["limit"]) // 1000,
    }


def of_nccl(case: Case) -> Facts | None:
    """Return nothing more, where NCCL said it."""
    return {} if "NCCL" in case.raised.message and of_torch(case) is not None else None


def nccl_failed(case: Case) -> Facts | None:
    """Return the file or the address that NCCL's last words name."""
    if of_torch(case) is None:
        return None
    last = case.found.get("last", "")
    shared = re.search(r"/dev/shm/\S*", last)  # noqa: S108 - it is named, not used
    address = re.search(r"\d+\.\d+\.\d+\.\d+", last)
    if shared is not None:
        return {"shm": "/dev/shm"}  # noqa: S108 - it is named, not used
    return {} if address is None else {"address": address[0]}


def in_distributed(case: Case) -> Facts | None:
    """Return the function of torch.distributed that was given the tensor."""
    frame = innermost_in(case, "(?:distributed|nn/parallel)")
    if frame is None:
        return None
    name = "DistributedDataParallel" if "parallel" in frame.path else frame.function
    return {"function": name, "line": case.raised.line}


def rank_failed(case: Case) -> Facts | None:
    """Return the signal that ended a rank."""
    signal = -int(case.found["code"])
    return {"killed": "SIGKILL"} if signal == 9 else {"crashed": _CRASHES.get(signal)}


def _wrapped(case: Case) -> ModuleFacts | None:
    for variables in reversed(case.live):
        for value in variables.values():
            if isinstance(value, ModuleFacts) and value.kind == _WRAPPER and value.parameters:
                return value
    return None


def _layer(name: str) -> str:
    """Return the module of a parameter's name."""
    return name.removeprefix("module.").rpartition(".")[0]
