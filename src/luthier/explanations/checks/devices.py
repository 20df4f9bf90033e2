"""Errors of devices, of their memory, and of versions that do not fit together."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise

from luthier.explanations.names import bind
from luthier.explanations.values import (
    Case,
    Fact,
    Facts,
    Frame,
    ModuleFacts,
    ObjectFacts,
    TensorFacts,
)

_TORCHS = re.compile(r"[/\\](?:torch|torchvision|torchaudio|triton|numpy)[/\\]|^<frozen ")
_OTHERS = re.compile(r"[/\\](?:tensorflow|jax|jaxlib|cupy|numba|onnxruntime|paddle|mxnet)[/\\]")
_BY_HAND = re.compile(r"(?:raise|assert)\b")
_ASKED = re.compile(r"map_location\s*=\s*(?P<asked>[\w.]+\([^)]*\)|[^,)]+)")
_LOSSES = re.compile(r"cross_entropy|_loss$|^loss$|^kl_div$|^gaussian_nll")
_EVALUATIONS = re.compile(r"eval|valid|test|predict|infer", re.IGNORECASE)
_SUMS = re.compile(r"total|running|sum|epoch|accum|avg|mean|history", re.IGNORECASE)

# Of each form of the message: the device of one tensor, of the others, and what it is called.
_APART = [
    re.compile(form)
    for form in (
        r"but got (?P<name>\w+) is on (?P<its>[\w:]+), different from other tensors on "
        r"(?P<others>[\w:]+)",
        r"found at least two devices, (?P<others>[\w:]+) and (?P<its>[\w:]+)! "
        r"\(when checking argument for argument (?P<name>\w+)",
        r"(?P<name>Input) type \((?P<its>[\w.]+)\) and \w+ type \((?P<others>[\w.]+)\)",
        r"found (?P<name>input) tensor at (?P<its>[\w:]+) and \w+ tensor at (?P<others>[\w:]+)",
        r"(?P<name>input)\(device='?(?P<its>[\w:]+)'?\) and weight\(device='?(?P<others>[\w:]+)",
        r"query\.device: (?P<its>[\w:]+) key\.device: (?P<others>[\w:]+)",
        r"(?P<name>Placeholder) storage has not been allocated on MPS device",
        r"found (?:at least )?two (?:different )?devices,? (?P<its>[\w:]+)(?: and|,) "
        r"(?P<others>[\w:]+)",
        r"Tensor on device (?P<its>[\w:]+) is not on the expected device (?P<others>[\w:]+)!",
    )
]
_INPUTS = {"mat1", "index", "indices", "input", "Input"}
_WEIGHTS = {"weight", "mat2", "bias", "running_mean", "running_var"}

_BUILDS = {11: "cu118", 12: "cu126"}  # that run on every driver of their major version

_PACKAGES = {"flash_attn_2_cuda": "flash-attn", "selective_scan_cuda": "mamba-ssm"}
_UNITS = {"bytes": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40}
_UNITS |= {unit.replace("i", ""): size for unit, size in _UNITS.items() if "i" in unit}
_SIZE = r"([\d.]+) (bytes|[KMGT]i?B)"
_SIZES = {
    "tried": f"Tried to allocate {_SIZE}",
    "total": f"total capaci?ty of {_SIZE}|; {_SIZE} total capacity",
    "free": f"of which {_SIZE} is free|; {_SIZE} free",
    "own": f"this process has {_SIZE} memory in use|; {_SIZE} reserved in total",
    "allocated": f"memory {_SIZE} is allocated by PyTorch|; {_SIZE} already allocated",
    "cached": f"{_SIZE} is reserved by PyTorch but unallocated",
    "allowed": f"{_SIZE} allowed",
}

Check = Callable[[Case], Facts | None]


def by_torch(check: Check) -> Check:
    """Return a check that first asks whether PyTorch said it: no line by hand, no other library."""

    @functools.wraps(check)
    def checked(case: Case) -> Facts | None:
        frame = case.raised.frames[-1] if case.raised.frames else None
        by_hand = frame and _BY_HAND.match(frame.source) and not _TORCHS.search(frame.path)
        by_others = frame and _OTHERS.search(frame.path)
        return None if by_hand or by_others else check(case)

    return checked


@by_torch
def said(case: Case) -> Facts:
    """Return what the machine adds; the message decides."""
    return {"cpu_torch": case.here.torch if case.here.cuda_build is False else None}


@by_torch
def loaded(case: Case) -> Facts:
    """Return where the user's call of ``torch.load`` wants the file to be."""
    found = (_ASKED.search(frame.source) for frame in reversed(_own(case)))
    asked = next((match["asked"].strip() for match in found if match), None)
    backend = case.found.get("backend", "").lower()
    return {
        "asked": asked,
        "backend": backend,
        "cpu_torch": case.here.torch if case.here.cuda_build is False else None,
    }


