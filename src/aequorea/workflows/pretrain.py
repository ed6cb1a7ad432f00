"""The verb *pretrain*: from unlabelled volumes to a body that fine-tuning starts from.

What is learnt is said by objectives, a weighted list of them: each makes its sample of every patch and its losses
of every batch, and they are added up. Whole specimens are held out; on them the command says what was learnt beside
rivals that learnt nothing, and what its features are worth under strokes
(:mod:`aequorea.workflows.judged`).
"""

from __future__ import annotations

import copy
import functools
import hashlib
import json
import time
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
import torch
from pydantic import Field, PositiveFloat
from torch import Tensor, nn

from aequorea.engine.blocks import SIDE, BlockSampler, Source, cut
from aequorea.engine.durable import write_file
from aequorea.engine.memory import capped, foresee, limited
from aequorea.engine.train import TrainSpec, batch_of, process, train
from aequorea.layers.norm import settle
from aequorea.model import Model, card_of, save_body
from aequorea.progress import report as stage_ended
from aequorea.progress import track
from aequorea.registry import build
from aequorea.signal.intensity import Intensity, measure, normalise, sampled
from aequorea.specs import Spec
from aequorea.volume import Array, Region, Spacing, Triple, Volume
from aequorea.workflows.cache import Cache, drop_cache
from aequorea.workflows.dataset import Item
from aequorea.workflows.finetune import reference_spacing
from aequorea.workflows.found import Found
from aequorea.workflows.index import Index, Stamp, stamp_of
from aequorea.workflows.judged import judged, report, told
from aequorea.workflows.open import opened
from aequorea.workflows.recorded import digest_of, named, normalised_pairs, recorded_items
from aequorea.workflows.run_folder import check_claim, claim, drop_checkpoints
from aequorea.workflows.scored import without_scored
from aequorea.workflows.stroke_probe import permuted, probe_bytes, simulated_item, stroke_probe

T = TypeVar("T")

PATCH: Triple = (64, 64, 64)
THIN: Triple = (16, 96, 96)
FLAT: Triple = (1, 256, 256)
"""Voxels (z, y, x) of a patch: of volumes, thin ones, and planes; less where there is less."""
SMALL: Triple = (32, 32, 32)
"""Of volumes for bodies that compute what is hidden too: many small patches teach these more than a few large ones."""
COUNTED = 64**3 * 1024
"""Larger volumes are normalised by sampled places."""
AFTERWARDS = 250_000_000
"""Bytes that a run has gained when its features are tried: weights of the optimizer, open blocks, libraries."""
SETTLING = 16
"""Batches on which normalisations learn the statistics of what nothing is hidden of."""
JUDGED = 64
"""Volumes that a run is judged by at most; of more so many are drawn."""
NAMED = 1000
"""Images whose names the card has at most."""


class WeightedObjective(Spec):
    """One objective and its share.

    Attributes
    ----------
    objective
        ``{"name": ..., **fields}``.
    weight
        Factor of its losses.
    """

    objective: dict[str, Any]
    weight: PositiveFloat = 1.0


class PretrainSpec(Spec):
    """Recipe of a pretraining run; ``spec.yaml`` in its folder.

    Attributes
    ----------
    objectives
        What is learnt.
    backbone
        ``{"name": ..., **fields}``.
    train
        Steps, rate, seed; default: 1000 steps of 8 samples.
    patch
        Voxels (z, y, x) of one sample of a volume; default: 64³, or about as much of a thin one; 32³ where the body
        computes what is hidden too.
    held_out
        Share of the specimens that is kept to judge by.
    """

    objectives: tuple[WeightedObjective, ...] = Field(
        default=(WeightedObjective(objective={"name": "mae"}),), min_length=1
    )
    backbone: dict[str, Any] = Field(default={"name": "hiera"})
    train: TrainSpec = TrainSpec(steps=1000, batch=8, learning_rate=2e-3, checkpoint_every=50)
    patch: Triple | None = None
    held_out: float = Field(default=0.15, ge=0, lt=1)


