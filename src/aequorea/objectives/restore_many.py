"""One body for many restorations, from volumes that nobody has pairs of.

Each sample is a pair for one task: a patch of a volume, or a simulated structure where there are no volumes, is seen
through a simulated microscope (:mod:`aequorea.signal.degrade`). Where recorded pairs are named for a task, every second
of its samples is a piece of one of them. A batch mixes tasks; the body is shared, stem and head
are each task's own, and those that a batch does not use are not touched by its step.

After Ma et al., "Pretraining a foundation model for generalizable fluorescence microscopy-based image restoration"
(Nature Methods 21, 2024), which trained one task an epoch.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Self

import numpy as np
import torch
from pydantic import Field, PositiveFloat, field_validator, model_validator
from torch import Tensor, nn

from aequorea.engine.pieces import Recorded
from aequorea.errors import DataError, SpecError, nearest
from aequorea.layers.network import Network
from aequorea.layers.norm import settle
from aequorea.registry import build, names
from aequorea.signal.degrade import TASKS, DegradeSpec, grids, pair
from aequorea.signal.structures import TRAIN_KINDS, structure
from aequorea.specs import Spec
from aequorea.volume import Array, Spacing, Triple, Volume

DEFAULT = ("denoise", "deblur", "super_resolve", "isotropic")
UNKNOWN: Spacing = (0.3, 0.1, 0.1)
"""Voxel size in µm (z, y, x) that is assumed of volumes which do not know theirs, and of simulated ones."""
SIMULATED: Triple = (16, 64, 64)
"""Voxels of a simulated structure."""
LOW, HIGH = 1.0, 99.8
"""Percentiles of an input between which both sides of a pair are scaled."""


class RestoreManySpec(Spec):
    """Recipe of :class:`RestoreMany`.

    Attributes
    ----------
    tasks
        Restorations that are learnt, and how much there is of each: ``{"denoise": 1.0, ...}``.
    temperature
        Shares are raised to 1/T: at 1 tasks come as often as their share, the larger the more alike.
    pairs
        Recorded pairs of a task, beside those that are made: ``{"denoise": "my_pairs"}``; folders and CSVs as for
        fine-tuning.
    degrade
        The simulated microscopes, and what tasks ask of them: ``{"camera": {"photons": [5, 50]}, "planes": 8}``.
    """

    tasks: dict[str, PositiveFloat] = Field(default=dict.fromkeys(DEFAULT, 1.0), min_length=1)
    temperature: PositiveFloat = 2.0
    pairs: dict[str, str] = Field(default={})
    degrade: DegradeSpec = DegradeSpec()

    @field_validator("tasks")
    @classmethod
    def _known(cls, tasks: dict[str, float]) -> dict[str, float]:
        known = [name for name in TASKS if name in names("tasks")]
        for name in tasks:
            if name not in known:
                raise ValueError(f"no restoration is called '{name}'; {nearest(name, known)}")
        return tasks

    @model_validator(mode="after")
    def _learnt(self) -> Self:
        for name in self.pairs:
            if name not in self.tasks:
                raise ValueError(
                    f"pairs of '{name}', which is not among the tasks; {nearest(name, self.tasks)}"
                )
        return self


class RestoreMany(nn.Module):
    """Restores simulated images of many kinds with one body; owns a stem and a head for each task."""

    Spec = RestoreManySpec

    def __init__(self, spec: RestoreManySpec) -> None:
        super().__init__()
        self.spec = spec
        made = spec.degrade
        words: dict[str, dict[str, Any]] = {
            "super_resolve": {"factor": made.undersampling},
            "isotropic": {"factor": made.planes},
            "light_field": {"views": made.views, "depth": made.depth},
        }
        # Losses of all tasks are of one size, so that none drowns the others.
        self.tasks = {
            name: build("tasks", {"name": name, "channels": 1, **words.get(name, {})}) for name in spec.tasks
        }
        share = np.array(list(spec.tasks.values())) ** (1 / spec.temperature)
        self.shares: dict[str, float] = dict(zip(spec.tasks, (share / share.sum()).tolist()))
        self.stems = nn.ModuleDict({name: task.stem() for name, task in self.tasks.items()})
        self.heads = nn.ModuleDict()
        self.recorded: dict[str, list[Recorded]] = {}

    def take(self, recorded: dict[str, list[tuple[Volume, Volume]]], patches: Sequence[Triple]) -> None:
        """Learn from recorded pairs too.

        Parameters
        ----------
        recorded
            Image and target by task, normalised.
        patches
            Voxels (z, y, x) of the patches that :meth:`prepare` will be given; empty: of simulated structures.

        Raises
        ------
        DataError
            If none of a task's pairs has a piece of the size that a patch makes.
        """
        made = self.spec.degrade
        for name, pairs in recorded.items():
            step = (1, made.views, made.views) if name == "light_field" else (1, 1, 1)
            own = [Recorded(image, target, step, self.tasks[name].anchor) for image, target in pairs]
            sizes = [self._sizes(name, patch) for patch in patches or [SIMULATED] if self._fits(name, patch)]
            if not any(pair.fits(*size) for pair in own for size in sizes):
                shown = f"images of {own[0].image.size} with targets of {own[0].target.size}"
                wanted = " or ".join(f"{image} and {target}" for image, target in sizes) or "none"
                raise DataError(
                    f"{self.spec.pairs[name]}: no pair for {name} fits: {shown} where pieces are {wanted} voxels "
                    "(z, y, x); choose another --patch, volumes as deep as the pairs, or the factor that they have"
                )
            self.recorded[name] = own

    def survey(
        self, patch: Callable[[Any], Array], backbone: nn.Module, spacing: Spacing | None, rng: Any
    ) -> dict[str, Any]:
        """Return the voxel size of a volume."""
        return {"spacing": spacing}

    def prepare(self, patch: Array | None, rng: Any, facts: dict[str, Any] | None = None) -> dict[str, Array]:
        """Return the number of a task, its input and its target, and zeros in place of those of the others."""
        spacing = (facts or {}).get("spacing") or UNKNOWN
        if patch is None:
            kind = TRAIN_KINDS[int(rng.integers(len(TRAIN_KINDS)))]
            truth = structure(kind, SIMULATED, UNKNOWN, int(rng.integers(2**31)))
        else:
            truth = np.clip(np.nan_to_num(patch[int(rng.integers(len(patch)))]), 0, 4).astype(np.float32)
        usable = [name for name in self.tasks if self._fits(name, truth.shape)]
        if not usable:
            raise SpecError(
                f"patches of {truth.shape} voxels (z, y, x) are too small for {', '.join(self.tasks)}"
            )
        shares = np.array([self.shares[name] for name in usable])
        chosen = usable[int(rng.choice(len(usable), p=shares / shares.sum()))]
        made: dict[str, Array] = {"task": np.array(list(self.tasks).index(chosen))}
        for name in usable:
            image, target = self._sizes(name, truth.shape)
            recorded = [one for one in self.recorded.get(name, []) if one.fits(image, target)]
            if name == chosen and recorded and rng.random() < 0.5:
                one = recorded[int(rng.integers(len(recorded)))]
                made[f"{name} image"], made[f"{name} target"] = one.piece(image, target, rng)
            elif name == chosen:
                seen, wanted = pair(name, truth, spacing, self.spec.degrade, rng)
                low, high = np.percentile(seen, (LOW, HIGH))
                span = max(float(high - low), 1e-6)
                made[f"{name} image"] = ((seen - low) / span).astype(np.float32)[None]
                made[f"{name} target"] = ((wanted - low) / span).astype(np.float32)[None]
            else:
                made[f"{name} image"] = np.zeros((1, *image), np.float32)
                made[f"{name} target"] = np.zeros((1, *target), np.float32)
        return made

    def _sizes(self, name: str, size: Any) -> tuple[Triple, Triple]:
        """Return the voxels (z, y, x) of the image and of the target that a patch makes."""
        image, target = grids(name, size, UNKNOWN, self.spec.degrade)
        return image.size, target.size

    def _fits(self, name: str, size: Any) -> bool:
        z, y, x = size
        made = self.spec.degrade
        enough: dict[str, bool] = {
            "super_resolve": min(y, x) >= 4 * made.undersampling,
            "isotropic": z >= 2 * made.planes,
            "project": z >= 4,
            "light_field": z >= made.depth and min(y, x) >= 4 * made.views,
        }
        return enough.get(name, True)

    def forward(
        self, backbone: nn.Module, batch: dict[str, Tensor], spacing: Spacing | None
    ) -> dict[str, Tensor]:
        """Return the loss of each task that the batch holds, as its share of the mean over samples."""
        self._begin(backbone, spacing)
        losses = {}
        for number, (name, task) in enumerate(self.tasks.items()):
            of_task = batch["task"] == number
            count = int(of_task.sum())
            zero = torch.zeros((), device=of_task.device)
            losses[name] = zero
            if count:
                output = self._answer(name, backbone, batch[f"{name} image"][of_task], spacing)
                loss = task.loss(output.float(), batch[f"{name} target"][of_task])
                losses[name] = loss * count / len(of_task)
        return losses

    def models(
        self, backbone: nn.Module, batches: Sequence[tuple[dict[str, Tensor], Spacing | None]]
    ) -> dict[str, tuple[Any, Network]]:
        """Return task and network by the task's name.

        Each has a copy of the body, whose normalisations know the images of that task: those of training averaged over
        all of them, and with these statistics an image is none that the body has ever seen.
        """
        made = {}
        for number, (name, task) in enumerate(self.tasks.items()):
            network = Network(self.stems[name], copy.deepcopy(backbone), self.heads[name])
            chosen = [(batch, spacing, batch["task"] == number) for batch, spacing in batches]
            passes = [
                partial(network, batch[f"{name} image"][of_task], network.body_spacing(spacing))
                for batch, spacing, of_task in chosen
                if of_task.any()
            ]
            if passes:
                settle(network, passes)
            made[name] = (task, network)
        return made

    def after_step(self, step: int) -> None:
        """Do nothing."""

    def _begin(self, backbone: nn.Module, spacing: Spacing | None) -> None:
        """Make the heads once the body is known."""
        for name, task in self.tasks.items():
            if name not in self.heads:
                layout = backbone.layout(spacing)  # type: ignore[operator]
                self.heads[name] = task.head(layout).to(next(backbone.parameters()).device)

    def _answer(self, name: str, backbone: nn.Module, image: Tensor, spacing: Spacing | None) -> Tensor:
        network = Network(self.stems[name], backbone, self.heads[name])
        out: Tensor = network(image, network.body_spacing(spacing))
        return out