@by_torch
def in_a_worker(case: Case) -> Facts | None:
    """Return where a data set used CUDA in a worker of a DataLoader."""
    if not any("_utils/worker" in _path(frame) for frame in case.raised.frames):
        return None
    own = _own(case)
    return {"function": own[-1].function, "line": own[-1].line} if own else {}


@by_torch
def ordinal(case: Case) -> Facts:
    """Return the device that the user's line names."""
    found = (re.search(r"cuda:\d+", frame.source) for frame in reversed(_own(case)))
    return {"asked": next((match[0] for match in found if match), None)}


@by_torch
def data_parallel(case: Case) -> Facts | None:
    """Return facts where DataParallel or its like asks for a device's properties."""
    is_it = any(re.search(r"torch/(?:nn/parallel|cuda)/", _path(f)) for f in case.raised.frames)
    return {} if is_it else None


@by_torch
def backend(case: Case) -> Facts:
    """Return the device that torch is built without."""
    return {"name": next(iter(case.found.values())).lower()}


@by_torch
def device_name(case: Case) -> Facts:
    """Return what was given as a device, and what was probably meant."""
    given = case.found.get("text", case.found.get("word", ""))
    parts = re.fullmatch(r"(?P<kind>[a-z]+?)[\s:_]*(?P<number>\d*)", given.lower())
    kind = parts and {"gpu": "cuda", "nvidia": "cuda"}.get(parts["kind"], parts["kind"])
    if kind not in ("cpu", "cuda", "mps", "xpu"):
        return {"given": given}
    number = parts["number"] if parts and kind != "cpu" else ""
    return {"given": given, "meant": f"{kind}:{number}" if number else kind}


@by_torch
def driver(case: Case) -> Facts:
    """Return the CUDA that a driver goes up to, and torch's builds of that major version."""
    number = case.found.get("number")
    if number is None:
        return {}
    major, minor = int(number) // 1000, int(number) % 1000 // 10
    return {"cuda": f"{major}.{minor}", "major": major, "tag": _BUILDS.get(major)}


@by_torch
def not_started(case: Case) -> Facts:
    """Return what CUDA's own number of the error says."""
    kind = {"802": "fabric", "2": "full"}.get(case.found.get("number", ""))
    return {kind: case.found["told"]} if kind else {}


@by_torch
def hidden(case: Case) -> Facts:
    """Return the variable that hides all devices of this machine, where it does."""
    here = case.here
    is_it = here.gpus and here.visible_gpus == 0
    return {"hiding": here.cuda_visible_devices if is_it else None}


# Tensors on different devices


@by_torch
def apart(case: Case) -> Facts | None:
    """Return the devices of tensors that are on several."""
    found = _apart(case)
    return found if found is not None and found["its"] != found["others"] else None


@by_torch
def apart_in_loss(case: Case) -> Facts | None:
    """Return which argument of a loss is on another device."""
    found = _apart(case)
    frames = case.raised.frames
    inside = any(_LOSSES.search(f.function) or "nn/modules/loss" in _path(f) for f in frames)
    if found is None or not inside:
        return None
    tensors = {name: case.variable(name) for name in ("input", "target", "weight")}
    at = {name: t.device for name, t in tensors.items() if isinstance(t, TensorFacts)}
    output = at.get("input")
    odd = next((name for name in ("weight", "target") if at.get(name) not in (None, output)), None)
    if odd is None or output is None:
        odd, output, at = found.get("name"), found["others"], {str(found.get("name")): found["its"]}
    kinds = {"weight": "weights_at", "target": "labels_at", "self": "outputs_at"}
    own = {kinds[odd]: at[odd]} if odd in kinds else {}
    names = _plain(("CRITERION(OUTPUTS, LABELS)",), case.raised.frames)
    return {**found, **names, **own, "rest_at": output}


@by_torch
def apart_in_optimizer(case: Case) -> Facts | None:
    """Return the devices where an optimizer's state is away from its parameters."""
    if not any("torch/optim/" in _path(frame) for frame in case.raised.frames):
        return None
    found = _apart(case)
    for fact in _values(case):
        devices = fact.fields.get("devices") if isinstance(fact, ObjectFacts) else None
        if found is not None and isinstance(devices, tuple) and devices:
            return {**found, "optimizer_kind": fact.kind, "state_at": ", ".join(devices)}  # type: ignore[union-attr]
    return found


