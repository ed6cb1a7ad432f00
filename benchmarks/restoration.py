"""Restoration beside classical methods whose parameters were chosen on training fields, one metric for all.

PSNR after a least-squares fit of intensities, range between the 0.1st and the 99.9th percentile of the truth, every
pixel of every test field. ``oracle`` is the best Gaussian of each test image, chosen on its truth: more than any
classical method can know.

Parts (``--only``):

- ``w2s``: one frame against the mean of 400, 14 fields of 3 channels, three splits of 10 and 4 fields;
- ``fmd``: frames against the mean of 50, each field left out in turn; of three microscopes, one with smeared noise;
- ``planes``: every 4th and 8th plane of real volumes kept, scored on the planes left out, three seeds; trained on
  other specimens, and on what the kept planes show of each other; here, in ``isotropic`` and in ``light_field`` the
  mean over mirror images is scored;
- ``photons``: simulated structures at 5 to 50 photons through a microscope of the training's kind, against no noise;
- ``super_resolve``, ``project``, ``light_field``, ``deblur``, ``isotropic``: simulated specimens, the tested ones of
  other kinds, and of a microscope outside the training's ranges.

Every network has the same processor time: ``--minutes`` (at most 20), of which a few steps measure what a step takes;
or as many ``--steps`` as were found to fit into it, on a machine that computes them faster.
Every finished cell is a line of ``--out``; a second run goes on from there. Ends with the table in Markdown.

    python benchmarks/restoration.py [--quick] [--only w2s fmd ...] [--minutes 20 | --steps N]
                                     [--out scratch/restoration.jsonl]
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections import defaultdict
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import ndimage

from aequorea.signal.degrade import DegradeSpec, pair
from aequorea.signal.degrade_unseen import UNSEEN
from aequorea.signal.structures import TRAIN_KINDS, structure
from aequorea.signal.structures_unseen import TEST_KINDS
from aequorea.signal.structures_unseen import UNSEEN as OTHER
from aequorea.volume import Spacing, Triple
from aequorea.workflows.open import open as open_volume
from arms import Budget, Field, Image, Restore, by_network, classical, decibels, stack, trained

SIGMAS = (0.5, 0.7, 1.0, 1.3, 1.6, 2.0, 2.5, 3.0, 4.0, 5.0, 6.0, 7.0)
SPLITS = 3
SPACING: Spacing = (0.3, 0.1, 0.1)
SPECIMENS, TESTED = 96, 20
MANY = {"light_field": 384}
"""Specimens to learn from where they are quickly made and 96 are soon known by heart."""
ANY = tuple(kind for one in TRAIN_KINDS for kind in (one, "level_sets"))
LEARNT = {"light_field": ANY, "isotropic": ANY}
"""Kinds to learn from where what few views or planes do not tell would else be filled in from the kinds seen."""
CLASSICAL = {
    "denoise": ("gaussian", "non_local_means", "total_variation"),
    "super_resolve": ("interpolation_yx",),
    "isotropic": ("interpolation_z",),
    "project": ("maximum_projection", "surface_projection"),
    "light_field": ("back_projection",),
    "deblur": ("gaussian", "richardson_lucy", "wiener"),
}


def oracle(field: Field) -> float:
    """Return PSNR of the best Gaussian, chosen on the truth."""
    image = field.image.astype(np.float64)
    return max(decibels(ndimage.gaussian_filter(image, s), field.truth) for s in SIGMAS)


def network(part: Part, budget: Budget, arm: str) -> tuple[Restore, float, int]:
    """Return a network trained for so much processor time, that time and its steps."""
    model, spent, steps = trained(
        part.task, part.train, budget, seed=part.seed, backbone=ARMS[arm], patch=PATCHES.get(arm, part.patch)
    )
    return by_network(model, mirrored=part.mirrored), spent, steps


def rival(name: str, part: Part, linear: bool) -> tuple[Restore, float, dict[str, Any]]:
    """Return a classical method with the parameters that are best for training fields, its time, and them."""
    first = part.train[0]
    before, after = stack(first.image).shape, stack(first.truth).shape
    fixed: dict[str, Any] | None = None
    if name == "back_projection":
        fixed = {"planes": after[0], "side": VIEWS, "factor": VIEWS}
    if name.startswith("interpolation"):
        fixed = {"factor": max(b // a for a, b in zip(before, after))}
    return classical(name, part.train, fixed=fixed, grid={"order": (1,)} if linear else None)


# What is restored


def w2s(data: Path) -> list[Field]:
    found = []
    for path in sorted((data / "bench_only/w2s").glob("*_avg1.tif")):
        name = path.name.split("_")[0]
        noisy = open_volume(path, axes="CYX").read()
        clean = open_volume(path.with_name(f"{name}_avg400.tif"), axes="CYX").read()
        found += [Field(f"{name} {c}", noisy[c, 0], clean[c, 0], name) for c in range(len(noisy))]
    return found


def fmd(data: Path) -> list[Field]:
    """Return the first frame of each field; further frames and means of 2 and 4 of them to train on."""
    found = []
    for path in sorted((data / "bench_only/fmd").glob("*_noisy.tif")):
        name = path.name.removesuffix("_noisy.tif")
        frames = open_volume(path, axes="CYX").read()[:, 0]
        clean = open_volume(path.with_name(f"{name}_clean.png")).read()[0, 0]
        found += [Field(f"{name} {n}", frame, clean, name) for n, frame in enumerate(frames)]
        for n in (2, 4):
            mean = frames[-n:].astype(np.float32).mean(0)
            found.append(Field(f"{name} mean of {n}", mean, clean, name))
    return found


SCORED = {
    "brainreg": "brainreg/whole_brain",
    "axons_a": "trailmap/axons_a",
    "mesospim c5": "mesospim_nuclei/c5",
    "arabidopsis_embryo": "arabidopsis_embryo/embryo",
    "axons_c": "trailmap/axons_c_unlabelled",
    "lateral_root": "lateral_root_lightsheet/lateral_root_nuclei",
    "ovule": "ovule_nuclei/ovule_1135",
}
"""Volumes of which planes are left out; the last three are so noisy that neighbouring planes say little."""
TAUGHT = (
    "liver_vessels/liver_1",
    "octa_vessels/octa_1",
    "organoid_lstree/budding_t301_nuclei",
    "organoid_lstree/budding_t301_membrane",
    "organoid_lstree/budding_t305_nuclei",
    "organoid_lstree/budding_t305_membrane",
    "organoid_lstree/enterocyst_t322_nuclei",
    "mouse_embryo_nuclei/embryo_8cell",
    "plant_membrane/ovule_cells",
    "plant_membrane/plant_patch_cells",
    "stardist_demo/nuclei_crop",
    "cellfinder/brain_a_cells",
    "cellfinder/brain_b_cells",
    "cellfinder/brain_c_cluster",
    "embryo_lightsheet/embryo_surface_nuclei",
    "embryo_lightsheet/drosophila_whole_embryo",
    "neubias_confocal/chromosomes",
    "neubias_confocal/golgi",
    "neubias_confocal/nuclei_bright",
)
"""Volumes of other specimens to learn from, thinned along each axis: what matters is that they are of many kinds."""
OWN = 3
"""Times that what a volume tells of itself stands among what is learnt."""
PATCH = (8, 48, 48)
"""Voxels of a training patch of thinned volumes, some of which are smaller: the usual one would be as small as they."""
MOST = 192
"""Voxels of a volume to learn from along y and x."""


def thinned(volume: Image, name: str, factor: int, axis: int = 0) -> Field:
    """Return a volume of which every ``factor``-th plane across an axis is kept; that axis comes first."""
    whole = np.ascontiguousarray(np.moveaxis(volume, axis, 0))
    whole = whole[: len(whole) // factor * factor]
    return Field(name, whole[::factor], whole, name, (float(factor), 1.0, 1.0))


def taught(data: Path, factor: int) -> list[Field]:
    """Return thinned volumes to learn from."""
    fields = []
    for path in TAUGHT:
        volume = open_volume(data / "open" / f"{path}.tif").read()[0, :, :MOST, :MOST]
        axes = [axis for axis in range(3) if volume.shape[axis] >= 4 * factor]
        fields += [thinned(volume, f"{path} {axis}", factor, axis) for axis in axes]
    return fields


def scored(data: Path, factor: int) -> list[Field]:
    """Return the volumes that are scored, thinned."""
    return [
        thinned(open_volume(data / "open" / f"{path}.tif").read()[0], name, factor)
        for name, path in SCORED.items()
    ]


def own(field: Field, factor: int) -> list[Field]:
    """Return what a thinned volume tells of itself: planes amid their neighbours, and sections thinned alike."""
    kept = field.image
    image = kept[::2]
    target = np.full((len(image) * factor, *kept.shape[1:]), np.nan, np.float32)
    target[::factor] = image
    amid = kept[1::2]
    target[factor // 2 :: factor][: len(amid)] = amid
    coarser = Field(f"{field.name} amid", image, target, f"{field.name} amid", (2.0 * factor, 1.0, 1.0))
    axes = [axis for axis in (1, 2) if kept.shape[axis] >= 4 * factor]
    return [coarser, *(thinned(kept, f"{field.name} {axis}", factor, axis) for axis in axes)]


def left_out(volume: Image, factor: int) -> Image:
    """Return the planes between the first and the last that were kept."""
    between = volume[: len(volume) - factor + 1]
    return np.stack([plane for n, plane in enumerate(between) if n % factor])


VIEWS, DEPTH = 5, 8
SIZES = {"project": (24, 96, 96), "light_field": (DEPTH, 100, 100), "isotropic": (32, 96, 96)}
SIZE = (16, 96, 96)


def simulated(task: str, number: int, seed: int, unseen: bool) -> list[Field]:
    """Return simulated specimens seen through simulated microscopes."""
    fields = []
    words = {"views": VIEWS, "depth": DEPTH, "undersampling": 2}
    recipe = UNSEEN.model_copy(update=words) if unseen else DegradeSpec.parse(words)
    kinds = ("epithelium",) if task == "project" else TEST_KINDS if unseen else LEARNT.get(task, TRAIN_KINDS)
    for n in range(number):
        kind = kinds[n % len(kinds)]
        truth = structure(kind, SIZES.get(task, SIZE), SPACING, 1000 * seed + n, OTHER if unseen else None)
        rng = np.random.default_rng([seed, n, int(unseen)])
        image, target = pair(task, truth, SPACING, recipe, rng)
        spacing = (SPACING[0] * truth.shape[0] / max(1, image.shape[0]), *SPACING[1:])
        fields.append(Field(f"{kind} {n}", image, target, str(n), spacing if image.shape[0] > 1 else None))
    return fields


def photons(number: int, seed: int, low: float, high: float) -> list[Field]:
    """Return simulated planes at few photons, and the counts expected."""
    fields = []
    kinds = TEST_KINDS if seed else TRAIN_KINDS
    for n in range(number):
        truth = structure(
            kinds[n % len(kinds)], (8, 192, 192), SPACING, 5000 * seed + n, OTHER if seed else None
        )
        recipe = DegradeSpec()
        recipe = recipe.model_copy(
            update={"camera": recipe.camera.model_copy(update={"photons": (low, high)})}
        )
        image, target = pair("denoise", truth, SPACING, recipe, np.random.default_rng([seed, n]))
        middle = len(image) // 2
        fields.append(Field(f"{kinds[n % len(kinds)]} {n}", image[middle], target[middle], str(n)))
    return fields


@dataclass(frozen=True)
class Part:
    """What one cell of the table is trained and tested on."""

    name: str
    task: dict[str, Any]
    train: list[Field]
    test: list[Field]
    seed: int = 0
    patch: Triple | None = None
    mirrored: bool = False


def parts(name: str, data: Path, quick: bool) -> list[Part]:
    """Return the cells of a part, made one by one."""
    if name == "w2s":
        fields = w2s(data)
        groups = sorted({f.group for f in fields})
        made = []
        for split in range(1 if quick else SPLITS):
            order = list(np.random.default_rng(split).permutation(groups))
            kept = set(order[:2] if quick else order[:10])
            made.append(
                Part(
                    f"split {split}",
                    {"name": "denoise"},
                    [f for f in fields if f.group in kept],
                    [f for f in fields if f.group in order[10 : 11 if quick else 14]],
                )
            )
        return made
    if name == "fmd":
        fields = fmd(data)
        groups = sorted({f.group for f in fields})
        return [
            Part(
                group,
                {"name": "denoise", "smeared": 0.5},
                [f for f in fields if f.group != group],
                [f for f in fields if f.name == f"{group} 0"],
            )
            for group in groups[: 1 if quick else None]
        ]
    if name == "planes":
        made = []
        for factor in (4, 8):
            tested = scored(data, factor)
            told = [one for field in tested for one in own(field, factor)]
            # Half of the samples are the volumes' own.
            again = [replace(one, name=f"{one.name}, {n}") for n in range(OWN) for one in told]
            learnt = taught(data, factor) + again
            task = {"name": "isotropic", "factor": factor}
            for seed in range(3):
                made.append(Part(f"x{factor}, seed {seed}", task, learnt, tested, seed, PATCH, mirrored=True))
        return made
    train, test = (4, 2) if quick else (SPECIMENS, TESTED)
    if name == "photons":
        return [Part("5 to 50", {"name": "denoise"}, photons(train, 0, 5, 50), photons(test, 1, 5, 50))]
    mirrored = name in ("isotropic", "light_field")  # the others pass without
    words: dict[str, dict[str, Any]] = {
        "super_resolve": {"factor": 2},
        # How bright an unblurred truth is an image does not tell; of real planes that were left out it does.
        "isotropic": {"factor": 4, "loss": "fitted"},
        "light_field": {"views": VIEWS, "depth": DEPTH},
    }
    return [
        Part(
            "simulated",
            {"name": name, **words.get(name, {})},
            simulated(name, train if quick else MANY.get(name, train), 1, unseen=False),
            simulated(name, test, 2, unseen=True),
            mirrored=mirrored,
        )
    ]


ARMS: dict[str, dict[str, Any]] = {"unet": {"name": "unet"}, "swinir": {"name": "swinir"}}
JUDGED = "unet"
"""The package's default body."""
PATCHES = {"swinir": (1, 64, 64)}
"""Voxels of a training patch where they are not the package's own: those that it was published with."""
LIMITED = {"swinir": ("photons", "super_resolve")}
"""Parts that an arm is tried on; others: all."""
NAMES = ("w2s", "fmd", "planes", "photons", "super_resolve", "isotropic", "project", "light_field", "deblur")