@dataclass(frozen=True)
class Pretrained:
    """What a run left.

    Attributes
    ----------
    path
        The body's file, for ``finetune --model``.
    card
        Its card; ``card["held_out"]`` and ``card["strokes"]`` have a row for each volume that it was judged by.
    """

    path: Path
    card: dict[str, Any]


def pretrain(
    data: Sequence[Any],
    run: str | Path,
    spec: PretrainSpec,
    *,
    groups: Sequence[str] | None = None,
    held: Sequence[Any] = (),
    probe: Sequence[Item] = (),
    many: Literal["sequence"] | None = None,
    cache: str | Path | None = None,
    cache_size: int | None = None,
    say: Callable[[str], None] = print,
    memory: int | None = None,
) -> Pretrained:
    """Train a body on volumes without labels, or take up a run that was interrupted.

    Parameters
    ----------
    data
        Paths, volumes, or whatever :func:`aequorea.open` takes; none where the objectives make their own samples. Of
        paths there may be very many: see :mod:`aequorea.workflows.index`.
    run
        Run folder. A finished one is read and nothing is done.
    spec
        Recipe; must be that of the folder, if it holds one.
    groups
        Specimen of each volume; default: each is its own.
    held
        Volumes to judge by; default: whole specimens of ``data``, as many as ``held_out`` says. Of more than 64 so
        many are drawn.
    probe
        Labelled volumes for :mod:`aequorea.workflows.stroke_probe`; default: a simulated one.
    many
        ``"sequence"``, where folders among the paths are volumes, their images the planes.
    cache
        Folder for volumes that are slow to read in blocks, converted (:mod:`aequorea.workflows.cache`); stays, and may
        be shared by runs. Default: one in the run folder, deleted when the run is finished.
    cache_size
        Bytes that it may take; default: 100 GB, or half of the free disk where that is less.
    say
        Receives lines for the user.
    memory
        Bytes of main memory that the process may hold; it changes no bit of the body.

    Raises
    ------
    DataError, SpecError
        If images or recipe are wrong, the run folder belongs to another recipe, or ``memory`` is too little: then
        with the smallest that works.
    """
    with capped(memory):
        return _pretrain(data, Path(run), spec, groups, held, probe, many, cache, cache_size, say)


