"""The verb *finetune*: from annotated volumes to a model file.

Labels are few, so none are wasted: a part is held out to score, to choose and to calibrate; then the model that is
kept is trained again on everything.

Order of reading: :func:`finetune` (what is done), :class:`_Data` (what is learnt from), :func:`_fit` (one
candidate), :func:`_finish` (what goes into the card).
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from aequorea.annotations import Annotation, LabelImage, Points, TargetImage
from aequorea.engine.counts import is_counted
from aequorea.engine.durable import write_file
from aequorea.engine.inference import default_device, resolve_precision
from aequorea.engine.memory import capped, foresee, limited, most_resident, require, resident
from aequorea.engine.predict import PASS_BYTES, halo_error, normalised, predict_whole, voxel_bytes
from aequorea.engine.probe import BLOCK, fit_head, linear_map, sample_features
from aequorea.engine.sampler import BRIGHTNESS, Pair, Sampler
from aequorea.engine.tiles import Tiling
from aequorea.engine.train import Outcome, TrainSpec, process, step_bytes, train
from aequorea.errors import DataError, SpecError
from aequorea.layers.forest import ForestHead
from aequorea.layers.network import Network
from aequorea.layers.restoring import Anchor
from aequorea.model import Model, card_of, load, take_body
from aequorea.registry import build, find
from aequorea.results import MemoryOutput
from aequorea.signal.intensity import Intensity
from aequorea.signal.resample import matched_size, resampled
from aequorea.specs import Spec
from aequorea.volume import Region, Spacing, Triple, Volume
from aequorea.workflows.dataset import Item, dataset, ranges, told_apart
from aequorea.workflows.pairs import in_units_of
from aequorea.workflows.run_folder import check_claim, claim, drop_checkpoints
from aequorea.workflows.splits import split_groups

AUTO = ("filters", "unet")
PATCH_VOXELS = 40**3
SCARCE = 50
"""Labelled voxels of a class below which training on them is warned of."""
LOOKED_AT_BYTES = 150
"""For each voxel of a held-out item while it is decoded and scored."""
LATER = 150_000_000
"""Bytes that a run gains after its beginning: weights of the optimizer, batches ahead, libraries."""
EVALUATE_VOXELS = 128**3
"""Most voxels of one held-out item that an evaluation looks at."""


class FinetuneSpec(Spec):
    """Recipe of a fine-tuning run; ``spec.yaml`` in its folder.

    Attributes
    ----------
    task
        ``{"name": ..., **fields}``.
    backbone
        ``{"name": ..., **fields}``; the name ``auto`` tries ``filters`` and ``unet`` and keeps the better.
    adapter
        ``{"name": ..., **fields}``, or nothing: everything trains.
    start
        Model or pretrained body to start from.
    train
        Steps, rate, seed.
    patch
        Voxels (z, y, x) of one sample; default: 40³ voxels' worth.
    held_out
        Share of the groups that is kept for scores, thresholds and the choice between backbones; 0: none.
    head
        Of a backbone that does not train: ``logistic`` or ``forest`` (needs scikit-learn).
    brightness
        How much the brightness of samples is varied (standard deviation of its logarithm), where it is not what is
        asked for. More makes up for crops that are brighter than the depth of the volume.
    """

    task: dict[str, Any]
    backbone: dict[str, Any] = Field(default={"name": "auto"})
    adapter: dict[str, Any] | None = None
    start: str | None = None
    train: TrainSpec = TrainSpec()
    patch: Triple | None = None
    held_out: float = Field(default=0.25, ge=0, lt=1)
    head: Literal["logistic", "forest"] = "logistic"
    brightness: float = Field(default=BRIGHTNESS, ge=0)


@dataclass(frozen=True)
class Finetuned:
    """What a run found.

    Attributes
    ----------
    model
        The model kept.
    path
        Its file.
    scores
        Held-out score by candidate; empty where nothing could be held out.
    lines
        What the user should know, a line each.
    """

    model: Model
    path: Path
    scores: dict[str, float]
    lines: list[str]


def finetune(
    data: str | Path | Sequence[Item],
    run: str | Path,
    spec: FinetuneSpec,
    *,
    memory: int | None = None,
    **options: Any,
) -> Finetuned:
    """Train a model on annotated volumes, or take up a run that was interrupted.

    Parameters
    ----------
    data
        A folder, a CSV, or items: see :mod:`aequorea.workflows.dataset`.
    run
        Run folder. A finished one is loaded and nothing is done.
    spec
        Recipe; must be that of the folder, if it holds one.
    memory
        Bytes of main memory that the process may hold. It changes no bit of the model; where it is little, the card
        lacks ``halo_error``.
    **options
        Passed on to :func:`aequorea.workflows.dataset.dataset`.

    Raises
    ------
    DataError
        If data and task do not fit, or the run folder belongs to another recipe.
    SpecError
        If ``memory`` is too little; says the smallest that works.
    """
    with capped(memory):
        return _finetune(data, Path(run), spec, **options)


def _finetune(data: str | Path | Sequence[Item], run: Path, spec: FinetuneSpec, **options: Any) -> Finetuned:
    card = card_of(spec.start) if spec.start else {}
    _check_start(spec, card)
    task = build("tasks", spec.task)
    say: list[str] = []
    items = (
        dataset(data, kind=task.annotation, **options) if isinstance(data, str | Path) else told_apart(data)
    )
    if not items:
        raise DataError(f"{data}: no annotated image found")
    prints = {item.name: f"{item.image.fingerprint} {labels_digest(item)}" for item in items}
    check_claim(run, spec, prints)
    path = run / "model.safetensors"
    if path.exists():
        drop_checkpoints(run)
        record = json.loads((run / "summary.json").read_text())
        return Finetuned(load(path), path, record["scores"], [f"{run}: finished before, nothing to do"])
    start = load(spec.start) if spec.start and "task" in card else None
    if start is not None:
        task = start.task
    if card:
        candidates = [card["backbone"]]
    elif spec.backbone.get("name") == "auto":
        if len(spec.backbone) > 1:
            raise SpecError("backbone 'auto' takes no fields: name the one that they are for, e.g. unet")
        # A bank of filters tells kinds of voxels apart; it makes no images.
        candidates = [{"name": name} for name in (AUTO[1:] if task.annotation == "image" else AUTO)]
    else:
        candidates = [spec.backbone]
    for kind, words in (*(("backbones", words) for words in candidates), ("adapters", spec.adapter)):
        if words is not None:
            build(kind, words)
    fixed = [words for words in candidates if not find("backbones", words["name"]).trainable]
    if spec.head == "forest" and not (card["forest"] if start is not None else fixed):
        raise SpecError("--head forest: stands on a body that does not train: add --backbone filters")
    source = _Data.prepare(items, task, spec, say, start)
    if limited():
        _require_memory(source, candidates, spec, start)
    begin = partial(claim, run, spec, prints)
    fitted: list[tuple[Model, Outcome, dict[str, Any]]] = []
    for words in candidates:
        folder = run if len(candidates) == 1 else run / words["name"]
        fitted.append((*_fit(source, words, folder, spec, start, say, begin), words))
    scores = {words["name"]: out.best for _, out, words in fitted if out.best is not None}
    model, outcome, words = max(fitted, key=lambda f: -np.inf if f[1].best is None else f[1].best)
    better = source.task.better
    if len(scores) > 1:
        ranked = sorted(scores.items(), key=lambda pair: -pair[1])
        gap = ranked[0][1] - ranked[1][1]
        say.append(
            f"kept {ranked[0][0]}: held-out {better} {ranked[0][1]:.3f}, {gap:.3f} above {ranked[1][0]} "
            f"({ranked[1][1]:.3f})"
        )
    if scores and max(scores.values()) == 0:
        say.append(
            f"held-out {better} is 0: nothing was learnt that holds there; look at the labels with 'aequorea check', "
            "and name the value of voxels that nobody painted with --unlabelled"
        )
    unhelpful = start is not None and outcome.first is not None and outcome.best_step == 0
    if unhelpful:
        say.append(
            f"fine-tuning did not help: held-out {better} was {outcome.first:.3f} before the first step"
        )
    point = _calibrate(model, source, say)
    if source.everything and not unhelpful:
        say.append("trained again on all labels; held-out scores are of the model that did not see them")
        whole = replace(source, train=source.everything, held=[], everything=[])
        again = load(spec.start) if spec.start and start is not None else None
        model, _ = _fit(whole, words, run / "all", spec, again, [], begin)
    model.card["point"] = point
    say = list(dict.fromkeys(say))  # candidates are told the same of the same labels
    _finish(model, source, outcome, scores, run, path, say)
    return Finetuned(model, path, scores, say)


def task_of(start: str | Path) -> dict[str, Any] | None:
    """Return name and fields of the task of a model file; ``None`` for a pretrained body, which has none."""
    task: dict[str, Any] | None = card_of(start).get("task")
    return task


def _check_start(spec: FinetuneSpec, card: dict[str, Any]) -> None:
    """Raise :class:`SpecError` where a recipe asks for another task or body than what training starts from."""
    for kind, asked in (("task", spec.task), ("backbone", spec.backbone)):
        has: dict[str, Any] = card.get(kind, {})
        for word, value in json.loads(json.dumps(asked)).items() if has else ():
            if value != "auto" and has.get(word) != value:
                flag = f"--{kind} {value}" if word == "name" else f"{kind}.{word}={value}"
                raise SpecError(
                    f"{flag}: {spec.start} has {has.get(word)}, which training cannot change; leave it out, or start "
                    "from another model"
                )


def labels_digest(item: Item) -> str:
    """Return a digest of all that is known of an item: a few repainted voxels are other data."""
    known = item.annotation
    digest = hashlib.sha256(repr(known).encode())
    if isinstance(known, LabelImage | TargetImage):
        digest.update(known.volume.contents.encode())
    elif isinstance(known, Points):
        digest.update(known.zyx.tobytes())
    return digest.hexdigest()[:16]


@dataclass(frozen=True)
class _Data:
    """Pairs of normalised images and targets, for training and held out, at one reference spacing."""

    task: Any
    spacing: Spacing | None
    channels: int
    train: list[Item]
    held: list[Item]
    everything: list[Item]
    """Both together, where it was not the dataset that said what to hold out; else nothing."""
    intensities: dict[str, Any]

    @classmethod
    def prepare(
        cls, items: list[Item], task: Any, spec: FinetuneSpec, say: list[str], start: Model | None
    ) -> _Data:
        channels = {item.image.shape[0] for item in items}
        if len(channels) > 1:
            raise DataError(f"images of {sorted(channels)} channels together: pick some with --channel")
        intensities = ranges(items, start.card.get("normalisation") if start is not None else None)
        spacing = reference_spacing([item.image for item in items])
        if start is not None:
            start.check_channels(items[0].image)
            spacing = start.spacing or spacing
        scaled = [matched(in_range(item, intensities[item.name], task), spacing, say) for item in items]
        marked = any(item.split == "val" for item in items)
        kept, held, line = split_groups(scaled, spec.held_out, spec.train.seed)
        if line:
            say.append(line)
        task.resolve([item.annotation for item in kept])  # what is trained on first must suffice by itself
        return cls(
            # Of all labels but the test's: what is held out is learnt from in the end.
            task.resolve([item.annotation for item in scaled if item.split != "test"]),
            spacing,
            channels.pop(),
            kept,
            held,
            [item for item in scaled if item.split != "test"] if held and not marked else [],
            {name: intensity.plain() for name, intensity in intensities.items()},
        )

    def pairs(self, model: Model, items: list[Item]) -> list[Pair]:
        """Return what the sampler draws from.

        Raises
        ------
        DataError
            If a target does not lie where the network's output does.
        """
        found = []
        for item in items:
            target = self.task.target(item.annotation, item.image.spacing)
            tiling = Tiling.of(model.network, item.image.size, item.image.spacing or self.spacing)
            if target.size != tiling.output_size:
                raise DataError(
                    f"{item.name}: the {self.task.annotation} has {target.size} voxels (z, y, x) where the task "
                    f"gives {tiling.output_size} for an image of {item.image.size}"
                )
            found.append(Pair(item.image, target, tiling))
        return found


def in_range(item: Item, intensity: Intensity, task: Any) -> Item:
    """Return an item with its image normalised, and a target in the same units where the task answers in counts."""
    image = normalised(item.image, intensity)
    if isinstance(item.annotation, TargetImage) and is_counted(task):
        anchor: Anchor = getattr(task, "anchor", "centre")
        return replace(item, image=image, annotation=in_units_of(image, item.annotation, anchor))
    return replace(item, image=image)


def matched(item: Item, spacing: Spacing | None, say: list[str]) -> Item:
    """Return an item with image and labels at the model's voxel size, where its own is off by more than 1.5."""
    size = item.image.size if spacing is None else matched_size(item.image, spacing)
    annotation = item.annotation
    if size == item.image.size or not isinstance(annotation, LabelImage):
        return item
    say.append(f"{item.name}: {item.image.size} voxels made {size} (z, y, x), to match the model's voxels")
    labels = resampled(annotation.volume, size, "nearest")
    return replace(item, image=resampled(item.image, size), annotation=replace(annotation, volume=labels))


