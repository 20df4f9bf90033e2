"""From a recipe to everything that a run needs, checked before anything is written."""

from __future__ import annotations

import functools
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from luthier import adapt, data, devices, models, recipe, strategies, training
from luthier.adapt import HeadFit, LoadPlan
from luthier.adapt.classes import ClassMatch, match_classes
from luthier.data import Batches, Decoded, Inventory, Photos
from luthier.devices import Chosen
from luthier.distributed import ALONE, Share, World
from luthier.errors import RecipeError
from luthier.keys import key
from luthier.models import Head, Start
from luthier.recipe import Recipe, decided
from luthier.report import Console
from luthier.run import heads
from luthier.run.writers import Writer, opened
from luthier.strategies import Policy
from luthier.training import Precision, SyncedNorms
from luthier.values import Block, Choice, Preprocessing

_GIB = 2**30


@dataclass(frozen=True)
class Job:
    """A run that is ready to start.

    Attributes:
        recipe: resolved, with what data, weights and machine decided filled in.
        photos: every image readable.
        decoded: keeps them decoded.
        chosen: device and workers.
        precision: where and in which arithmetic the model runs.
        model: on its device (on the host, where it is to be cut among processes), with its new
            head and the start's weights, in the modes of the first epoch.
        head: its head.
        blocks: from the input to the head.
        policy: which blocks learn.
        preprocessing: of validation and prediction.
        start: plain JSON: what the weights come from.
        match: how the head's rows were found, with a head by name that was not resumed.
        norms: what takes its statistics from the batches of all processes.
        recomputed: blocks whose activations are computed again, and how they compute.
        world: the processes that do it.
        writers: by name, of its records; the first process alone has them.
    """

    recipe: Recipe
    photos: Photos
    decoded: Decoded
    chosen: Chosen
    precision: Precision
    model: nn.Module
    head: Head
    blocks: tuple[Block, ...]
    policy: Policy
    preprocessing: Preprocessing
    start: dict[str, Any]
    match: ClassMatch | None = None
    norms: SyncedNorms | None = None
    recomputed: dict[nn.Module, Callable[..., Any]] = field(default_factory=dict)
    world: World = ALONE
    writers: Mapping[str, Writer] = field(default_factory=dict)

    @property
    def is_cut(self) -> bool:
        """Whether the model is to be cut among the processes."""
        return bool(self.recipe.machine.shard) and self.world.size > 1


def prepare(
    wanted: Recipe,
    console: Console,
    *,
    held: Choice | None = None,
    resumed: bool = False,
    known: Inventory | None = None,
    world: World = ALONE,
) -> Job:
    """Read the data, build the model, fit the weights, choose the device; say so.

    Cheap checks come first, and nothing is written.

    Args:
        wanted: resolved.
        console: told the device first, then data, weights and strategy.
        held: the device that is held for it.
        resumed: leave the start's weights out, since a checkpoint brings its own.
        known: what was found in the images before.
        world: the processes that do the job, each on a device of its own.

    Raises:
        LuthierError: anything that keeps the run from starting; see each room.
    """
    _check_shards(wanted, world)
    writers = opened(wanted.machine.log) if world.is_first else {}
    found = devices.probe().part(world.local_rank, world.local_size)
    machine = wanted.machine
    chosen = devices.choose(found, decided(machine.device), machine.workers, held)
    console.say(str(chosen))
    if chosen.device.value == "cpu":
        devices.keep_freed_memory()
    if machine.virtual_shards is not None:
        torch.set_num_threads(1)  # whose number decides the last bits of sums
    elif devices.fit_threads(found.cores):
        console.say(
            f"  torch computes with {found.cores} threads, as many as there are cores for it"
        )
    listing = data.list_images(Path(decided(wanted.data.data)))
    start = _start(wanted, resumed)
    match = _match(wanted, listing.classes, start)
    model, head, plan = _fit(wanted, len(listing.classes), start, match)
    norms = SyncedNorms(model) if machine.sync_batchnorm and world.size > 1 else None
    look = _look(wanted, start)
    shape = 3, look.image_size, look.image_size
    again = training.recomputed(model, shape) if machine.checkpoint_activations else {}
    decoded = _decoded(wanted, data.decoded_edge(look), world.local_size)
    photos = _photos(wanted, listing, console, known, decoded)
    blocks = strategies.blocks_of(model, head.name)
    policy = strategies.policy_of(decided(wanted.strategy.strategy), recipe.values(wanted))
    strategies.apply_rates(model, blocks, policy.rates(len(blocks) - 1, 0))
    device = chosen.device.value
    if not (machine.shard and world.size > 1):  # it goes there in pieces
        Precision(device).prepare(model)
    arithmetic = _arithmetic_of_shards(wanted) or devices.choose_precision(
        found,
        device,
        decided(machine.precision),
        lambda: devices.bf16_speedup(model, decided(wanted.data.image_size), device),
    )
    complete = _complete(wanted, photos, chosen, arithmetic, look)
    _say(console, complete, photos, start, plan)
    console.say(f"precision {arithmetic}")
    overlap = _overlap(photos.classes, start, match)
    _say_classes(console, match, overlap)
    return Job(
        recipe=complete,
        photos=photos,
        decoded=decoded,
        chosen=chosen,
        precision=Precision(device, arithmetic.value),
        model=model,
        head=head,
        blocks=blocks,
        policy=policy,
        preprocessing=look,
        start=_describe(start, plan, match, overlap),
        match=match,
        norms=norms,
        recomputed=again,
        world=world,
        writers=writers,
    )


