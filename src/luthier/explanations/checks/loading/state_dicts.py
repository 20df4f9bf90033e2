"""Errors of putting a state_dict into a model."""

from __future__ import annotations

import builtins
import re
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from math import isqrt

from luthier.explanations.checks.loading.places import raised_under
from luthier.explanations.values import Case, Facts, ModuleFacts

_MODULE = "torch/nn/modules/module.py"
_FROM_PRETRAINED = ("transformers/modeling_utils.py", "transformers/utils/loading_report.py")
_KEYS = re.compile(r'"([^"]+)"')
_SIZES = re.compile(
    r"size mismatch for (\S+): copying a param with shape (?:torch\.Size\()?\[([\d, ]*)\]\)?"
    r" from checkpoint, the shape in current model is (?:torch\.Size\()?\[([\d, ]*)\]"
)
_WRAPPERS = {
    "module": "DataParallel / DistributedDataParallel",
    "_orig_mod": "torch.compile",
    "_fsdp_wrapped_module": "FullyShardedDataParallel",
}
_WEIGHTS = (  # keys of checkpoints under which the weights are
    "state_dict", "model_state_dict", "model", "model_state", "net", "network", "net_state_dict",
    "module", "weights", "model_ema", "ema", "params", "params_ema", "student", "teacher",
    "generator", "backbone", "encoder",
)  # fmt: skip
_BESIDE = {  # keys that are beside them, or name no tensor of a model
    "epoch", "epochs", "optimizer", "optimizer_state_dict", "optim", "scheduler", "lr_scheduler",
    "args", "config", "cfg", "loss", "step", "iteration", "global_step", "best_acc", "scaler",
    "hyper_parameters", "generator", "discriminator",
}  # fmt: skip
_VOCABULARY = re.compile(r"embed|wte|tokens?\b|lookup|vocab")
_POSITIONS = re.compile(r"pos(?:ition)?(?:al)?_?emb|position_embeddings|wpe")
_HEAD = re.compile(r"^(?:fc|head|heads|classifier|last_linear|linear|logits|output|head_drop)$")


@dataclass(frozen=True)
class _Unfit:
    """What load_state_dict says of a state_dict.

    Attributes:
        missing: keys of the model that it lacks.
        unexpected: its keys that the model lacks.
        sizes: key, its size in the state_dict, its size in the model.
    """

    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    sizes: tuple[tuple[str, tuple[int, ...], tuple[int, ...]], ...]

    @property
    def absent(self) -> tuple[str, ...]:
        """The keys of the model for which there is no value that fits."""
        return (*self.missing, *(key for key, _, _ in self.sizes))


def prefixed(case: Case) -> Facts | None:
    """Return the prefix that the keys of the file have and those of the model do not."""
    unfit = _unfit(case)
    found = _prefix(unfit.unexpected, unfit.missing) if unfit else None
    if unfit is None or found is None:
        return None
    if "n_averaged" in unfit.unexpected:
        found["wrapper"] = "AveragedModel"
    without = sum(not key.startswith(str(found["prefix"])) for key in unfit.unexpected)
    return found | {"without": without or None}


def unprefixed(case: Case) -> Facts | None:
    """Return the prefix that the keys of the model have and those of the file do not."""
    unfit = _unfit(case)
    return _prefix(unfit.missing, unfit.unexpected) if unfit else None


def whole_checkpoint(case: Case) -> Facts | None:
    """Return the keys of a checkpoint that was given in place of the weights inside it."""
    unfit = _unfit(case)
    if unfit is None or not unfit.missing or any("." in key for key in unfit.unexpected):
        return None
    part = next((key for key in _WEIGHTS if key in unfit.unexpected), None)
    if part is None and not _BESIDE & set(unfit.unexpected):
        return None
    return {"part": part, "keys": _some(unfit.unexpected)}


def in_from_pretrained(case: Case) -> Facts | None:
    """Accept what transformers raises when it puts weights in."""
    return {} if raised_under(case, _FROM_PRETRAINED) else None


def other_head(case: Case) -> Facts | None:
    """Return the classes of the file and of the model, of which only the head differs."""
    unfit = _only_rows(case)
    heads = sorted({key.rpartition(".")[0] for key, _, _ in unfit.sizes}) if unfit else []
    if unfit is None or not all(heads) or _embedding(case, unfit):
        return None
    if len(unfit.sizes) == len(heads) and not all(_HEAD.match(h.split(".")[-1]) for h in heads):
        return None  # no bias and no name that says so: it may be an embedding
    old, new = min((old[0], new[0]) for _, old, new in unfit.sizes)
    if any(old * other[0] != new * one[0] for _, one, other in unfit.sizes):
        return None  # boxes have four numbers a class: the ratio is the same
    starts = ", ".join(f'"{head}."' for head in heads)
    return {
        "head": ", ".join(heads[:3]) + (", …" if len(heads) > len(heads[:3]) else ""),
        "starts": f"({starts})" if len(heads) > 1 else starts,
        "several": [key for key, _, _ in unfit.sizes] if len(heads) > 1 else None,
        "file_classes": old,
        "model_classes": new,
    } | _rest(case, unfit.absent)