def run(name: str, part: Part, arm: str, budget: Budget) -> list[dict[str, Any]]:
    """Return a row for each tested field."""
    about: dict[str, Any] = {}
    if arm in ARMS:
        restore, spent, about["steps"] = network(part, budget, arm)
    else:
        restore, spent, about["parameters"] = rival(arm, part, linear=name == "planes")
    rows = []
    for field in part.test:
        found = restore(field).reshape(stack(field.truth).shape)
        row = {"part": name, "cell": part.name, "arm": arm, "field": field.name, "cpu_s": round(spent, 1)}
        truth = stack(field.truth)
        if name == "planes":
            found, truth = (left_out(volume, part.task["factor"]) for volume in (found, truth))
        row["psnr"] = decibels(found, truth)
        if part.task["name"] == "denoise":
            row["oracle"] = oracle(field)
        rows.append({**row, **about})
    return rows


def of_planes(rows: list[dict[str, Any]]) -> list[str]:
    """Print the gain over linear interpolation on planes that were left out, by volume; return what is missed."""
    missed = []
    print("| planes left out | volume | interpolation, dB | unet over it, each seed |")
    print("|---|---|---|---|")
    for factor, bar in ((4, 1.0), (8, 0.7)):
        gains: dict[str, list[float]] = defaultdict(list)
        linear: dict[str, float] = {}
        for row in rows:
            if row["cell"].startswith(f"x{factor},") and row["arm"] == "interpolation_z":
                linear[row["field"]] = row["psnr"]
        for row in rows:
            if row["cell"].startswith(f"x{factor},") and row["arm"] in ARMS and row["field"] in linear:
                gains[row["field"]].append(row["psnr"] - linear[row["field"]])
        for field, found in gains.items():
            print(f"| x{factor} | {field} | {linear[field]:.2f} | {', '.join(f'{g:+.2f}' for g in found)} |")
        judged = [np.mean(gains[field]) for field in list(SCORED)[:4] if field in gains]
        if judged and (np.mean(judged) < bar or min(judged) < 0):
            missed.append(f"planes x{factor} (mean {np.mean(judged):+.2f} dB, least {min(judged):+.2f})")
    return missed