def _check_shards(wanted: Recipe, world: World) -> None:
    shards = wanted.machine.virtual_shards
    if shards is not None and shards % world.size:
        raise RecipeError(
            f"--virtual-shards {shards} cannot be given to {world.size} processes, as many to each",
            cure=f"start such a number of processes as divides {shards}",
        )


def _arithmetic_of_shards(wanted: Recipe) -> Choice | None:
    is_open = decided(wanted.machine.precision) == "auto"
    if wanted.machine.virtual_shards is None or not is_open:
        return None
    return Choice("fp32", "what is measured must not decide the bits of --virtual-shards")


def _start(wanted: Recipe, resumed: bool) -> Start:
    if resumed:
        return Start(None, "checkpoint")
    return models.start_weights(decided(wanted.model.model), decided(wanted.model.weights))


def _match(wanted: Recipe, classes: Sequence[str], start: Start) -> ClassMatch | None:
    if wanted.model.head != "by-name" or start.archive is None:
        return None
    return heads.rows_by_name(classes, start)


def _fit(
    wanted: Recipe, classes: int, start: Start, match: ClassMatch | None
) -> tuple[nn.Module, Head, str]:
    seed = decided(wanted.training.seed)
    name = decided(wanted.model.model)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(key(seed, "init"))
        model = models.build(name, classes)
        torch.default_generator.manual_seed(key(seed, "head"))
        head = models.replace_head(
            model, models.find_head(model, wanted.model.head_module), classes
        )
    report = str(_load(model, head, start, match)) if start.archive is not None else ""
    models.check_head(model, head, decided(wanted.data.image_size))
    return model, head, report


def _load(model: nn.Module, head: Head, start: Start, match: ClassMatch | None) -> LoadPlan:
    assert start.archive is not None  # noqa: S101 - nobody calls it without
    of_head = tuple(t for t in model.state_dict() if t.startswith(f"{head.name}."))
    if match is None:
        return adapt.load(model, start.archive, head=HeadFit(of_head, "replace"))
    rows = HeadFit(of_head, "rows", match.rows, of=len(start.classes))
    return adapt.load(model, start.archive, head=rows)


def batches_of(job: Job, *, shuffle: bool = True) -> tuple[Batches, Batches]:
    """Return the batches of a job's training photos and of its validation photos.

    Args:
        job: ready to start.
        shuffle: give the training photos an order of its own in each epoch.
    """
    make = _batches(job)
    # Of a probe, files of features go round, and the batches in them are whole.
    is_probe = job.recipe.strategy.strategy == "probe"
    ours = (0, 1) if is_probe else (job.world.rank, job.world.size)
    learning = Share(*ours, pieces=job.recipe.machine.virtual_shards)
    looking = Share(*ours, whole=True)
    learn = make(
        job.photos.train,
        job.preprocessing,
        augment_of(job.recipe.data),
        shuffle=shuffle,
        share=learning,
    )
    return learn, make(job.photos.val, job.preprocessing, share=looking)


def batches_of_all(job: Job) -> Batches:
    """Return batches of all of a job's photos, in the listing's order, as validation sees them."""
    sides = {"train": iter(job.photos.train), "val": iter(job.photos.val)}
    every = tuple(next(sides[e.side]) for e in job.photos.inventory.readable if e.side is not None)
    return _batches(job)(every, job.preprocessing)


