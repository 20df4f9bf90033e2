"""Facts about Python, torch, NVIDIA's driver and the packages → findings. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from packaging.specifiers import SpecifierSet
from packaging.version import InvalidVersion, Version

from luthier.accelerators import Accelerator
from luthier.machine.facts import Gpus, Package, Python, Vision
from luthier.machine.findings import Finding, fault, ok, warning
from luthier.machine.probes import Compiled, Group, Torch

OLDEST_PYTHON = "3.11"
# The oldest driver for each CUDA: within one major version the minor ones go with each other.
OLDEST_DRIVER = {11: "450", 12: "525", 13: "580"}
_BESIDE = 15  # torchvision 0.(X + 15) is made for torch 2.X
_APART = ("torch", "torchvision")  # which have findings of their own
_KERNEL = re.compile(r"(sm|compute)_(\d+)(\d)([af]?)")


def judge_python(found: Python) -> Iterator[Finding]:
    """Judge the interpreter."""
    have = _version(found.version.rstrip("+"))  # as Debian calls a build after a release
    if have is not None and have < Version(OLDEST_PYTHON):
        yield fault("python", "old", version=found.version, wanted=OLDEST_PYTHON)
    elif found.bits < 64:
        yield fault("python", "narrow", version=found.version, bits=found.bits)
    else:
        yield ok("python", version=found.version, system=found.system)


def judge_torch(found: Torch, asked: Sequence[Package] = ()) -> Iterator[Finding]:
    """Judge whether torch is there, can be imported, and is new enough."""
    wanted = next((package.wanted for package in asked if package.name == "torch"), "")
    if found.missing:
        yield fault("torch", "missing")
    elif found.error is not None or found.version is None:
        yield fault("torch", "broken", error=found.error)
    elif not _within(found.version, wanted):
        yield fault("torch", "old", version=found.version, wanted=wanted)
    else:
        yield ok("torch", version=found.version, cuda=found.cuda, hip=found.hip)


def judge_pair(torch: Torch, vision: Vision) -> Iterator[Finding]:
    """Judge whether torchvision was made for this torch."""
    if torch.version is None:
        return
    if vision.version is None:
        yield fault("torchvision", "missing", wanted=_partner(torch.version))
        return
    facts = {"version": vision.version, "torch": torch.version}
    if _fit(torch.version, vision):
        yield ok("torchvision", **facts)
    else:
        yield warning("torchvision", "pair", **facts, wanted=_partner(torch.version))


def _fit(torch: str, vision: Vision) -> bool:
    have, beside = _version(torch), _version(vision.version or "")
    if have is None or beside is None:
        return True  # a build of one's own, whose version says nothing
    made_for = _version(vision.built_for or "")
    if made_for is not None:
        exact = not (have.is_devrelease or made_for.is_devrelease)
        return (
            have.release == made_for.release if exact else have.release[:2] == made_for.release[:2]
        )
    if have.major != 2 or beside.major != 0:
        return True  # beyond the rule
    return beside.minor == have.minor + _BESIDE


def _partner(torch: str) -> str | None:
    """Return the torchvision for a torch; None where the rule does not say."""
    have = _version(torch)
    if have is None or have.major != 2 or have.is_devrelease:
        return None
    return f"0.{have.minor + _BESIDE}.{have.micro}"


def judge_compiled(torch: Torch, vision: Vision, found: Compiled) -> Iterator[Finding]:
    """Judge whether torchvision's compiled parts load."""
    if torch.version is None or vision.version is None:
        return
    beside = _version(vision.version)
    facts = {"version": vision.version if beside is None else beside.public, "index": _index(torch)}
    parts = {"torchvision_operators": found.operators, "image_decoders": found.decoders}
    for name, error in parts.items():
        if error is None:
            yield ok(name)
        else:
            yield warning(name, "broken", error=error, **facts)


def _index(torch: Torch) -> str | None:
    """Return the name of the wheels' index that has what goes with this torch."""
    local = _version(torch.version or "")
    if local is not None and local.local and re.fullmatch(r"cpu|cu\d+|rocm[\d.]+", local.local):
        return local.local
    if torch.cuda is not None:
        return "cu" + torch.cuda.replace(".", "")
    return None if torch.hip is not None else "cpu"