def table(rows: list[dict[str, Any]]) -> list[str]:
    """Print means and gains; return what is missed."""
    missed = []
    cells: dict[str, dict[str, dict[str, float]]] = defaultdict(lambda: defaultdict(dict))
    oracles: dict[str, dict[str, float]] = defaultdict(dict)
    if any(row["part"] == "planes" for row in rows):
        missed += of_planes([row for row in rows if row["part"] == "planes"])
    for row in [row for row in rows if row["part"] != "planes"]:
        where = f"{row['cell']} {row['field']}"
        cells[row["part"]][row["arm"]][where] = row["psnr"]
        if "oracle" in row:
            oracles[row["part"]][where] = row["oracle"]
    print(
        "| part | arm | images | PSNR, dB | over the better classical (95 %) | over the oracle Gaussian | above it |"
    )
    print("|---|---|---|---|---|---|---|")
    for part, arms in cells.items():
        rivals = {arm: list(v.values()) for arm, v in arms.items() if arm not in ARMS}
        best = max(rivals, key=lambda arm: float(np.mean(rivals[arm])), default=None)
        for arm, found in arms.items():
            line = f"| {part} | {arm} | {len(found)} | {np.mean(list(found.values())):.2f} "
            lead = None
            if best is not None and arm in ARMS:
                shared = [w for w in found if w in arms[best]]
                lead = np.array([found[w] - arms[best][w] for w in shared])
                draws = np.random.default_rng(0).choice(lead, (2000, len(lead))).mean(1)
                low, high = np.percentile(draws, (2.5, 97.5))
                line += f"| {lead.mean():+.2f} ({low:+.2f} … {high:+.2f}), {best} "
            else:
                line += "| "
            if part in oracles:
                gain = np.array([value - oracles[part][w] for w, value in found.items()])
                line += f"| {gain.mean():+.2f} | {np.mean(gain > 0):.0%} |"
                if arm == JUDGED and part == "w2s" and (gain.mean() < 0.8 or np.mean(gain > 0) < 0.75):
                    missed.append(f"w2s {arm}")
                if arm == JUDGED and part == "photons" and gain.mean() < 2.5:
                    missed.append(f"photons {arm}")
            else:
                line += "| | |"
            if arm == JUDGED and lead is not None and part not in ("w2s", "photons"):
                bad = lead.min() < -1 or lead.mean() < 0 if part == "fmd" else lead.mean() < 0 or low < -0.2
                missed += [f"{part} {arm}"] if bad else []
            print(line)
    return missed