@by_torch
def apart_on_meta(case: Case) -> Facts | None:
    """Return which layer's weights have no values."""
    found = _apart(case)
    if found is None or "meta" not in (found["its"], found["others"]):
        return None
    return {**found, **_on_meta(case)}


@by_torch
def without_values(case: Case) -> Facts:
    """Return which of a model's tensors are on the meta device."""
    calls = ("MODEL.to(DEVICE)", "MODEL.cpu()", "MODEL.cuda()")
    return {**_plain(calls, case.raised.frames), **_on_meta(case)}


@by_torch
def apart_in_layer(case: Case) -> Facts | None:
    """Return on which device a layer's input is, and on which its weights."""
    found = _apart(case)
    if found is None or found.get("name") not in _INPUTS | _WEIGHTS | {"Placeholder"}:
        return None
    is_input = found["name"] not in _WEIGHTS
    ends = (found["its"], found["others"])
    input_at, weights_at = ends if is_input else ends[::-1]
    if input_at == weights_at:
        return None
    return {
        "input_at": input_at,
        "weights_at": weights_at,
        "moves_to": input_at if weights_at == "cpu" else None,
        **_called(case),
        **_layer(case),
    }


def _apart(case: Case) -> dict[str, str] | None:
    for form in _APART:
        found = form.search(case.raised.message)
        if found is not None:
            parts = {"its": "cpu", "others": "mps:0", **found.groupdict()}
            return {name: _device(part) for name, part in parts.items()}
    return None


def _device(told: str) -> str:
    """Return a device as torch writes it, of a type such as ``torch.cuda.FloatTensor``."""
    if not told.endswith(("Tensor", "Type")):
        return told
    if told.startswith("MPS"):
        return "mps"
    kind = told.removeprefix("torch.").rpartition(".")[0]
    return "cuda" if told.startswith("CUDA") else kind or "cpu"


def _layer(case: Case) -> Facts:
    """Return the layer at work, and whether ``.to`` does not reach it from the model."""
    inner = case.innermost_module()
    if inner is None:
        return {}
    outer = next(f for v in case.live if isinstance(f := v.get("self"), ModuleFacts))
    is_stray = not inner.path and inner != outer and bool(inner.parameters)
    given = case.variable("input")
    return {
        "layer": f"{inner.path} ({inner.kind})" if inner.path else inner.kind,
        "shape": list(given.shape) if isinstance(given, TensorFacts) else None,
        "stray": inner.kind if is_stray else None,
        "outer": outer.kind,
    }


def _called(case: Case) -> Facts:
    """Return what the user calls the model and its input, where the line says it plainly."""
    for frame, inner in pairwise(case.raised.frames):
        if not frame.is_library and inner.is_library:
            return _plain(("MODEL(INPUTS)",), [frame])
    return {}


def _plain(calls: Sequence[str], frames: Sequence[Frame]) -> dict[str, str]:
    """Return the user's names of a call; for an expression that calls something, a plain name."""
    found = bind(calls, frames)
    return {name: name if "(" in text else text for name, text in found.items()}


def _on_meta(case: Case) -> Facts:
    models = [fact for fact in _values(case) if isinstance(fact, ModuleFacts)]
    model = max(models, key=lambda model: len(model.parameters), default=None)
    if model is None:
        return {}
    tensors = {**model.parameters, **model.buffers}
    empty = [name for name, tensor in tensors.items() if tensor.device == "meta"]
    if not empty:
        return {}
    return {"kind": model.kind, "empty": len(empty), "all": len(tensors), "first": empty[0]}


@by_torch
def generator(case: Case) -> Facts:
    """Return the function that drew for a DataLoader, where one did."""
    draws = (frame for frame in case.raised.frames if "data/sampler" in _path(frame))
    sampler = next(draws, None)
    return {"sampler": sampler and "DataLoader", "drawing": sampler and sampler.function}


@by_torch
def of_gpu(case: Case) -> Facts:
    """Return whether what was to be pinned is on a GPU."""
    return {"gpu_type": case.found["type"] if "cuda" in case.found["type"] else None}


@by_torch
def pinned(case: Case) -> Facts | None:
    """Return facts where memory was to be pinned."""
    frames = case.raised.frames
    is_it = any("pin_memory" in frame.function + frame.source for frame in frames)
    return said(case) if is_it else None


# Assertions of kernels