def _pretrain(
    data: Sequence[Any],
    run: Path,
    spec: PretrainSpec,
    groups: Sequence[str] | None,
    held: Sequence[Any],
    probe: Sequence[Item],
    many: Literal["sequence"] | None,
    cache: str | Path | None,
    cache_size: int | None,
    say: Callable[[str], None],
) -> Pretrained:
    path = run / "body.safetensors"
    index = Index(run / "index.jsonl", many)
    listed = [str(one) if isinstance(one, (str, Path)) else opened(one) for one in [*data, *held]]
    pairs = named([build("objectives", one.objective).spec for one in spec.objectives])
    unread = {f"pairs {task} {path}": "" for _, task, path in pairs}
    check_claim(run, spec, _prints(listed) | unread)  # before anything is opened: other names, another recipe
    index.update([path for path in listed if isinstance(path, str)])
    volumes = [index.volume(one) if isinstance(one, str) else one for one in listed]
    recorded = [(n, task, path, recorded_items(path)) for n, task, path in pairs]
    prints = _prints(volumes) | {
        f"pairs {task} {path}": digest_of(found) for _, task, path, found in recorded
    }
    check_claim(run, spec, prints)
    images, judges = volumes[: len(data)], volumes[len(data) :]
    names = list(groups) if groups is not None else [f"{n} {image.name}" for n, image in enumerate(images)]
    store = Cache(Path(cache) if cache is not None else run / "cache", cache_size, say)
    if path.exists():
        return _left(run, card_of(path), say)
    torch.manual_seed(spec.train.seed)
    body = build("backbones", spec.backbone)
    objectives = [(build("objectives", one.objective), one) for one in spec.objectives]
    found = Found(run)
    learnt = {one.objective["name"] for one in spec.objectives}
    left = without_scored(list(zip(images, names)), [[image] for image in images], learnt, found, say)
    images, names = [image for image, _ in left], [name for _, name in left]
    if not judges and spec.held_out:
        images, names, judges = parted(images, names, spec)
    claim(run, spec, prints)
    cut_of = functools.cache(partial(_cut_of, body, spec.patch))
    sources, slow = [], {}
    for number, (image, name) in enumerate(zip(images, names)):
        geometry, patch = cut_of(image.spacing, image.shape)
        cached, slow[number] = store.over(image, _block(patch), _stamp(image, index))
        sources.append(Source(_normalised(cached, found), name, geometry, patch))
    for n, (objective, _) in enumerate(objectives):
        own = {
            task: normalised_pairs(items, objective.tasks[task]) for m, task, _, items in recorded if m == n
        }
        if own:
            objective.take(own, sorted({source.patch for source in sources}))
    judges = _some(judges, spec.train.seed)
    rivals = [
        Source(_normalised(image, found), image.name, *cut_of(image.spacing, image.shape)) for image in judges
    ]
    recipe = hashlib.sha256(json.dumps([spec.plain(), prints]).encode()).hexdigest()[:16]
    everyone = [*sources, *rivals]

    def facts(number: int) -> list[Any]:
        return _surveyed(objectives, everyone[number], number, body, spec.train.seed, recipe, found)

    sampler = BlockSampler(sources, spec.train.batch, spec.train.seed) if sources else None
    if sampler is not None and any(slow.values()):
        drawn = sampler.drawn(spec.train.steps).most_common()
        store.fill([one for number, _ in drawn if (one := slow[number]) is not None])

    def sample(index: int) -> dict[str, Array]:
        number, patch = sampler(index) if sampler is not None else (-1, None)
        return _prepared(
            objectives, patch, facts(number) if sources else None, [spec.train.seed, index], sources, number
        )

    def losses(batch: dict[str, Tensor]) -> dict[str, Tensor]:
        spacing = _spacing(batch.pop("spacing"))
        out = {}
        for n, (objective, words) in enumerate(objectives):
            for name, value in objective(body, _own(batch, n), spacing).items():
                out[f"{words.objective['name']} {n} {name}"] = words.weight * value
        return out

    def after_step(step: int) -> None:
        for objective, _ in objectives:
            objective.after_step(step)

    owned = [objective for objective, _ in objectives if isinstance(objective, nn.Module)]
    module = nn.ModuleDict({"body": body, "objectives": nn.ModuleList(owned)}).eval()
    with torch.no_grad():  # gives lazy modules their size
        losses({name: torch.from_numpy(np.asarray(array))[None] for name, array in sample(0).items()})
    judged_on = list(probe) or [simulated_item()]
    if limited():
        bank = build("backbones", {"name": "filters"})
        foresee(AFTERWARDS + probe_bytes({"body": body, "filters": bank}, judged_on))
    outcome = train(run, module, losses, sample, spec.train, after_step=after_step)
    judging = range(len(sources), len(everyone))
    told_of = [facts(number) for number in track(judging, "held-out volumes", len(judging), "volume")]
    control = permuted(body, spec.train.seed)
    rows = [
        {**row, "permuted": other["network"]}
        for n, (objective, _) in enumerate(objectives)
        for row, other in zip(
            judged(objective, n, body, rivals, told_of), judged(objective, n, control, rivals, told_of)
        )
    ]
    torch.manual_seed(spec.train.seed)
    probing = {
        "pretrained": copy.deepcopy(body),
        "permuted": control,
        "random": build("backbones", spec.backbone),
    }
    if sampler is not None:
        patches = [sampler(spec.train.batch * (spec.train.steps + i)) for i in range(SETTLING)]
        for one in probing.values():
            _settle(one, [(sources[n].image.spacing, patch) for n, patch in patches])
    probing["filters"] = build("backbones", {"name": "filters"})
    probed = stroke_probe(probing, judged_on)
    card = {
        "spacing": _plain(reference_spacing(images)),
        "objectives": [words.plain() for _, words in objectives],
        "held_out": rows,
        "strokes": probed,
        "training": {
            "steps": len(outcome.history) - 1,
            "volumes": len(images),
            "images": [image.name for image in images[:NAMED]],
        },
    }
    if process()[0] == 0:
        write_file(run / "summary.json", json.dumps(card, indent=1).encode())
        html = report(objectives, body, rivals, told_of, card, outcome.history)
        write_file(run / "report.html", html.encode())
        device = next(module.parameters()).device
        for n, (objective, _) in enumerate(objectives):
            if hasattr(objective, "models"):
                more = range(spec.train.steps, spec.train.steps + SETTLING)
                batches = [_further(sample, spec.train.batch, n, step, device) for step in more]
                for name, (task, network) in objective.models(body, batches).items():
                    Model.of(task, network, reference_spacing(images)).save(run / f"{name}.safetensors")
        save_body(path, probing["pretrained"], card)
    store.close()
    return _left(run, card, say)


