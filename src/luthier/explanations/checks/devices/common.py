"""What all checks of devices ask a case."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterator, Sequence

from luthier.explanations.names import bind
from luthier.explanations.values import Case, Fact, Facts, Frame

TORCHS = re.compile(r"[/\\](?:torch|torchvision|torchaudio|triton|numpy)[/\\]|^<frozen ")
_OTHERS = re.compile(r"[/\\](?:tensorflow|jax|jaxlib|cupy|numba|onnxruntime|paddle|mxnet)[/\\]")

Check = Callable[[Case], Facts | None]


def unless_by_others(check: Check) -> Check:
    """Return a check that first asks whether PyTorch said it: no line by hand, no other library."""

    @functools.wraps(check)
    def checked(case: Case) -> Facts | None:
        frame = case.raised.innermost
        by_hand = frame and frame.raises and not TORCHS.search(frame.path)
        by_others = frame and _OTHERS.search(frame.path)
        return None if by_hand or by_others else check(case)

    return checked


@unless_by_others
def said(case: Case) -> Facts:
    """Return what the machine adds; the message decides."""
    return {"cpu_torch": case.here.torch if case.here.cuda_build is False else None}


def plain_names(calls: Sequence[str], frames: Sequence[Frame]) -> dict[str, str]:
    """Return the user's names of a call; for an expression that calls something, a plain name."""
    found = bind(calls, frames)
    return {name: name if "(" in text else text for name, text in found.items()}


def called_last(case: Case) -> Sequence[Frame]:
    """Return the libraries' calls that the user's innermost call led to.

    What is further out may be around everything, as an optimizer's step is around a closure.
    """
    frames = case.raised.frames
    own = [number for number, frame in enumerate(frames) if not frame.is_library]
    return frames[own[-1] + 1 if own else 0 :]


def live_values(case: Case) -> Iterator[Fact]:
    """Yield all that is live, the innermost call's first."""
    for variables in reversed(case.live):
        yield from variables.values()