@by_torch
def asserted_label(case: Case) -> Facts | None:
    """Return which label of a batch a kernel found to be none of the classes."""
    found = re.search(
        r"thread: \[(?P<thread>\d+),\d+,\d+\] Assertion `t(?:arget_val)? >= 0 && "
        r"t(?:arget_val)? < n_classes` failed",
        case.raised.before,
    )
    if found is None or re.search(r"nll_loss2d|Spatial", case.raised.before):
        return None
    return {"thread": found["thread"], **_labels(case)}


@by_torch
def asserted_pixel(case: Case) -> Facts | None:
    """Return facts where the label of a pixel is none of the classes."""
    before = case.raised.before
    is_it = "< n_classes` failed" in before and re.search(r"nll_loss2d|Spatial", before)
    return _labels(case) if is_it else None


@by_torch
def asserted_row(case: Case) -> Facts | None:
    """Return facts where a row of a table, such as an embedding's, does not exist."""
    kernels = r"(?:indexSelect\w*|vectorized_gather_kernel|embedding\w*): block"
    found = re.search(kernels, case.raised.before)
    lookup = any(frame.function == "embedding" for frame in case.raised.frames)
    if found is None and not (lookup and "Assertion `" in case.raised.before):
        return None
    return {"assertion": _assertion(case)}


@by_torch
def asserted_index(case: Case) -> Facts | None:
    """Return facts where an index is outside a tensor."""
    assertion = _assertion(case)
    if assertion is None or not re.search(r"ind(?:ex|ices)|idx|Index", assertion):
        return None
    return {"assertion": assertion}


@by_torch
def asserted_probability(case: Case) -> Facts | None:
    """Return facts where a loss of probabilities got none."""
    assertion = _assertion(case) or ""
    is_it = re.search(r"(?:input|target)_val >= zero && (?:input|target)_val <= one", assertion)
    return {"which": "target" if "target" in assertion else "input"} if is_it else None


@by_torch
def asserted(case: Case) -> Facts:
    """Return the assertion that was printed, and labels that are outside of the classes."""
    return {"assertion": _assertion(case), **_labels(case)}


def _assertion(case: Case) -> str | None:
    found = re.search(r"Assertion `(?P<text>.+?)` failed", case.raised.before)
    return found["text"] if found else None


def _labels(case: Case) -> Facts:
    """Return the labels of the data sets at hand, where they are no numbers of classes."""
    output = case.variable("input")
    classes = None
    if isinstance(output, TensorFacts) and len(output.shape) > 1:
        classes = output.shape[1]
    for fact in _values(case):
        if isinstance(fact, ObjectFacts) and "high" in fact.fields:
            low, high = fact.fields["low"], fact.fields["high"]
            return {"low": low, "high": high, "classes": classes}
    return {}


# Memory


@by_torch
def larger_than_device(case: Case) -> Facts | None:
    """Return facts where a single tensor has no room on the whole device."""
    sizes = _sizes(case)
    is_it = 0 < sizes.get("total", 0) <= sizes["tried"]
    return _told(sizes) if is_it else None


@by_torch
def of_others(case: Case) -> Facts | None:
    """Return what other processes hold, where it is more than this one holds."""
    sizes = _sizes(case)
    if not {"total", "free", "own"} <= sizes.keys() or "allowed" in sizes:
        return None
    others = sizes["total"] - sizes["free"] - sizes["own"]
    is_it = others > sizes["own"] and others > sizes["total"] / 4
    processes = re.findall(r"Process (\d+) has", case.raised.message)
    return (
        {
            **_told({**sizes, "others": others}),
            "processes": ", ".join(processes) or None,
        }
        if is_it
        else None
    )


@by_torch
def capped(case: Case) -> Facts | None:
    """Return how much the process allows itself."""
    sizes = _sizes(case)
    return _told(sizes) if "allowed" in sizes else None


@by_torch
def fragmented(case: Case) -> Facts | None:
    """Return what is held in pieces, where they together would be enough."""
    sizes = _sizes(case)
    if "cached" not in sizes and {"own", "allocated"} <= sizes.keys():
        sizes["cached"] = sizes["own"] - sizes["allocated"]  # as it was told until torch 1.13
    cached, total = sizes.get("cached", 0), sizes.get("total", 0)
    return _told(sizes) if total and cached >= max(sizes["tried"], total / 20) else None


@by_torch
def of_a_move(case: Case) -> Facts | None:
    """Return the sizes where a model was moved to the device."""
    is_move = any(frame.function == "_apply" for frame in case.raised.frames)
    return _told(_sizes(case)) if is_move else None


