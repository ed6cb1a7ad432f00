"""The verb *pretrain*: from unlabelled volumes to a body that fine-tuning starts from.

What is learnt is said by objectives, a weighted list of them: each makes its sample of every patch and its losses
of every batch, and they are added up. Whole specimens are held out; on them the command says what was learnt beside
rivals that learnt nothing, and what its features are worth under strokes
(:mod:`aequorea.workflows.judged`).
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from pydantic import Field, PositiveFloat
from torch import Tensor, nn

from aequorea.engine.blocks import BlockSampler, Source, cut
from aequorea.engine.durable import write_file, write_json
from aequorea.engine.memory import capped, foresee, limited
from aequorea.engine.predict import normalised
from aequorea.engine.train import TrainSpec, process, train
from aequorea.layers.norm import settle
from aequorea.model import card_of, save_body
from aequorea.progress import Progress
from aequorea.progress import report as stage_ended
from aequorea.registry import build
from aequorea.signal.intensity import Intensity, measure, sampled
from aequorea.specs import Spec
from aequorea.volume import Array, Spacing, Triple, Volume
from aequorea.workflows.dataset import Item
from aequorea.workflows.finetune import reference_spacing
from aequorea.workflows.judged import judged, report, told
from aequorea.workflows.open import open as open_volume
from aequorea.workflows.run_folder import check_claim, claim, drop_checkpoints
from aequorea.workflows.stroke_probe import probe_bytes, simulated_item, stroke_probe

T = TypeVar("T")

PATCH: Triple = (64, 64, 64)
THIN: Triple = (16, 96, 96)
FLAT: Triple = (1, 256, 256)
"""Voxels (z, y, x) of a patch: of volumes, thin ones, and planes; less where there is less."""
COUNTED = 64**3 * 1024
"""Larger volumes are normalised by sampled places."""
AFTERWARDS = 250_000_000
"""Bytes that a run has gained when its features are tried: weights of the optimizer, open blocks, libraries."""
SETTLING = 16
"""Batches on which normalisations learn the statistics of what nothing is hidden of."""


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
        Steps, rate, seed.
    patch
        Voxels (z, y, x) of one sample of a volume; default: 64³, or about as much of a thin one.
    held_out
        Share of the specimens that is kept to judge by.
    """

    objectives: tuple[WeightedObjective, ...] = Field(
        default=(WeightedObjective(objective={"name": "mae"}),), min_length=1
    )
    backbone: dict[str, Any] = Field(default={"name": "hiera"})
    train: TrainSpec = TrainSpec(steps=1000, batch=8, learning_rate=1e-3, checkpoint_every=50)
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
    say: Callable[[str], None] = print,
    memory: int | None = None,
) -> Pretrained:
    """Train a body on volumes without labels, or take up a run that was interrupted.

    Parameters
    ----------
    data
        Volumes, or whatever :func:`aequorea.open` takes; none where the objectives make their own samples.
    run
        Run folder. A finished one is read and nothing is done.
    spec
        Recipe; must be that of the folder, if it holds one.
    groups
        Specimen of each volume; default: each is its own.
    held
        Volumes to judge by; default: whole specimens of ``data``, as many as ``held_out`` says.
    probe
        Labelled volumes for :mod:`aequorea.workflows.stroke_probe`; default: a simulated one.
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
        return _pretrain(data, Path(run), spec, groups, held, probe, say)


def _pretrain(
    data: Sequence[Any],
    run: Path,
    spec: PretrainSpec,
    groups: Sequence[str] | None,
    held: Sequence[Any],
    probe: Sequence[Item],
    say: Callable[[str], None],
) -> Pretrained:
    path = run / "body.safetensors"
    images = [_opened(source) for source in data]
    judges = [_opened(source) for source in held]
    names = list(groups) if groups is not None else [f"{n} {image.name}" for n, image in enumerate(images)]
    prints = {f"{number} {image.name}": image.fingerprint for number, image in enumerate([*images, *judges])}
    check_claim(run, spec, prints)
    if path.exists():
        drop_checkpoints(run)
        return Pretrained(path, card_of(path))
    torch.manual_seed(spec.train.seed)
    body = build("backbones", spec.backbone)
    objectives = [(build("objectives", one.objective), one) for one in spec.objectives]
    if not judges and spec.held_out:
        images, names, judges = parted(images, names, spec)
    claim(run, spec, prints)
    ranges = _ranges([*images, *judges], run)
    train_set, judge_set = ranges[: len(images)], ranges[len(images) :]
    sources = [_source(image, name, body, spec.patch) for image, name in zip(train_set, names)]
    rivals = [_source(image, image.name, body, spec.patch) for image in judge_set]
    recipe = json.dumps([spec.plain(), prints])
    facts = _surveyed(objectives, [*sources, *rivals], body, run, spec.train.seed, recipe)
    sampler = BlockSampler(sources, spec.train.batch, spec.train.seed) if sources else None

    def sample(index: int) -> dict[str, Array]:
        number, patch = sampler(index) if sampler is not None else (-1, None)
        return _prepared(
            objectives, patch, facts[number] if facts else None, [spec.train.seed, index], sources, number
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
    rows = [
        row
        for n, (objective, _) in enumerate(objectives)
        for row in judged(objective, n, body, rivals, facts[len(sources) :])
    ]
    torch.manual_seed(spec.train.seed)
    rivals_of = {
        "random": build("backbones", spec.backbone),
        "filters": build("backbones", {"name": "filters"}),
    }
    if sampler is not None:
        patches = [sampler(spec.train.batch * (spec.train.steps + i)) for i in range(SETTLING)]
        for one in (body, rivals_of["random"]):
            _settle(one, [(sources[n].image.spacing, patch) for n, patch in patches])
    probed = stroke_probe({"pretrained": body, **rivals_of}, judged_on)
    card = {
        "spacing": _plain(reference_spacing(images)),
        "objectives": [words.plain() for _, words in objectives],
        "held_out": rows,
        "strokes": probed,
        "training": {"steps": len(outcome.history) - 1, "images": [image.name for image in images]},
    }
    if process()[0] == 0:
        write_file(run / "summary.json", json.dumps(card, indent=1).encode())
        html = report(objectives, body, rivals, facts[len(sources) :], card, outcome.history)
        write_file(run / "report.html", html.encode())
        save_body(path, body, card)
    drop_checkpoints(run)
    for line in told(card):
        say(line)
    return Pretrained(path, card)


def _settle(body: Any, patches: Sequence[tuple[Spacing | None, Array]]) -> None:
    """Let normalisations learn the statistics of patches that nothing is hidden of."""
    device = next(body.parameters()).device

    def one(spacing: Spacing | None, patch: Array) -> Callable[[], Any]:
        return lambda: body(torch.from_numpy(patch)[None, :1].to(device), spacing)

    settle(body, [one(spacing, patch) for spacing, patch in patches])


def _opened(source: Any) -> Volume:
    return source if isinstance(source, Volume) else open_volume(source)


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


def _ranges(images: Sequence[Volume], run: Path) -> list[Volume]:
    """Return normalised volumes; what was measured stays in the run folder."""
    file = run / "intensity.json"
    known: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}
    out = []
    for image in images:
        key = image.fingerprint
        if key not in known:
            at = time.monotonic()
            found = measure(image) if image.region.voxels <= COUNTED else sampled(image)
            stage_ended("range", time.monotonic() - at)
            known[key] = found.plain()
            if process()[0] == 0:
                write_json(file, known)
        out.append(normalised(image, Intensity.parse(known[key])))
    return out


def _source(image: Volume, group: str, body: Any, patch: Triple | None) -> Source:
    """Return a volume with the patch that its depth and the body's grid ask for."""
    layout = body.layout(image.spacing)
    flat = image.size[0] == 1
    grid = (1, *layout.grid[1:]) if flat else layout.grid
    thin = image.size[0] <= THIN[0]
    most = FLAT if flat else patch or (THIN if thin else PATCH)
    z, y, x = (max(g, min(m, n) // g * g) for m, n, g in zip(most, image.size, grid))
    size = (z, y, x)
    return Source(image, group, (flat, layout.strides, size, image.shape[0]), size)


def _surveyed(
    objectives: Sequence[tuple[Any, Any]],
    sources: Sequence[Source],
    body: Any,
    run: Path,
    seed: int,
    recipe: str,
) -> list[list[Any]]:
    """Return what each objective wants to know of each volume; kept in the run folder, with what it was found for."""
    file = run / "survey.json"
    digest = hashlib.sha256(recipe.encode()).hexdigest()
    if file.exists():
        kept = json.loads(file.read_text())
        if kept["of"] == digest:
            return list(kept["facts"])
    facts: list[list[Any]] = []
    with Progress("survey", len(sources), "volume") as bar:
        for number, source in enumerate(sources):
            found = []
            for objective, _ in objectives:
                survey = getattr(objective, "survey", None)
                rng = np.random.default_rng([seed, number])
                patches = partial(cut, source)
                found.append(survey and survey(patches, body, source.image.spacing, rng))
            facts.append(found)
            bar.advance()
    if process()[0] == 0 and sources:
        write_json(file, {"of": digest, "facts": facts})
    return facts


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