def reference_spacing(images: Sequence[Volume]) -> Spacing | None:
    """Return the median spacing (z, y, x) of images, of those that know theirs; ``None`` where none does."""
    spacings = [image.spacing for image in images if image.spacing is not None]
    if not spacings:
        return None
    z, y, x = np.median(np.array(spacings), axis=0)
    return float(z), float(y), float(x)


def _fit(
    source: _Data,
    words: dict[str, Any],
    run: Path,
    spec: FinetuneSpec,
    start: Model | None,
    say: list[str],
    begin: Callable[[], None],
) -> tuple[Model, Outcome]:
    model = _built(source, words, spec, start)
    network = model.network
    adapter = build("adapters", spec.adapter) if spec.adapter else None
    if adapter is not None:
        names = set(adapter.attach(network.backbone, network.backbone.points))
        for key, parameter in network.backbone.named_parameters():
            parameter.requires_grad_(key in names)
    frozen = not any(p.requires_grad for p in network.backbone.parameters())
    pairs = source.pairs(model, source.train)
    spacing = network.body_spacing(source.spacing)
    patch = spec.patch or patch_of([pair.tiling for pair in pairs])
    if len({pair.tiling.reads(Region.whole(patch)).size for pair in pairs}) > 1:
        raise DataError("the images differ along an axis that the task reads whole: give images of one depth")
    sampler = Sampler(
        pairs,
        source.task.strata,
        patch,
        spec.train.seed,
        brightness=spec.brightness if source.task.annotation != "image" else 0.0,
        anchor=getattr(source.task, "anchor", "centre"),
        smeared=getattr(source.task.spec, "smeared", 0.0),
    )
    if source.task.annotation == "label":
        _guard_scarce_labels(sampler.counts, start is not None, say)
        _tell_of_unused_mark(source.train, sampler, say)
    if spec.patch is None and not frozen:
        _tell_of_small_images(
            [item.name for item in source.train], [pair.tiling for pair in pairs], patch, say
        )
    evaluate = _evaluator(source, model) if source.held else None
    forest_head = isinstance(network.head, ForestHead)
    in_place = all(pair.tiling.output(pair.tiling.domain) == pair.tiling.domain for pair in pairs)
    begin()
    if frozen and in_place and (forest_head or linear_map(network.head) is not None):
        features, targets = sample_features(network, pairs, source.task.strata, seed=spec.train.seed)
        if forest_head:
            network.head.fit(features, targets[:, 0], seed=spec.train.seed)
        else:
            fit_head(network.head, features, targets, source.task.loss)
        scores = evaluate() if evaluate else {}
        outcome = Outcome(None, scores.get(source.task.better), 0, [{"step": 0, **scores}])
    else:

        def losses(batch: dict[str, Tensor]) -> dict[str, Tensor]:
            output = network(batch["image"], spacing)
            return {"loss": source.task.loss(output.float(), batch["target"])}

        outcome = train(run, network, losses, sampler, spec.train, evaluate, source.task.better)
    if adapter is not None:
        adapter.merge(network.backbone)
    for parameter in network.parameters():
        parameter.requires_grad_(True)
    return model, outcome