@by_torch
def of_an_optimizer(case: Case) -> Facts | None:
    """Return the sizes where an optimizer's step needed them."""
    is_step = any("torch/optim/" in _path(frame) for frame in case.raised.frames)
    return _told(_sizes(case)) if is_step else None


@by_torch
def of_a_batch(case: Case) -> Facts:
    """Return the sizes, a batch that may have room, and what keeps the graphs of all batches."""
    sizes = _sizes(case)
    return {**_told(sizes), **_kept(case), **_evaluated(case), **_smaller(case, sizes)}


@by_torch
def of_host(case: Case) -> Facts:
    """Return how much memory of the host was asked for, and what keeps all graphs."""
    asked = case.found.get("asked")
    return {"tried": _human(int(asked)) if asked else case.found.get("told"), **_kept(case)}


def _sizes(case: Case) -> dict[str, float]:
    found: dict[str, float] = {"tried": 0}
    for name, form in _SIZES.items():
        match = re.search(form, case.raised.message)
        if match is not None:
            number, unit = (part for part in match.groups() if part is not None)
            found[name] = float(number) * _UNITS[unit]
    return found


def _told(sizes: Mapping[str, float]) -> dict[str, object]:
    return {name: _human(size) for name, size in sizes.items() if size or name != "tried"}


def _human(size: float) -> str:
    for unit in ("TiB", "GiB", "MiB", "KiB"):
        if size >= _UNITS[unit]:
            return f"{size / _UNITS[unit]:.1f} {unit}"
    return f"{size:.0f} bytes"


def _kept(case: Case) -> Facts:
    """Return a sum of losses that has its graph, and with it all activations of all batches."""
    for variables, frame in zip(case.live, case.raised.frames, strict=False):
        for name, fact in variables.items():
            is_sum = isinstance(fact, TensorFacts) and not fact.shape and fact.requires_grad
            if is_sum and not frame.is_library and _SUMS.search(name):
                return {"sum": name}
    return {}


def _evaluated(case: Case) -> Facts:
    """Return the function of the user that evaluates, though what it computes is recorded."""
    recorded = any(isinstance(f, TensorFacts) and not f.is_leaf for f in _values(case))
    names = [frame.function for frame in _own(case) if _EVALUATIONS.search(frame.function)]
    return {"evaluation": names[-1]} if names and recorded else {}


def _smaller(case: Case, sizes: Mapping[str, float]) -> Facts:
    """Return the batch, and the greatest power of two of which the numbers allow that it fits."""
    given = case.variable("input")
    if not isinstance(given, TensorFacts) or not given.shape or not sizes.get("allocated"):
        return {}
    room = sizes["allocated"] + sizes.get("free", 0) + sizes.get("cached", 0)
    batch = given.shape[0]
    most = min(batch - 1, int(batch * room / (sizes["allocated"] + sizes["tried"])))
    return {"batch": batch, "smaller": 2 ** (most.bit_length() - 1)} if most > 0 else {}


# Versions


@by_torch
def extension(case: Case) -> Facts:
    """Return the package that a compiled file belongs to."""
    found = re.search(r"site-packages/(?P<folder>\w+)", case.raised.message)
    folder = found["folder"] if found else case.found["library"].partition(".")[0]
    is_torchs = folder in ("torch", "nvidia") or folder.startswith("lib")
    return {"package": None if is_torchs else _PACKAGES.get(folder, folder)}


@by_torch
def of_opencv(case: Case) -> Facts | None:
    """Return facts where OpenCV was imported."""
    return {} if any(re.search(r"[/\\]cv2[/\\]", f.path) for f in case.raised.frames) else None


@by_torch
def near_torch(case: Case) -> Facts | None:
    """Return facts where torch, or a library that it loads, is what did not load."""
    inside = any(_TORCHS.search(frame.path) for frame in case.raised.frames)
    return {} if inside or re.search(r"torch|nvidia|triton", case.raised.message) else None


@by_torch
def dll(case: Case) -> Facts | None:
    """Return facts where a DLL of torch did not load."""
    inside = any(_TORCHS.search(frame.path) for frame in case.raised.frames)
    if not (inside or "torch" in case.raised.message):
        return None
    return {"paging": "WinError 1455" if case.found.get("number") == "1455" else None}


def _own(case: Case) -> Sequence[Frame]:
    return [frame for frame in case.raised.frames if not frame.is_library]


def _path(frame: Frame) -> str:
    return frame.path.replace("\\", "/")


def _values(case: Case) -> Iterator[Fact]:
    """Yield all that is live, the innermost call's first."""
    for variables in reversed(case.live):
        yield from variables.values()