def _left(run: Path, card: dict[str, Any], say: Callable[[str], None]) -> Pretrained:
    """Tell what a finished run found, and delete what only an unfinished one needs."""
    drop_checkpoints(run)
    if process()[0] == 0:
        drop_cache(run / "cache")
    for line in told(card):
        say(line)
    return Pretrained(run / "body.safetensors", card)


def _further(
    sample: Callable[[int], dict[str, Array]], size: int, n: int, step: int, device: torch.device
) -> tuple[dict[str, Tensor], Spacing | None]:
    """Return an objective's batch of a step that was not trained, and its spacing."""
    batch = batch_of([sample(step * size + i) for i in range(size)])
    spacing = _spacing(batch.pop("spacing"))
    return {name: array.to(device) for name, array in _own(batch, n).items()}, spacing


def _settle(body: Any, patches: Sequence[tuple[Spacing | None, Array]]) -> None:
    """Let normalisations learn the statistics of patches that nothing is hidden of."""
    device = next(body.parameters()).device

    def one(spacing: Spacing | None, patch: Array) -> Callable[[], Any]:
        return lambda: body(torch.from_numpy(patch[None, :1].copy()).to(device), spacing)

    settle(body, [one(spacing, patch) for spacing, patch in patches])


def _prints(listed: Sequence[str | Volume]) -> dict[str, str]:
    """Return the fingerprint of each image by its number and name; nothing where it is not opened yet."""
    pairs = [(one, "") if isinstance(one, str) else (one.name, one.fingerprint) for one in listed]
    return {f"{number} {name}": print_ for number, (name, print_) in enumerate(pairs)}


def _plain(spacing: Spacing | None) -> list[float] | None:
    return list(spacing) if spacing else None


def parted(images: list[T], names: list[str], spec: PretrainSpec) -> tuple[list[T], list[str], list[T]]:
    """Return images, their specimens, and images to judge by: whole specimens, where there are several."""
    specimens = sorted(set(names))
    count = round(spec.held_out * len(specimens))
    if not count:
        return images, names, []
    order = np.random.default_rng([spec.train.seed, 1]).permutation(len(specimens))
    kept = {specimens[i] for i in order[:count]}
    inside = [n for n, name in enumerate(names) if name not in kept]
    return (
        [images[n] for n in inside],
        [names[n] for n in inside],
        [image for image, name in zip(images, names) if name in kept],
    )


def _some(images: list[Volume], seed: int) -> list[Volume]:
    """Return those that a run is judged by, where there are very many."""
    if len(images) <= JUDGED:
        return images
    chosen = np.random.default_rng([seed, 2]).choice(len(images), JUDGED, replace=False)
    return [images[n] for n in sorted(chosen)]