def other_vocabulary(case: Case) -> Facts | None:
    """Return the rows of the embeddings of the file and of the model."""
    unfit = _only_rows(case)
    key = _embedding(case, unfit) if unfit else None
    counts = {(old[0], new[0]) for _, old, new in unfit.sizes} if unfit else set()
    if key is None or len(counts) != 1:
        return None
    old, new = counts.pop()
    return {"key": key, "file_rows": old, "model_rows": new}


def other_positions(case: Case) -> Facts | None:
    """Return for how many positions the file and the model have embeddings."""
    unfit = _only_sizes(case)
    if unfit is None or len(unfit.sizes) != 1:
        return None
    ((key, old, new),) = unfit.sizes
    differ = [at for at in range(len(old)) if at < len(new) and old[at] != new[at]]
    if not _POSITIONS.search(key) or len(old) != len(new) or len(differ) != 1:
        return None
    tokens, wanted = old[differ[0]], new[differ[0]]
    squares = {n: isqrt(n - 1) for n in (tokens, wanted) if n > 1 and isqrt(n - 1) ** 2 == n - 1}
    images = len(squares) == len((tokens, wanted)) and len(old) == 3
    return {
        "key": key,
        "file_positions": tokens,
        "model_positions": wanted,
        "file_grid": f"{squares[tokens]} x {squares[tokens]}" if images else None,
        "model_grid": f"{squares[wanted]} x {squares[wanted]}" if images else None,
    }


def other_channels(case: Case) -> Facts | None:
    """Return the channels that the first convolution of the file and of the model read."""
    unfit = _only_sizes(case)
    if unfit is None or len(unfit.sizes) != 1:
        return None
    ((key, old, new),) = unfit.sizes
    if len(old) != 4 or len(new) != 4 or (old[0], old[2:]) != (new[0], new[2:]):
        return None
    return {"key": key, "file_channels": old[1], "model_channels": new[1]}


def other_sizes(case: Case) -> Facts | None:
    """Return a tensor that the file and the model have in different sizes, and how many differ."""
    unfit = _unfit(case)
    if unfit is None or not unfit.sizes:
        return None
    key, old, new = unfit.sizes[0]
    several = len(unfit.sizes) if len(unfit.sizes) > 1 else None
    absent = len(unfit.missing) + len(unfit.unexpected) or None
    facts = {"key": key, "old": list(old), "new": list(new), "several": several, "absent": absent}
    return facts | _rest(case, unfit.absent)


def other_head_form(case: Case) -> Facts | None:
    """Return the head that the file and the model have with other layers inside."""
    unfit = _unfit(case)
    if unfit is None or not unfit.missing or not unfit.unexpected:
        return None
    sized = [key for key, _, _ in unfit.sizes]
    heads = {key.partition(".")[0] for key in (*unfit.missing, *unfit.unexpected, *sized)}
    if len(heads) != 1 or not _HEAD.match(head := heads.pop()):
        return None
    return {
        "head": head,
        "in_file": _some(unfit.unexpected),
        "in_model": _some(unfit.missing),
    } | _rest(case, unfit.absent)


def other_keys(case: Case) -> Facts | None:
    """Return how many keys only the model and only the file has."""
    unfit = _unfit(case)
    if unfit is None or not unfit.missing or not unfit.unexpected:
        return None
    return {
        "absent": len(unfit.missing),
        "beyond": len(unfit.unexpected),
        "in_model": f'"{unfit.missing[0]}"',
        "in_file": f'"{unfit.unexpected[0]}"',
    } | _rest(case, unfit.absent)


def only_missing(case: Case) -> Facts | None:
    """Return what the file lacks of the model, where it has nothing else."""
    unfit = _unfit(case)
    if unfit is None or not unfit.missing or unfit.unexpected or unfit.sizes:
        return None
    rest = _rest(case, unfit.absent)
    empty = rest.get("parameters") if rest.get("fit") == 0 else None
    return {"absent": len(unfit.missing), "in_model": _some(unfit.missing), "empty": empty} | rest