def main() -> int:
    """Fill the table; 1 where a bar is missed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--quick", action="store_true", help="few fields, seconds of training, nothing judged"
    )
    parser.add_argument("--only", nargs="*", default=list(NAMES), choices=NAMES)
    parser.add_argument("--arms", nargs="*", help="default: all")
    parser.add_argument("--minutes", type=float, default=20.0)
    parser.add_argument("--steps", type=int, help="of every network, in place of minutes")
    parser.add_argument("--cells", nargs="*", help="names of cells; default: all")
    parser.add_argument("--out", type=Path, default=Path("scratch/restoration.jsonl"))
    told = parser.parse_args()
    torch.set_num_threads(1)
    data = Path(os.environ.get("AEQUOREA_DATA") or Path(__file__).parents[2] / "shared" / "data")
    out = Path(tempfile.mkdtemp()) / "quick.jsonl" if told.quick else told.out
    out.parent.mkdir(parents=True, exist_ok=True)
    budget = Budget(4.0 if told.quick else 60 * told.minutes, told.steps)
    rows = [json.loads(line) for line in out.read_text().splitlines()] if out.exists() else []
    done = {(row["part"], row["cell"], row["arm"]) for row in rows}
    for name in ["photons", "project"] if told.quick else told.only:
        if name in ("w2s", "fmd", "planes") and not (data / "bench_only").exists():
            print(f"{name}: no real images in {data}; set AEQUOREA_DATA to their folder")
            continue
        for part in [p for p in parts(name, data, told.quick) if not told.cells or p.name in told.cells]:
            arms = [*CLASSICAL[part.task["name"]], *(a for a in ARMS if name in LIMITED.get(a, NAMES))]
            for arm in [a for a in arms if told.arms is None or a in told.arms]:
                if (name, part.name, arm) in done:
                    continue
                made = run(name, part, arm, budget)
                rows += made
                with out.open("a") as file:
                    file.writelines(json.dumps(row) + "\n" for row in made)
                mean = np.mean([row["psnr"] for row in made])
                print(f"{name} {part.name} {arm}: {mean:.2f} dB, {made[0]['cpu_s']:.0f} CPU-s", flush=True)
    missed = table(rows)
    if missed and not told.quick:
        print(f"missed: {', '.join(missed)}")
    return int(bool(missed) and not told.quick)


if __name__ == "__main__":
    sys.exit(main())
