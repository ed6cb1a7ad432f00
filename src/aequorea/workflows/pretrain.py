"""The verb *pretrain*: from unlabelled volumes to a body that fine-tuning starts from.

What is learnt is said by objectives, a weighted list of them: each makes its sample of every patch and its losses
of every batch, and they are added up.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from pydantic import Field, PositiveFloat
from torch import Tensor, nn

from aequorea.engine.predict import normalised
from aequorea.engine.train import TrainSpec, process, train
from aequorea.errors import DataError
from aequorea.model import card_of, save_body
from aequorea.registry import build
from aequorea.signal.intensity import measure
from aequorea.specs import Spec
from aequorea.volume import Array, Region, Triple, Volume
from aequorea.workflows.finetune import patch_size, reference_spacing
from aequorea.workflows.open import open as open_volume
from aequorea.workflows.run_folder import check_claim, claim


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
        Voxels (z, y, x) of one sample; default: that of fine-tuning.
    """

    objectives: tuple[WeightedObjective, ...] = Field(min_length=1)
    backbone: dict[str, Any] = Field(default={"name": "unet"})
    train: TrainSpec = TrainSpec()
    patch: Triple | None = None


class Pretrained(NamedTuple):
    """What a run left: the body's file, for ``finetune --model``, and its card."""

    path: Path
    card: dict[str, Any]


def pretrain(data: Sequence[Any], run: str | Path, spec: PretrainSpec) -> Pretrained:
    """Train a body on volumes without labels, or take up a run that was interrupted.

    Parameters
    ----------
    data
        Volumes, or whatever :func:`aequorea.open` takes; none where the objectives make their own samples.
    run
        Run folder. A finished one is read and nothing is done.
    spec
        Recipe; must be that of the folder, if it holds one.

    Raises
    ------
    DataError, SpecError
        If images or recipe are wrong, or the run folder belongs to another recipe.
    """
    run = Path(run)
    path = run / "body.safetensors"
    images = [source if isinstance(source, Volume) else open_volume(source) for source in data]
    prints = {f"{number} {image.name}": image.fingerprint for number, image in enumerate(images)}
    if len({image.shape[0] for image in images}) > 1:
        raise DataError("images of several numbers of channels together: pick some with channel=")
    check_claim(run, spec, prints)
    if path.exists():
        return Pretrained(path, card_of(path))
    torch.manual_seed(spec.train.seed)
    body = build("backbones", spec.backbone)
    objectives = [(build("objectives", one.objective), one) for one in spec.objectives]
    spacing = reference_spacing(images)
    sizes = [image.size for image in images] or [(64, 64, 64)]
    patch = spec.patch or patch_size(sizes, body.layout(spacing).grid)
    scaled = [normalised(image, measure(image)) for image in images]

    def sample(index: int) -> dict[str, Array]:
        rng = np.random.Generator(np.random.Philox(key=np.array([spec.train.seed, index], np.uint64)))
        block = cut(scaled, patch, rng) if scaled else None
        made = [objective.prepare(block, rng) for objective, _ in objectives]
        return {f"{n}.{word}": array for n, arrays in enumerate(made) for word, array in arrays.items()}

    def losses(batch: dict[str, Tensor]) -> dict[str, Tensor]:
        out = {}
        for n, (objective, words) in enumerate(objectives):
            own = {k.split(".", 1)[1]: v for k, v in batch.items() if k.split(".", 1)[0] == str(n)}
            for name, value in objective(body, own, spacing).items():
                out[f"{words.objective['name']} {n} {name}"] = words.weight * value
        return out

    def after_step(step: int) -> None:
        for objective, _ in objectives:
            objective.after_step(step)

    owned = [objective for objective, _ in objectives if isinstance(objective, nn.Module)]
    module = nn.ModuleDict({"body": body, "objectives": nn.ModuleList(owned)}).eval()
    with torch.no_grad():  # gives lazy modules their size
        losses({name: torch.from_numpy(array)[None] for name, array in sample(0).items()})
    claim(run, spec, prints)
    outcome = train(run, module, losses, sample, spec.train, after_step=after_step)
    card = {
        "spacing": list(spacing) if spacing else None,
        "objectives": [words.plain() for _, words in objectives],
        "training": {"steps": len(outcome.history) - 1, "images": [image.name for image in images]},
    }
    if process()[0] == 0:
        save_body(path, body, card)
    return Pretrained(path, card)


def cut(images: Sequence[Volume], patch: Triple, rng: np.random.Generator) -> Array:
    """Return a patch_CZYX at a random place of a random image, each voxel of them as likely; 0 outside of it."""
    voxels = np.array([image.region.voxels for image in images], float)
    image = images[int(rng.choice(len(images), p=voxels / voxels.sum()))]
    start = [int(rng.integers(max(0, n - p) + 1)) for n, p in zip(image.size, patch)]
    inside = Region.at(start, patch).clip(image.region)
    out = np.zeros((image.shape[0], *patch), np.float32)
    out[(slice(None), *inside.relative_to(Region.at(start, patch)).slices)] = image.read(inside)
    return out
