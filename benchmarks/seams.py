"""Do tile borders show? Errors against the truth near tile borders minus those elsewhere.

Voxels: Dice within 4 voxels of a tile border against Dice elsewhere, over 32³ blocks; the 95 % bound is from a
bootstrap over blocks. Objects: F1 of those that cross a tile border against the others, which are smaller. So the same
figures are taken of the same places where no borders are, in one tile, or, where the volume is too large for that, in
tiles whose borders lie elsewhere. What borders take is the difference. On two real sets every
voxel is its own control: the volume is tiled at several sizes, so that it is near a border in some and not in
others. On the simulated volume (128 x 1024 x 1024, z:x 4:1; recipe ``UNSEEN``: sizes, shapes and textures outside
the training ranges, another seed) F1@0.5 >= 0.85, split <= 2 % and merged <= 1 % are asked for too, where
Otsu + watershed scores F1 <= 0.65 and at least 40 % of the nuclei touch. The model learns from simulated crops of
the default recipe alone.

``--backbone hiera`` asks the same of a transformer, and looks at its windows: that Dice with itself is >= 0.98 where
only their phase is moved and >= 0.95 where the image is moved by two voxels, and that the step of the probability at
faces of windows is <= 1.1 times that at other faces of units. What lies at the few faces differs (so much that the
truth itself may step 1.1 times as much), so four phases are taken, in which each face of units is once one of windows.
Nuclei are known by what is inside a unit: there the test is empty. So a second network learns what only a wider view
tells: which voxels lie in cells with a bright nucleus, up to 44 voxels away, other cells being alike but for a dimmer
one. Its last stage must matter: with the mean in its place Dice falls; and by how much is printed where units see
themselves alone. (Of three sizes of cells this is the one at which the attention among units mattered on another seed;
cells without nuclei, told from the gaps between them, were known without.)

``--quick`` decodes noisy fields derived from the truth of a small volume instead: no network.

Run: ``python benchmarks/seams.py [--quick] [--work scratch/seams] [--only simulated real windows] [--backbone unet]``.
What is trained and predicted is kept in ``--work``; a second run goes on from there.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import zarr
from numpy.typing import NDArray
from scipy import ndimage

from aequorea.annotations import LabelImage
from aequorea.engine.inference import Runner
from aequorea.engine.predict import normalised, predict_dense
from aequorea.engine.tiles import Tiling
from aequorea.engine.train import TrainSpec
from aequorea.model import Model, load
from aequorea.results import MemoryOutput
from aequorea.scores.matching import Matching, match
from aequorea.scores.volumes import object_scores
from aequorea.signal.classical import otsu_watershed
from aequorea.signal.heights import cap_of, height_map, object_sizes
from aequorea.signal.intensity import measure
from aequorea.signal.specimens import UNSEEN, NucleiSpec, Specimen, touching_nuclei
from aequorea.tasks.instances import Instances, InstancesSpec
from aequorea.volume import Region, Triple, Volume, from_array
from aequorea.workflows.dataset import Item
from aequorea.workflows.demo import tuned_watershed
from aequorea.workflows.finetune import FinetuneSpec, finetune
from aequorea.workflows.open import open as open_volume
from aequorea.workflows.predict import predict

NEAR = 4
SPACING = (2.0, 0.5, 0.5)
LARGE: Triple = (128, 1024, 1024)
CROP: Triple = (32, 160, 160)
CROPS = 20
STEPS = {"unet": 1500, "hiera": 4000}
RECIPES: dict[str, dict[str, Any]] = {"unet": {}, "hiera": {"patch": (32, 96, 96), "brightness": 0.4}}
"""Chosen on simulated volumes of other seeds, shapes and fading than the one that is counted."""
CELLS = NucleiSpec(diameter=(34.0, 44.0), elongation=(1.0, 1.4), roughness=0.08, pitch=1.0, filled=1.0)
VIEW: Triple = (32, 384, 384)
CELL_STEPS, CELL_CROPS = 600, 14
CELL_CROP: Triple = (32, 256, 256)
CELL_PATCH: Triple = (32, 128, 128)
"""Wider than a window, so that whole ones are learnt from."""
BLOCK = 32
BARS = {
    "dice gap": 0.01,
    "dice gap at windows": 0.01,
    "f1 gap": 0.01,
    "split": 0.02,
    "merged": 0.01,
    "step at windows": 1.1,
}
LEAST = {"f1": 0.85, "lost without the last stage": 0.01, "phase moved": 0.98, "image moved": 0.95}


def near_border(region: Region, core: Triple, size: Triple) -> NDArray[np.bool_]:
    """Return which voxels of a region lie within ``NEAR`` voxels of a border between two tiles."""
    near = np.zeros(region.size, bool)
    for axis in range(3):
        place = np.arange(region.start[axis], region.stop[axis])
        below = np.minimum(place // core[axis] * core[axis], 10**9)
        away_low = np.where(below > 0, place - below, 10**9)
        above = below + core[axis]
        away_high = np.where(above < size[axis], above - 1 - place, 10**9)
        line = np.minimum(away_low, away_high) < NEAR
        near |= line.reshape([-1 if i == axis else 1 for i in range(3)])
    return near


def crossing(labels: Volume, core: Triple) -> NDArray[np.int64]:
    """Return the objects that have voxels on both sides of a border between two tiles."""
    found: list[NDArray[np.int64]] = []
    for axis in range(3):
        for at in range(core[axis], labels.size[axis], core[axis]):
            start, stop = [0, 0, 0], list(labels.size)
            start[axis], stop[axis] = at - 1, at + 1
            pair = labels.read(Region((start[0], start[1], start[2]), (stop[0], stop[1], stop[2])))[0]
            first, second = np.take(pair, 0, axis), np.take(pair, 1, axis)
            found.append(np.unique(first[(first == second) & (first > 0)]).astype(np.int64))
    return np.unique(np.concatenate(found)) if found else np.zeros(0, np.int64)


class Tally:
    """Counts near borders and elsewhere, by block, and matched objects that cross borders and others."""

    def __init__(self) -> None:
        self.blocks: dict[tuple[int, ...], NDArray[np.int64]] = {}
        self.objects = np.zeros((2, 3), np.int64)

    def add(self, truth: Volume, found: Volume, core: Triple, known: NDArray[np.bool_] | None = None) -> None:
        """Count voxels of one tiling."""
        for region in truth.region.split((BLOCK,) * 3):
            a, b = truth.read(region)[0] > 0, found.read(region)[0] > 0
            near = near_border(region, core, truth.size)
            valid = np.ones(a.shape, bool) if known is None else known[region.slices]
            counts = self.blocks.setdefault(region.start, np.zeros((2, 3), np.int64))
            for side, where in enumerate((near & valid, ~near & valid)):
                counts[side] += [(a & b & where).sum(), (~a & b & where).sum(), (a & ~b & where).sum()]

    def add_objects(self, truth: Volume, found: Volume, core: Triple, matching: Matching) -> None:
        """Count matched, false and missed objects of one tiling."""
        across_true, across_found = crossing(truth, core), crossing(found, core)
        true_ids = np.unique(truth.read())
        found_ids = np.unique(found.read())
        hit = np.isin(matching.pairs[:, 0], across_true)
        missed = np.setdiff1d(true_ids[true_ids > 0], matching.pairs[:, 0])
        false = np.setdiff1d(found_ids[found_ids > 0], matching.pairs[:, 1])
        for side, (t, f, m) in enumerate(
            [
                (hit.sum(), np.isin(false, across_found).sum(), np.isin(missed, across_true).sum()),
                ((~hit).sum(), (~np.isin(false, across_found)).sum(), (~np.isin(missed, across_true)).sum()),
            ]
        ):
            self.objects[side] += [t, f, m]

    def dice_gaps(self, resamples: int = 1000) -> NDArray[np.float64]:
        """Return Dice elsewhere minus Dice near borders, and the same of blocks drawn anew, the same ones each time."""
        counts = np.stack([self.blocks[key] for key in sorted(self.blocks)]).astype(float)
        n = len(counts)
        draws = np.random.default_rng(0).multinomial(n, np.full(n, 1 / n), resamples)
        total = np.einsum("rn,nsc->rsc", np.concatenate([np.ones((1, n)), draws]), counts)
        dice = 2 * total[..., 0] / np.maximum(2 * total[..., 0] + total[..., 1] + total[..., 2], 1)
        return np.asarray(dice[:, 1] - dice[:, 0])

    def f1(self) -> tuple[float, float]:
        """Return F1 of objects that cross a border, and of the others."""
        across, others = (2 * t / max(1, 2 * t + f + m) for t, f, m in self.objects.tolist())
        return across, others


def gaps(tally: Tally, control: Tally) -> dict[str, float]:
    """Return what objects across borders lack beside others, with borders and without, and what borders take."""
    (across, others), (same, smaller) = tally.f1(), control.f1()
    lost, without = tally.dice_gaps(), control.dice_gaps()
    taken = lost - without
    return {
        "dice gap": float(np.percentile(lost[1:], 95)),
        "dice gap itself": float(lost[0]),
        "dice gap of the same places without borders": float(without[0]),
        "dice that borders take, 95 %": float(np.percentile(taken[1:], 95)),
        "f1 gap": others - across,
        "f1 gap of the same places without borders": smaller - same,
        "f1 across borders": across,
        "f1 of the same places without borders": same,
        "f1 that borders take": same - across,
        "objects across borders": float(tally.objects[0, [0, 2]].sum()),
    }


def simulated_crops() -> list[Item]:
    """Return labelled crops of the default recipe."""
    items = []
    for seed in range(CROPS):
        specimen = touching_nuclei(CROP, SPACING, 1000 + seed)
        labels = from_array(specimen.labels, SPACING)
        image = from_array(specimen.image, SPACING)
        split = "val" if seed == CROPS - 1 else "train"
        items.append(Item(f"crop {seed}", image, LabelImage(labels), f"{seed}", split))
    return items


def simulated(work: Path, backbone: str, start: str | None, steps: int | None) -> dict[str, float]:
    """Train on simulated crops, predict the large specimen, count."""
    items = simulated_crops()
    steps = steps or STEPS[backbone]
    spec = FinetuneSpec(
        task={"name": "instances"},
        backbone={"name": backbone},
        start=start,
        train=TrainSpec(steps=steps, evaluate_every=steps // 4),
        **RECIPES[backbone],
    )
    done = finetune(items, work / "run", spec)
    print("\n".join(done.lines), flush=True)
    image_path, label_path = work / "image.npy", work / "labels.npy"
    if not label_path.exists():
        specimen = touching_nuclei(LARGE, SPACING, 77, UNSEEN)
        np.save(image_path, specimen.image)
        np.save(label_path, specimen.labels)
    image = open_volume(image_path, spacing=SPACING)
    truth = open_volume(label_path, spacing=SPACING)
    predicted = predict(done.path, image, work / "large.ome.zarr")
    found = predicted.result.layers["objects"]
    z, y, x = zarr.open_array(work / "large.ome.zarr" / "0", mode="r").shards[-3:]  # a tile is a shard
    core = (z, y, x)
    sigma, distance = tuned_watershed(items)
    part = Region((0, 0, 0), (64, 384, 384))
    rival = otsu_watershed(image.read(part)[0], SPACING, sigma_um=sigma, min_distance_um=distance)
    rival_f1 = match(truth.read(part)[0], rival).f1
    scores = object_scores(found, LabelImage(truth))
    tally, control = Tally(), Tally()
    tally.add(truth, found, core)
    tally.add_objects(truth, found, core, match(truth.read()[0], found.read()[0]))
    scene = normalised(image, measure(image))
    tiling = Tiling.of(done.model.network, scene.size, scene.spacing)
    elsewhere = tiled(done.model, tiling, scene, beside(core, scene.size, tiling.grid))
    control.add(truth, elsewhere, core)
    control.add_objects(truth, elsewhere, core, match(truth.read()[0], elsewhere.read()[0]))
    labels = truth.read(part)[0]
    print(
        f"tiles of {core} voxels; Otsu + watershed F1 {rival_f1:.3f}; {touching(labels):.0%} of the nuclei touch"
    )
    return {
        **gaps(tally, control),
        "f1": scores["f1_50"],
        "split": scores["split_rate"],
        "merged": scores["merge_rate"],
        "rival f1": rival_f1,
        **(of_nuclei(load(done.path)) if backbone == "hiera" else {}),
    }


def of_nuclei(model: Model) -> dict[str, float]:
    """Look at the windows where the last stage need not matter."""
    found = windows(model, touching_nuclei((32, 256, 256), SPACING, 4242))
    asked = ("phase moved", "dice gap at windows", "step at windows", "image moved")
    return {name if name in asked else f"nuclei, {name}": value for name, value in found.items()}


def marked_cells(size: Triple, seed: int) -> Specimen:
    """Return cells with stained membranes and nuclei, and which voxels lie in cells with a bright nucleus."""
    cells = touching_nuclei(size, SPACING, seed, CELLS).labels
    border = ndimage.maximum_filter(cells, 3) != ndimage.minimum_filter(cells, 3)
    depth = ndimage.distance_transform_edt(~border, SPACING)
    middles = np.array(ndimage.maximum_position(depth, cells, np.arange(1, cells.max() + 1)))
    elsewhere = np.ones(size, bool)
    elsewhere[tuple(middles.T)] = False
    away, nearest = ndimage.distance_transform_edt(elsewhere, SPACING, return_indices=True)
    nucleus = (away < 4) & (cells > 0) & (cells[tuple(nearest)] == cells)
    rng = np.random.default_rng(seed)
    marked = rng.random(len(middles) + 1) < 0.5
    marked[0] = False
    light = 0.3 + (depth < 0.5) + nucleus * np.where(marked, 1.2, 0.5)[cells]
    light = ndimage.gaussian_filter(light, (0.5, 1, 1), output=np.float32)
    return Specimen(rng.poisson(20 * light).astype(np.uint16), marked[cells].astype(np.int32), SPACING)


def cells(work: Path, start: str | None, steps: int) -> dict[str, float]:
    """Train on what only its surroundings tell, and look at the windows."""
    items = []
    for seed in range(CELL_CROPS):
        crop = marked_cells(CELL_CROP, 2000 + seed)
        label = LabelImage(from_array(crop.labels, SPACING))
        split = "val" if seed == CELL_CROPS - 1 else "train"
        items.append(Item(f"crop {seed}", from_array(crop.image, SPACING), label, f"{seed}", split))
    spec = FinetuneSpec(
        task={"name": "semantic"},
        backbone={"name": "hiera"},
        start=start,
        patch=CELL_PATCH,
        train=TrainSpec(steps=steps, evaluate_every=steps // 4),
    )
    done = finetune(items, work, spec)
    print("\n".join(done.lines), flush=True)
    return windows(done.model, marked_cells(VIEW, 4243))


def windows(model: Model, specimen: Specimen) -> dict[str, float]:
    """Look at the windows of a trained transformer, at four phases: each face of units is once one of windows."""
    scene = from_array(specimen.image, SPACING)
    block = normalised(scene, measure(scene)).read()
    truth = specimen.labels > 0
    network = model.network
    body, last = network.backbone, network.backbone.stages[2]
    unit, width = body.layout(SPACING).grid, len(body.in_window)

    def probability(image: NDArray[np.float32], phase: int = 0) -> NDArray[np.float32]:
        runner = Runner(network, network.body_spacing(SPACING), precision="float32")  # takes hooks along
        origin = (phase * unit[0], phase * unit[1], phase * unit[2])
        return np.asarray(torch.sigmoid(runner(np.ascontiguousarray(image), origin)[0, 0]).cpu().numpy())

    def dice(a: NDArray[np.float32], b: NDArray[Any]) -> float:
        here, there = a > 0.5, b > 0.5
        return float(2 * (here & there).sum() / max(1, here.sum() + there.sum()))

    fields = [probability(block, phase) for phase in range(width)]
    hook = body.norms[2].register_forward_hook(
        lambda module, given, out: out.mean(dim=tuple(range(out.ndim - 1)), keepdim=True).expand_as(out)
    )
    without = probability(block)
    hook.remove()
    itself = torch.eye(width**3, dtype=torch.bool)[None]
    hooks = [
        layer.register_forward_pre_hook(lambda module, given: (given[0], 1, itself.to(given[0].device)))
        for layer in list(last)[1:]
    ]
    alone = probability(block)
    for hook in hooks:
        hook.remove()
    shifted = probability(block[:, :, 2:, 2:])
    steps: dict[bool, list[float]] = {True: [], False: []}
    for axis in range(3):
        for face in range(1, truth.shape[axis] // unit[axis]):
            at = face * unit[axis]
            for phase, field in enumerate(fields):
                step = np.abs(np.take(field, at, axis) - np.take(field, at - 1, axis)).mean()
                steps[(face + phase) % width == 0].append(float(step))
    window = (width * unit[0], width * unit[1], width * unit[2])
    gaps = []
    for phase, field in enumerate(fields):
        near = near_border(Region.whole(truth.shape).shift([phase * n for n in unit]), window, (10**6,) * 3)
        gaps.append(dice(field[~near], truth[~near]) - dice(field[near], truth[near]))
    return {
        "lost without the last stage": dice(fields[0], truth) - dice(without, truth),
        "lost where units see themselves alone": dice(fields[0], truth) - dice(alone, truth),
        "phase moved": min(dice(fields[0], field) for field in fields[1:]),
        "dice gap at windows": float(np.mean(gaps)),
        "step at windows": float(np.mean(steps[True]) / np.mean(steps[False])),
        "image moved": dice(fields[0][:, 2:, 2:], shifted),
        "dice": dice(fields[0], truth),
    }


def touching(labels: NDArray[np.int32]) -> float:
    """Return the share of objects that touch another one by a face."""
    ids: set[int] = set()
    for axis in range(3):
        a = np.take(labels, range(labels.shape[axis] - 1), axis)
        b = np.take(labels, range(1, labels.shape[axis]), axis)
        faces = (a != b) & (a > 0) & (b > 0)
        ids |= set(np.unique(a[faces]).tolist()) | set(np.unique(b[faces]).tolist())
    return len(ids) / max(1, len(np.unique(labels)) - 1)


def tilings(size: Triple, grid: Triple) -> Iterator[Triple]:
    """Yield cores of several sizes, so that each voxel is near a border in some and not in others."""
    for side in (24, 32, 40, 48, 56, 64, 80):
        yield multiple((min(side, size[0]), min(side, size[1]), min(side, size[2])), grid)


def multiple(size: Triple, grid: Triple) -> Triple:
    """Return the least multiple of a grid that holds so much."""
    z, y, x = (-(-n // g) * g for n, g in zip(size, grid))
    return z, y, x


def beside(core: Triple, size: Triple, grid: Triple) -> Triple:
    """Return a core of a fifth to a third of a volume whose borders lie far from those of another one."""

    def along(core: int, size: int, grid: int) -> int:
        if core >= size:
            return size
        sides = range(-(-size // (5 * grid)) * grid, size // 3 + 1, grid)
        return max(sides, key=lambda s: min(min(at % core, -at % core) for at in range(s, size, s)))

    z, y, x = (along(*axis) for axis in zip(core, multiple(size, grid), grid))
    return z, y, x


def real(work: Path, data: Path, name: str, path: str, backbone: str) -> dict[str, float]:
    """Train on one half (z) of a real set, tile the other half at several sizes, count."""
    image, labels = open_volume(data / f"{path}.tif"), open_volume(data / f"{path}_label.tif")
    half = image.size[0] // 2
    first = Region((0, 0, 0), (half, *image.size[1:]))
    second = Region((half, 0, 0), image.size)
    intensity = measure(image)
    item = Item("half", image.crop(first), LabelImage(labels.crop(first)), name, intensity=intensity)
    spec = FinetuneSpec(task={"name": "instances"}, backbone={"name": backbone}, train=TrainSpec(steps=300))
    model = load(finetune([item], work / name, spec).path)
    scene, truth = normalised(image.crop(second), intensity), labels.crop(second)
    tally, control = Tally(), Tally()
    tiling = Tiling.of(model.network, scene.size, scene.spacing)
    whole = tiled(model, tiling, scene, multiple(scene.size, tiling.grid))
    matched = match(truth.read()[0], whole.read()[0])
    for core in tilings(scene.size, tiling.grid):
        found = tiled(model, tiling, scene, core)
        tally.add(truth, found, core)
        tally.add_objects(truth, found, core, match(truth.read()[0], found.read()[0]))
        control.add(truth, whole, core)
        control.add_objects(truth, whole, core, matched)
    return gaps(tally, control)


def tiled(model: Model, tiling: Tiling, scene: Volume, core: Triple) -> Volume:
    """Return the objects found with tiles of one size, at the default halo."""
    layer = MemoryOutput(block=core).layer(
        "dense",
        size=scene.size,
        dtype="uint8",
        kind="image",
        channels=model.task.dense_channels,
        spacing=scene.spacing,
    )
    predict_dense(tiling, scene, layer, model.task.store, core, empty=np.zeros(2, np.uint8))
    with tempfile.TemporaryDirectory() as scratch:
        out = MemoryOutput(Path(scratch), block=core)
        model.task.decode(layer.finish(), None, out, model.point)
        return out.result.layers["objects"]


def quick() -> dict[str, float]:
    """Decode noisy fields derived from the truth, in small blocks."""
    specimen = touching_nuclei((48, 224, 224), SPACING, 77, UNSEEN)
    _, depth = object_sizes(specimen.labels, SPACING)
    height = height_map(specimen.labels, SPACING, cap=cap_of(depth))
    rng = np.random.default_rng(0)
    noise = [
        ndimage.gaussian_filter(rng.standard_normal(height.shape, np.float32), (0.4, 1.5, 1.5)) for _ in "ab"
    ]
    foreground = np.clip((specimen.labels > 0) + 0.1 * noise[0] / noise[0].std(), 0, 1)
    height = np.clip(height + 0.05 * noise[1] / noise[1].std(), 0, 1.2)
    dense = from_array(np.stack([foreground * 255, height * 200]).round().astype(np.uint8), SPACING)
    core = (24, 64, 64)
    task = Instances(InstancesSpec(persistence=0.2))
    with tempfile.TemporaryDirectory() as scratch:
        out = MemoryOutput(Path(scratch), block=core)
        task.decode(dense, None, out, {})
        found = out.result.layers["objects"]
    truth = from_array(specimen.labels, SPACING)
    matching = match(specimen.labels, found.read()[0])
    tally = Tally()
    tally.add(truth, found, core)
    tally.add_objects(truth, found, core, matching)
    scores = object_scores(found, LabelImage(truth))
    across, others = tally.f1()
    return {
        "dice gap": float(np.percentile(tally.dice_gaps()[1:], 95)),
        "f1 gap": others - across,
        "f1": scores["f1_50"],
        "split": scores["split_rate"],
        "merged": scores["merge_rate"],
    }


def judge(name: str, figures: dict[str, float]) -> int:
    """Print the figures beside their bars; return how many are missed."""
    missed = 0
    for key, value in figures.items():
        bar = LEAST.get(key, BARS.get(key))
        bad = bar is not None and (value < bar if key in LEAST else value > bar)
        missed += bool(bad)
        told = "" if bar is None else f"  (bar {bar:g}{', MISSED' if bad else ''})"
        print(f"{name}: {key} {value:.4f}{told}", flush=True)
    return missed


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--work", type=Path, default=Path("scratch/seams"))
    parser.add_argument("--only", nargs="*", default=["real", "simulated", "windows"])
    parser.add_argument("--backbone", default="unet", choices=list(STEPS))
    parser.add_argument("--start", help="pretrained body that the simulated parts start from")
    parser.add_argument("--steps", type=int, help="of the simulated parts; default by backbone")
    args = parser.parse_args()
    if args.quick:
        return int(judge("noisy fields", quick()) > 0)
    data = Path(os.environ.get("AEQUOREA_DATA", "../shared/data"))
    missed = 0
    if "real" in args.only:
        for name, path in (
            ("ovule nuclei", "open/ovule_nuclei/ovule_1135"),
            ("plant patch cells", "open/plant_membrane/plant_patch_cells"),
        ):
            missed += judge(name, real(args.work, data, name.replace(" ", "_"), path, args.backbone))
    if "simulated" in args.only:
        missed += judge(
            "simulated", simulated(args.work / "simulated", args.backbone, args.start, args.steps)
        )
    if "windows" in args.only and args.backbone == "hiera":
        found = cells(args.work / "cells", args.start, args.steps or CELL_STEPS)
        missed += judge("cells", found)
    return int(missed > 0)


if __name__ == "__main__":
    sys.exit(main())