def _normalised(image: Volume, found: Found) -> Volume:
    """Return a normalised volume, which is measured when it is first read from."""

    def reader(region: Region) -> Array:
        return normalise(image.read(region), Intensity.parse(_range(image, found)))

    return replace(image, reader=reader, dtype=np.dtype(np.float32), levels=())


def _range(image: Volume, kept: Found) -> dict[str, Any]:
    def look() -> dict[str, Any]:
        at = time.monotonic()
        small = image.region.voxels <= COUNTED
        found = measure(image, progress=False) if small else sampled(image)
        stage_ended("range", time.monotonic() - at)
        return found.plain()

    known: dict[str, Any] = kept.get(f"range of {image.fingerprint} {image.name}", look)
    return known


def _cut_of(
    body: Any, patch: Triple | None, spacing: Spacing | None, shape: tuple[int, int, int, int]
) -> tuple[Hashable, Triple]:
    """Return geometry and patch that the depth of a volume and the body's grid ask for."""
    layout = body.layout(spacing)
    flat, thin = shape[1] == 1, shape[1] <= THIN[0]
    grid = (1, *layout.grid[1:]) if flat else layout.grid
    usual = THIN if thin else PATCH
    most = FLAT if flat else patch or (usual if hasattr(body, "mask_unit") else SMALL)
    z, y, x = (max(g, min(m, n) // g * g) for m, n, g in zip(most, shape[1:], grid))
    size = (z, y, x)
    return (flat, layout.strides, size, shape[0]), size


def _block(patch: Triple) -> Triple:
    """Return voxels (z, y, x) of the blocks that are read."""
    z, y, x = (SIDE * n for n in patch)
    return z, y, x


def _stamp(image: Volume, index: Index) -> Stamp | None:
    """Return size and time of the file of a volume, if it has one."""
    known = index.stamp(image.name)
    return known if known or not Path(image.name).exists() else stamp_of(image.name)


def _surveyed(
    objectives: Sequence[tuple[Any, Any]],
    source: Source,
    number: int,
    body: Any,
    seed: int,
    recipe: str,
    found: Found,
) -> list[Any]:
    """Return what each objective wants to know of a volume, found when it is first asked for."""
    surveys = [getattr(objective, "survey", None) for objective, _ in objectives]
    if not any(surveys):
        return [None] * len(surveys)

    def look() -> list[Any]:
        at = time.monotonic()
        patches, rng = partial(cut, source), np.random.default_rng([seed, number])
        seen = [survey and survey(patches, body, source.image.spacing, rng) for survey in surveys]
        stage_ended("survey", time.monotonic() - at)
        return seen

    known: list[Any] = found.get(f"survey {number} for {recipe}", look)
    return known


def _prepared(
    objectives: Sequence[tuple[Any, Any]],
    patch: Array | None,
    facts: list[Any] | None,
    key: list[int],
    sources: Sequence[Source],
    number: int,
) -> dict[str, Array]:
    """Return the arrays of one sample: each objective's under its number, and the spacing."""
    rng = np.random.Generator(np.random.Philox(key=np.array(key, np.uint64)))
    spacing = sources[number].image.spacing if number >= 0 else None
    out: dict[str, Array] = {"spacing": np.array(spacing or (np.nan,) * 3, np.float64)}
    for n, (objective, _) in enumerate(objectives):
        known = facts[n] if facts else None
        for word, array in objective.prepare(patch, rng, known).items():
            out[f"{n}.{word}"] = array
    return out


def _own(batch: dict[str, Tensor], n: int) -> dict[str, Tensor]:
    return {k.split(".", 1)[1]: v for k, v in batch.items() if k.split(".", 1)[0] == str(n)}


def _spacing(values: Tensor) -> Spacing | None:
    """Return the spacing of a batch, whose samples agree but for what the body does not see."""
    z, y, x = (float(v) for v in values[0])
    return None if z != z else (z, y, x)