def only_unexpected(case: Case) -> Facts | None:
    """Return what the file has beyond the model, where it lacks nothing."""
    unfit = _unfit(case)
    if unfit is None or unfit.missing or not unfit.unexpected or unfit.sizes:
        return None
    counters = [key.rpartition(".")[2] in ("total_ops", "total_params") for key in unfit.unexpected]
    profiled = len(counters) if all(counters) else None
    return {"beyond": len(unfit.unexpected), "in_file": _some(unfit.unexpected), "thop": profiled}


def in_load_state_dict(case: Case) -> Facts | None:
    """Accept what ``Module.load_state_dict`` itself raises."""
    return {} if raised_under(case, (_MODULE,)) else None


def path_for_state(case: Case) -> Facts | None:
    """Accept a path that was given to load_state_dict."""
    if not re.search(r"^(?:str|(?:[\w.]+\.)?\w*Path)$", case.found["given"]):
        return None
    return in_load_state_dict(case)


def module_for_state(case: Case) -> Facts | None:
    """Accept an object of a class that is neither Python's nor an array; live: a module."""
    name = case.found["given"]
    given = case.variable("state_dict")
    if hasattr(builtins, name) or name.startswith(("numpy.", "collections.", "torch.Tensor")):
        return None
    found = in_load_state_dict(case)
    if found is None or "." not in name or (case.live and not isinstance(given, ModuleFacts)):
        return None
    if isinstance(given, ModuleFacts):
        return {"seen": given.kind, "count": len(given.parameters)}
    return found


def other_for_state(case: Case) -> Facts | None:
    """Return whether None was given to load_state_dict, or something else that is no dict."""
    none = "None" if case.found["given"] == "NoneType" else None
    return None if in_load_state_dict(case) is None else {"none": none}


def _unfit(case: Case) -> _Unfit | None:
    """Return what a message of load_state_dict says, if it is torch's own."""
    if in_load_state_dict(case) is None:
        return None
    message = case.raised.message
    sizes = tuple((k, _size(old), _size(new)) for k, old, new in _SIZES.findall(message))
    return _Unfit(_listed(message, "Missing"), _listed(message, "Unexpected"), sizes)


def _only_sizes(case: Case) -> _Unfit | None:
    unfit = _unfit(case)
    if unfit is None or not unfit.sizes or unfit.missing or unfit.unexpected:
        return None
    return unfit


def _only_rows(case: Case) -> _Unfit | None:
    """Return what does not fit, if that is how many rows some tensors have, and nothing else."""
    unfit = _only_sizes(case)
    sizes = unfit.sizes if unfit else ()
    if not all(old and new and old[1:] == new[1:] for _, old, new in sizes):
        return None
    return unfit


def _embedding(case: Case, unfit: _Unfit) -> str | None:
    """Return a key of an embedding, told by the model where it is at hand, else by its name."""
    module = case.innermost_module()
    kinds = module.modules if module else {}
    for key, old, _ in unfit.sizes:
        of_kind = kinds.get(key.rpartition(".")[0])
        named = bool(_VOCABULARY.search(key)) and not _POSITIONS.search(key)
        if len(old) == len(("rows", "columns")) and (of_kind == "Embedding" if of_kind else named):
            return key
    return None


def _listed(message: str, kind: str) -> tuple[str, ...]:
    found = re.search(rf"{kind} key\(s\) in state_dict: (.*)", message)
    return tuple(_KEYS.findall(found[1])) if found else ()


def _size(text: str) -> tuple[int, ...]:
    return tuple(int(number) for number in text.split(",") if number.strip())


def _prefix(longer: Sequence[str], shorter: Collection[str]) -> dict[str, object] | None:
    """Return the prefix without which most of some keys are most of some others."""
    others = set(shorter)
    found = Counter(
        key[: at + 1]
        for key in longer
        for at, letter in enumerate(key)
        if letter == "." and key[at + 1 :] in others
    )
    for prefix, same in found.most_common(1):
        if 2 * same > len(others) and 2 * same >= len(longer):
            names = prefix.rstrip(".").split(".")
            known = [_WRAPPERS[name] for name in names if name in _WRAPPERS]
            wrapper = " + ".join(known) if len(known) == len(names) else None
            return {"prefix": prefix, "wrapper": wrapper, "same": same, "all": len(longer)}
    return None


def _rest(case: Case, unfit: Collection[str]) -> dict[str, object]:
    """Return how many parameters the model has, and how many fit, where the program still runs."""
    module = case.innermost_module()
    if module is None:
        return {}
    names = module.parameters.keys()
    return {"parameters": len(names), "fit": len(names - set(unfit))}


def _some(keys: Sequence[str], most: int = 3) -> str:
    return ", ".join(f'"{key}"' for key in keys[:most]) + (", …" if len(keys) > most else "")