def judge_packages(found: Sequence[Package]) -> Iterator[Finding]:
    """Judge what luthier asks for, and the extras that are there."""
    own = [one for one in found if one.extra is None and one.name not in _APART]
    wrong = [one for one in own if one.version is None or not _within(one.version, one.wanted)]
    if wrong:
        wanted = tuple(f"{one.name}{one.wanted}" for one in wrong)
        yield fault("packages", "wrong", found=_told(wrong), wanted=wanted)
    else:
        yield ok("packages", number=len(own))
    extra = [one for one in found if one.extra is not None and one.version is not None]
    outside = [one for one in extra if not _within(one.version or "", one.wanted)]
    if outside:
        wanted = tuple(f"{one.name}{one.wanted}" for one in outside)
        yield warning("extras", "outside", found=_told(outside), wanted=wanted)
    else:
        yield ok("extras", number=len(extra))


def _told(found: Sequence[Package]) -> tuple[str, ...]:
    return tuple(f"{one.name} {one.version or '-'} ({one.wanted})" for one in found)


def judge_driver(torch: Torch, found: Gpus) -> Iterator[Finding]:
    """Judge NVIDIA's driver, and whether torch was built for it."""
    driver = found.survey.driver
    cards = sum(one.instance is None for one in found.survey.accelerators)
    if driver is None:
        yield (
            warning("driver", "absent", cards=found.on_bus)
            if found.on_bus
            else ok("driver", "none")
        )
    elif driver.error is not None:
        yield fault("driver", "silent", error=driver.error)
    elif cards and torch.version is not None and torch.cuda is None and torch.hip is None:
        yield warning(
            "driver", "cpu_build", driver=driver.version, torch=torch.version, cards=cards
        )
    elif torch.cuda is not None and not torch.available and _too_old(found, torch.cuda):
        needed = OLDEST_DRIVER.get(_major(torch.cuda))
        yield fault("driver", "old", driver=driver.version, cuda=torch.cuda, needed=needed)
    else:
        yield ok("driver", driver=driver.version, cuda=torch.cuda)


def _too_old(found: Gpus, cuda: str) -> bool:
    driver = found.survey.driver
    if driver is None:
        return False
    needed, have = OLDEST_DRIVER.get(_major(cuda)), _version(driver.version or "")
    if needed is not None and have is not None:
        return have < Version(needed)
    return driver.cuda is not None and driver.cuda[0] < _major(cuda)


def _major(cuda: str) -> int:
    version = _version(cuda)
    return 0 if version is None else version.major


def judge_cuda(torch: Torch, found: Gpus, shown: Sequence[Accelerator]) -> Iterator[Finding]:
    """Judge whether torch computes on the cards that it is shown."""
    if torch.cuda is None or not shown or _too_old(found, torch.cuda):
        return
    names = tuple(card.name for card in shown)
    if not torch.available:
        yield fault("cuda", "broken", cards=names, error=torch.reason)
        return
    yield ok("cuda", cards=names)
    known = [card for card in shown if card.capability is not None]
    if torch.arches and known:
        yield _kernels(torch.arches, known)


def _kernels(arches: Sequence[str], cards: Sequence[Accelerator]) -> Finding:
    runs = {card: _runs(arches, card.capability or (0, 0)) for card in cards}
    for state, build in (("none", fault), ("compiled", warning)):
        some = [card for card in cards if runs[card] == state]
        if some:
            names = tuple(f"{card.name} (sm_{_digits(card)})" for card in some)
            return build("kernels", state, cards=names, arches=tuple(arches))
    return ok("kernels", arches=tuple(arches))


def _digits(card: Accelerator) -> str:
    return "".join(map(str, card.capability or ()))


def _runs(arches: Sequence[str], capability: tuple[int, int]) -> str:
    """Tell how kernels for ``arches`` run on a card: "ready", "compiled" before use, or "none"."""
    best = "none"
    for arch in arches:
        match = _KERNEL.fullmatch(arch)
        if match is None:
            continue
        kind, made_for, only = match[1], (int(match[2]), int(match[3])), match[4]
        if only == "a" and made_for != capability:
            continue
        same_major = made_for[0] == capability[0] and made_for[1] <= capability[1]
        if kind == "sm" and same_major:
            return "ready"
        if kind == "compute" and (same_major if only == "f" else made_for <= capability):
            best = "compiled"
    return best


def judge_nccl(found: Group | None) -> Iterator[Finding]:
    """Judge whether NCCL computes; None is that no card has room to try it."""
    if found is None:
        yield warning("nccl", "full")
    elif found.absent:
        yield warning("nccl", "absent")
    elif found.error is not None or found.sum != 1.0:
        yield fault("nccl", "broken", error=found.error)
    else:
        yield ok("nccl", version=found.version)


def _within(version: str, wanted: str) -> bool:
    have = _version(version)
    return have is None or SpecifierSet(wanted).contains(have, prereleases=True)


def _version(text: str) -> Version | None:
    try:
        return Version(text)
    except InvalidVersion:
        return None