def _built(source: _Data, words: dict[str, Any], spec: FinetuneSpec, start: Model | None) -> Model:
    """Return the model that a candidate's training begins with."""
    torch.manual_seed(spec.train.seed)
    if start is not None:
        return start
    name = words["name"]
    fields = find("backbones", name).Spec.model_fields
    given = source.channels * getattr(source.task, "planes", 1)
    body = {**words, "channels": given} if "channels" in fields else words
    forest = spec.head == "forest" and not find("backbones", name).trainable
    model = Model.build(source.task, body, source.spacing, source.channels, forest)
    if spec.start:
        take_body(model.network.backbone, spec.start)
    return model


def _require_memory(
    source: _Data, candidates: list[dict[str, Any]], spec: FinetuneSpec, start: Model | None
) -> None:
    """Raise :class:`SpecError` where a step of a candidate, or looking at what is held out, is over the cap."""
    foresee(most_resident() - resident())
    parts = [image.size for image, _ in held_out_parts(source.held)]
    largest = max((Region.whole(size).voxels for size in parts), default=0)
    foresee(LOOKED_AT_BYTES * largest)
    for words in candidates:
        model = _built(source, words, spec, start)
        network, dtype = model.network, resolve_precision(spec.train.precision, torch.device("cpu"))
        tilings = [
            Tiling.of(network, item.image.size, item.image.spacing or source.spacing, "full")
            for item in (*source.train, *source.held)
        ]
        voxels = max((Region.whole(size).voxels for size in parts), default=0)
        if not find("backbones", words["name"]).trainable:  # its head is fitted block by block
            blocks = (t.computed(Region.at((0, 0, 0), BLOCK).clip(t.domain)).voxels for t in tilings)
            voxels = max(voxels, *blocks)
        foresee(LATER + PASS_BYTES + voxels * (voxel_bytes(tilings[0], "float32") + 16))
        if default_device().type == "cpu" and network.backbone.trainable:
            patch = spec.patch or patch_of(tilings)
            image = torch.zeros(1, source.channels, *tilings[0].reads(Region.whole(patch)).size)
            answer = network.eval()(image, network.body_spacing(source.spacing))
            known = torch.zeros(
                1, source.task.target(source.train[0].annotation, source.spacing).shape[0], *answer.shape[2:]
            )

            def losses(
                batch: dict[str, Tensor], network: Network = network, known: Tensor = known
            ) -> dict[str, Tensor]:
                out = network(batch["image"], network.body_spacing(source.spacing))
                return {"loss": source.task.loss(out.float(), known)}

            sample = {"image": image, "target": known}
            foresee(
                step_bytes(network, losses, sample, spec.train.batch // process()[1], dtype).least + LATER
            )
    require(0, "neither preparing nor training may take more")


def patch_of(tilings: Sequence[Tiling], sizes: Sequence[Triple] = ()) -> Triple:
    """Return voxels (z, y, x) of a training patch of the body's grid: fewer where the body computes many for each.

    Of images of other sizes, where they are given.
    """
    depth = max(1.0, tilings[0].reads(tilings[0].domain).size[0] / tilings[0].domain.size[0])
    return patch_size(sizes or [t.domain.size for t in tilings], tilings[0].grid, PATCH_VOXELS / depth)


def patch_size(sizes: Sequence[Triple], grid: Triple, voxels: float = PATCH_VOXELS) -> Triple:
    """Return voxels (z, y, x) of a training patch: 40³, less along an axis that the smallest image cannot give.

    What one axis lacks the others have more of. Each is a multiple of ``grid``.
    """
    smallest = [min(size[axis] for size in sizes) for axis in range(3)]
    # A single plane stays one: padded planes would be computed with other strides than at prediction.
    limits = [1 if n == 1 else -(-n // g) * g for n, g in zip(smallest, grid)]
    patch = [0, 0, 0]
    left = voxels
    for rank, axis in enumerate(sorted(range(3), key=lambda a: limits[a])):
        side = left ** (1 / (3 - rank))
        patch[axis] = min(limits[axis], max(grid[axis], round(side / grid[axis]) * grid[axis]))
        left /= patch[axis]
    return patch[0], patch[1], patch[2]


def _evaluator(source: _Data, model: Model) -> Callable[[], dict[str, float]]:
    """Return a function that scores the model as it stands on the held-out items."""
    parts = held_out_parts(source.held)

    def evaluate() -> dict[str, float]:
        rows = []
        for image, annotation in parts:
            result = decode_whole(model, image, source.spacing, {})
            rows.append(source.task.score(result, annotation, annotation.spacing))
        names = [name for name in rows[0] if np.isfinite(rows[0][name])]
        return {name: float(np.mean([row[name] for row in rows if name in row])) for name in names}

    return evaluate


def held_out_parts(items: Sequence[Item]) -> list[tuple[Volume, Annotation]]:
    """Return (normalised image, annotation) of each item, cut to a middle part where it is large and can be cut."""
    parts = []
    for item in items:
        size = item.image.size
        region = item.image.region
        if region.voxels > EVALUATE_VOXELS:
            z = min(size[0], 64)
            side = int((EVALUATE_VOXELS / z) ** 0.5)
            cut = (z, min(size[1], side), min(size[2], side))
            region = Region.at([(n - c) // 2 for n, c in zip(size, cut)], cut)
            region = region.snap(item.annotation.steps(size)).clip(item.image.region)
        image = item.image if region == item.image.region else item.image.crop(region)
        annotation = item.annotation if image is item.image else item.annotation.crop(region, size)
        parts.append((image, annotation))
    return parts


def decode_whole(model: Model, image: Volume, spacing: Spacing | None, point: dict[str, float]) -> Any:
    """Return the decoded result of a normalised image in memory."""
    import tempfile

    dense = predict_whole(model.network, model.task, image, spacing)
    with tempfile.TemporaryDirectory() as scratch:
        out = MemoryOutput(Path(scratch))
        model.task.decode(dense, None, out, point)
        return out.result


def _guard_scarce_labels(counts: dict[int, int], trained: bool, say: list[str]) -> None:
    """Warn of almost no labels of a class, and hold a trained model back from them: they would ruin it."""
    for stratum, count in counts.items():
        if count < SCARCE and trained:
            raise DataError(
                f"only {count} labelled voxels of class {stratum}: a trained model loses more than it learns from "
                f"so few; paint at least {SCARCE}"
            )
        if count < SCARCE:
            say.append(
                f"only {count} labelled voxels of class {stratum}: paint more before trusting the result"
            )


def _tell_of_unused_mark(items: Sequence[Item], sampler: Sampler, say: list[str]) -> None:
    """Say when a value was named for what nobody painted, and no voxel has it: it may be a slip."""
    labelled = [item.annotation for item in items if isinstance(item.annotation, LabelImage)]
    marks = {known.unlabelled for known in labelled if known.unlabelled is not None}
    if marks and sum(sampler.counts.values()) == sum(pair.target.region.voxels for pair in sampler.pairs):
        named = " or ".join(str(mark) for mark in sorted(marks))
        say.append(f"no label is {named}, the value of unlabelled voxels: all count as labelled")


def _tell_of_small_images(
    names: Sequence[str], tilings: Sequence[Tiling], patch: Triple, say: list[str]
) -> None:
    """Say when a few small images make the samples of all much smaller than most could give."""
    sizes = [t.domain.size for t in tilings]
    middle = [int(n) for n in np.median(sizes, 0)]
    usual = patch_of(tilings, [(middle[0], middle[1], middle[2])])
    if math.prod(patch) > math.prod(usual) / 2 or patch[0] == 1:
        return
    least = min(range(len(sizes)), key=lambda n: math.prod(sizes[n]))
    say.append(
        f"samples have {patch} voxels: the smallest images give no larger ones (as {names[least]}, {sizes[least]}); "
        f"most give {usual}. Leave those out, or pad them: --set patch=[{','.join(map(str, usual))}]"
    )


def _calibrate(model: Model, source: _Data, say: list[str]) -> dict[str, float]:
    """Return the operating point that serves what was held out, empty where that is too little to say."""
    if not source.held:
        return {}
    parts = held_out_parts(source.held)
    dense = [predict_whole(model.network, source.task, image, source.spacing) for image, _ in parts]
    point: dict[str, float] = source.task.calibrate(dense, [annotation for _, annotation in parts])
    if point:
        say.append("calibrated on held-out labels: " + ", ".join(f"{k} {v:.2f}" for k, v in point.items()))
    elif source.task.annotation == "label":
        say.append("too few held-out labels to calibrate thresholds: the task's own hold")
    return point


def _finish(
    model: Model,
    source: _Data,
    outcome: Outcome,
    scores: dict[str, float],
    run: Path,
    path: Path,
    say: list[str],
) -> None:
    """Complete the card, write the model, drop the checkpoints."""
    task = source.task
    model.card.update(task.facts([item.annotation for item in source.train]))
    model.card["halo_error"] = halo_error(model.network, task, source.train[0].image, source.spacing)
    model.card.update(
        {
            "intensities": source.intensities,
            "training": {
                "steps": len(outcome.history) - 1,
                "first": outcome.first,
                "best": outcome.best,
                "best_step": outcome.best_step,
                "score": task.better,
                "candidates": scores,
                "items": [item.name for item in source.train],
                "held_out": [item.name for item in source.held],
            },
        }
    )
    if process()[0] == 0:
        write_file(run / "summary.json", json.dumps({"scores": scores, "lines": say}, indent=1).encode())
        model.save(path)
    drop_checkpoints(run)