def _batches(job: Job) -> functools.partial[Batches]:
    """Return what makes batches of photos."""
    how = job.recipe.training
    return functools.partial(
        Batches,
        batch_size=decided(how.batch_size),
        seed=decided(how.seed),
        workers=int(job.chosen.workers.value),
        device=job.chosen.device.value,
        pin_memory=job.recipe.machine.pin_memory is not False,
        decoded=job.decoded,
    )


def augment_of(how: recipe.Data) -> data.Augment | None:
    """Return how training images are varied; None of a probe with one view."""
    if how.augment is None:
        return None
    return data.Augment.of(how.augment, how.color_jitter, how.rand_augment, how.erase)


def keep_photos_in(folder: Path, job: Job) -> None:
    """Let decoded photos that memory cannot hold be kept on the disk of a run's folder."""
    given, free = job.recipe.machine.cache_disk, shutil.disk_usage(folder).free
    room = free // 10 if given is None else int(given * _GIB)
    job.decoded.spill_to(folder, room // job.world.local_size)


def _look(wanted: Recipe, start: Start) -> Preprocessing:
    how = wanted.data
    return Preprocessing(
        resize=decided(how.resize),
        image_size=decided(how.image_size),
        interpolation=how.interpolation or start.interpolation,
        mean=how.mean or start.mean,
        std=how.std or start.std,
    )


def _decoded(wanted: Recipe, shortest: int, processes: int) -> Decoded:
    memory = wanted.machine.cache_memory
    # Where the system does not say what is free, 1 GiB holds two thousand photos.
    free = (devices.memory_allowed() or 2 * _GIB) // 2
    room = free if memory is None else int(memory * _GIB)
    return Decoded(shortest, memory=room // processes)


def _photos(
    wanted: Recipe,
    listing: data.Listing,
    console: Console,
    known: Inventory | None,
    decoded: Decoded,
) -> Photos:
    console.start(len(listing.images), 0, unit="image checked")
    try:
        return data.open_photos(
            listing,
            val_fraction=wanted.data.val_fraction,
            fold=None if wanted.data.fold is None else recipe.parse_fold(wanted.data.fold),
            strict=bool(wanted.data.strict_images),
            seed=decided(wanted.training.seed),
            known=known,
            decoded=decoded,
            progress=lambda _done, _total: console.advance(1),
        )
    finally:
        console.stop()


def _complete(
    wanted: Recipe, photos: Photos, chosen: Chosen, arithmetic: Choice, look: Preprocessing
) -> Recipe:
    given = wanted.data
    weights = decided(wanted.model.weights)
    is_file = weights != "none" and Path(weights).is_file()
    return recipe.replace(
        wanted,
        data=str(Path(decided(given.data)).resolve()),
        val_fraction=photos.val_fraction,
        mean=look.mean,
        std=look.std,
        interpolation=look.interpolation,
        weights=str(Path(weights).resolve()) if is_file else weights,
        device=_lasting(decided(wanted.machine.device), chosen.device.value),
        precision=arithmetic.value,
        workers=int(chosen.workers.value),
    )


def _lasting(asked: str, chosen: str) -> str:
    """Return the device of a recipe: which of several it was is of no matter in another session."""
    return chosen.partition(":")[0] if asked in ("auto", "cuda") else asked


def _describe(start: Start, plan: str, match: ClassMatch | None, overlap: str) -> dict[str, Any]:
    sha256 = start.archive.sha256 if start.archive is not None else None
    # A model file is handed on: it names the file it came from, not a path of this machine.
    source = Path(start.source).name if Path(start.source).is_file() else start.source
    told = {"source": source, "sha256": sha256, "loaded": plan, "overlap": overlap}
    return told if match is None else told | {"classes": heads.described(match)}


def _say(console: Console, complete: Recipe, photos: Photos, start: Start, plan: str) -> None:
    classes = ", ".join(photos.classes[:8]) + (", …" if len(photos.classes) > 8 else "")
    console.say(
        f"data {complete.data.data}: {len(photos.train)} training and {len(photos.val)} validation"
        f" images of {len(photos.classes)} classes ({classes})"
    )
    for note in photos.notes:
        console.say(f"  {note}")
    what = f": {plan}" if plan else ""
    console.say(f"model {complete.model.model}, weights {start.source}{what}")


def _overlap(classes: Sequence[str], start: Start, match: ClassMatch | None) -> str:
    found = match or match_classes(classes, start.classes)
    return heads.overlap(found, taken=match is not None) if found.matched else ""


def _say_classes(console: Console, match: ClassMatch | None, overlap: str) -> None:
    if match is not None:
        console.say(str(match))
    if overlap:
        console.say(overlap)
