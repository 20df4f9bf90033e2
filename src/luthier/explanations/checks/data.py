"""Errors of data sets, loaders, their workers, and files of images."""

from __future__ import annotations

import re

from luthier.explanations.checks.places import (
    by_pillow,
    by_torch,
    by_torchvision,
    native,
    raised_in,
    within,
)
from luthier.explanations.values import Case, Facts

__all__ = ["by_pillow", "by_torch", "by_torchvision", "native"]  # checks of entries

_INDEXED = re.compile(r"self\.\w+\[(?:index|idx|item|i)\]")
_IMAGES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp")
_CHANNELS = {1: "L", 3: "RGB", 4: "RGBA"}

# Samples → a batch.


def unequal(case: Case) -> Facts | None:
    """Say no more, but only of a stack within a function that puts samples together."""
    functions = [frame.function.lower() for frame in case.raised.frames]
    return {} if any("collate" in function for function in functions) else None


def key_of_a_sample(case: Case) -> Facts | None:
    """Return the key that a sample lacks."""
    found = by_collate(case)
    return None if found is None else {"key": case.found["name"].strip("'\"")}


def by_collate(case: Case) -> Facts | None:
    """Say no more, but only of what was raised while samples were put together."""
    return raised_in(case, "_utils/collate.py") if case.raised.frames else None


def starting_workers(case: Case) -> Facts | None:
    """Say no more, but only of what was raised while a DataLoader started its workers."""
    inside = within(case, "torch/utils/data/dataloader.py")
    return raised_in(case, "/multiprocessing/") if inside else None


def worker_exited(case: Case) -> Facts | None:
    """Return the status of a worker that ended; None where its signal is told, as the cause."""
    if by_torch(case) is None:
        return None
    told = [raised for raised in case.causes if "DataLoader worker" in raised.message]
    return None if told else {}


def worker_signal(case: Case) -> Facts | None:
    """Return the signal that ended a worker."""
    return None if by_torch(case) is None else {"signal": case.found["signal"].strip()}


def unguarded(case: Case) -> Facts | None:
    """Return no facts; of a worker that only exited, None unless it told why ahead of it."""
    message, before = case.raised.message, case.raised.before
    told = "An attempt has been made to start a new process before"
    if message.strip().startswith(told):
        return {} if not case.raised.frames or within(case, "multiprocessing/spawn.py") else None
    # Or what the script did once more in the new process failed there.
    again = "_fixup_main_from_path" in before
    return by_torch(case) if told in before or again else None


def not_in_main(case: Case) -> Facts | None:
    """Return what a worker did not find in the main module."""
    pattern = r"Can't get attribute '(\w+)' on <module '__(?:mp_)?main__'"
    spawned = within(case, "multiprocessing/spawn.py")
    if spawned or case.raised.message.startswith("DataLoader worker"):
        found = re.search(pattern, case.raised.message if spawned else case.raised.before)
        return {"attribute": found[1]} if found else None
    return None


def open_files(case: Case) -> Facts | None:
    """Say no more; of words that are Python's own, only where processes send each other tensors."""
    if not case.raised.message.startswith(("[Errno", "received")):
        return {} if native(case) is not None or by_torch(case) is not None else None
    if not case.raised.frames and case.raised.message.startswith("received"):
        return {}
    parts = ("torch/utils/data/", "torch/multiprocessing/")
    own = bool(case.raised.frames) and not case.raised.frames[-1].is_library
    return {} if not own and any(within(case, part) for part in parts) else None


def shared_memory(case: Case) -> Facts | None:
    """Return the size of /dev/shm, in MiB."""
    if native(case) is None and by_torch(case) is None:
        return None
    known = (case.here.shared_memory, case.here.shared_memory_free)
    names = ("shm_size", "shm_free")
    return {n: value // 2**20 for n, value in zip(names, known, strict=True) if value is not None}


# Data sets.


def without_length(case: Case) -> Facts | None:
    """Return no facts; only where a sampler asked for the length of its data set."""
    return raised_in(case, "torch/utils/data/") if case.raised.frames else None


def past_the_end(case: Case) -> Facts | None:
    """Return whose end it is; only where it is the sample's own index that is past it."""
    frames = case.raised.frames
    if not within(case, "_utils/fetch.py"):
        return None
    if "torch/utils/data/dataset.py" in frames[-1].file:
        return {"index": None, "subset": "Subset"}  # the numbers are those of the one inside
    if len(frames) < 2 or "_utils/fetch.py" not in frames[-2].file:
        return None
    if case.live and "index" in case.found:
        return {} if int(case.found["index"]) in case.live[-1].values() else None
    return {} if _INDEXED.search(frames[-1].marked or frames[-1].source) else None


# Files of images.


def normalised_channels(case: Case) -> Facts | None:
    """Return the mode of images that a Normalize for another number of channels is given."""
    if not any(frame.function.startswith("normalize") for frame in case.raised.frames):
        return None
    given = int(case.found.get("given") or case.found["first"])
    wanted = int(case.found.get("wanted") or case.found["second"])
    if given not in _CHANNELS or not within(case, "/torchvision/"):
        return None
    modes = {"other": _CHANNELS[given], "mode": _CHANNELS.get(wanted, "RGB")}
    return {"channels": given, "values": wanted} | modes


def normalised_layout(case: Case) -> Facts | None:
    """Return no facts, for a Normalize of what has its channels last."""
    inside = any(frame.function.startswith("normalize") for frame in case.raised.frames)
    return {} if inside and within(case, "/torchvision/") else None


def by_image_folder(case: Case) -> Facts | None:
    """Say no more, but only of what an ImageFolder did not find."""
    frames = case.raised.frames
    is_look = bool(frames) and frames[-1].function == "find_classes"
    return by_torchvision(case) if is_look else None


def missing_image(case: Case) -> Facts | None:
    """Say no more, but only of an image that a data set tried to open."""
    by_folder = raised_in(case, "torchvision/datasets/folder.py")
    opened = by_pillow(case) is not None or by_folder is not None
    return {} if opened and within(case, "_utils/fetch.py") else None


def array_for_a_transform(case: Case) -> Facts | None:
    """Say no more, but only of what torchvision raised; its words are anybody's."""
    return by_torchvision(case) if case.raised.frames else None


def truncated(case: Case) -> Facts | None:
    """Return the file that is not whole, where the program still runs."""
    texts = [t for v in reversed(case.live) for t in v.values() if isinstance(t, str)]
    files = [text for text in texts if text.lower().endswith(_IMAGES)]
    return None if by_pillow(case) is None else {"file": files[0] if files else None}
