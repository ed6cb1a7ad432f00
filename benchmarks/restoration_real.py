"""Restoration of real files, each beside classical methods. There is no bar: most of these truths are weak.

Networks and classical parameters are trained and chosen on simulated pairs, or on parts of the file that are not
scored; never on the truth. PSNR, NRMSE and SSIM after a least-squares fit of intensities, all voxels scored.

Cells (``--only``), and what is wrong with each truth:

- ``epithelium``: a stack and its projection at a surface, which was found in the same stack by the contrast that
  ``surface_projection`` looks for: made for that method. Height error too, in planes: of the plane that each
  projection is most like.
- ``points``: eight points blurred with a measured function and counted, by others; where they lie is known to about a
  voxel, so results and truth are compared through a Gaussian of 1.5 voxels. The share of light within 3 voxels along
  each axis too.
- ``dna_simulated``, ``dna_halves``: one nucleus in wide field and confocal. The confocal image is noisy and blurred
  itself. Trained on simulated nuclei, or on planes 0 to 21; scored on planes from 22 on, either way.
- ``light_sheet``: patches blurred by the recipe of the light-sheet foundation model's paper (Gaussian of 2.5 voxels,
  noise of 2.5 grey values), trained on its 3 training volumes, scored on its 3 test volumes. The blur is exactly
  known and there is hardly any noise: an inverse filter does well. Scores by the paper's own measure too.
- ``coarse_...``: stacks whose z step is 4 to 8 pixels, made isotropic. There is no truth. The network learns from the
  stack's own planes, turned so that y plays z, and applied to XZ and YZ sections, whose mean is taken. Given: how far
  the result, seen again with the coarse step, is from the stack (NRMSE), and PSNR on turned planes that were not
  trained on, which are as sharp as the lens makes y, but blurred by a guess: a Gaussian as wide as the z step.
- ``light_field_vesicle``, ``light_field_vessels``: a simulated vesicle with exact truth, and mouse vessels beside
  another program's deconvolution, which has artefacts of its own at its border and along z. Its z step and direction
  are not known: the shift per plane is that at which back-projection is most like it.

Every network has at most 20 minutes of one thread. Models are kept in ``--models`` and taken from there; every
finished arm is a line of ``--out``; a second run goes on from there. Ends with the table in Markdown.

    python benchmarks/restoration_real.py [--quick] [--only points ...] [--minutes 15] [--pictures FOLDER]
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from dataclasses import replace as changed
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from scipy import ndimage

from aequorea.model import Model, load
from aequorea.scores.resolution import shell_correlation
from aequorea.scores.restoration import Span, fitted, nrmse, restoration_scores
from aequorea.signal.degrade import CameraSpec, DegradeSpec, OpticsSpec, pair
from aequorea.signal.forward import convolved
from aequorea.signal.intensity import measure
from aequorea.signal.interpolate import interpolated
from aequorea.signal.psf import PsfSpec, psf
from aequorea.signal.structures import StructureSpec, structure
from aequorea.volume import Spacing, Triple, from_array
from aequorea.workflows.open import open as open_volume
from arms import Budget, Field, Image, Restore, by_network, classical, stack, trained

Scores = dict[str, float]


@dataclass(frozen=True)
class Rival:
    """A classical method: its name, what is not chosen, and values to choose from in place of its own."""

    name: str
    fixed: Mapping[str, Any] = field(default_factory=dict)
    grid: Mapping[str, Sequence[Any]] | None = None


@dataclass(frozen=True)
class Cell:
    """What is trained on, what is scored and how.

    Attributes
    ----------
    restore
        Makes what is scored of a field by an arm's way of restoring; default: as it is.
    view
        The plane of a result that is shown.
    """

    task: dict[str, Any]
    train: list[Field]
    test: list[Field]
    rivals: Mapping[str, Rival]
    score: Callable[[Image, Field], Scores]
    view: Callable[[Image], Image]
    patch: Triple | None = None
    restore: Callable[[Restore, Field], Image] | None = None


def read(path: Path) -> Image:
    return open_volume(path).read()[0]


def scores(found: Image, truth: Image, span: Span = "percentiles") -> Scores:
    """Return scores after the fit of intensities; a sparse truth has its range between its extremes."""
    volumes = [from_array(np.asarray(v, np.float32)) for v in (found, truth)]
    made = restoration_scores(*volumes, fit=True, span=span)
    return {name: made[name] for name in ("psnr", "nrmse", "ssim", "ssim_3d") if name in made}


# Projection


def epithelium(data: Path, number: int) -> Cell:
    folder = data / "bench_only/projection_epithelium"
    image = read(folder / "stack.tif")
    truth = read(folder / "reference_projection.tif")
    height = read(folder / "reference_height.tif")[0] / 100
    spacing = (0.3, 0.1, 0.1)  # not known: cells of the file are as many pixels wide as the simulated ones so
    optics = OpticsSpec(kinds=("widefield", "light_sheet", "confocal"))
    recipe = DegradeSpec(optics=optics, camera=CameraSpec(photons=(10, 200)))
    cells = StructureSpec(cell=(2.0, 4.0), relief=(0.1, 0.6))
    train = []
    for n in range(number):
        sheet = structure("epithelium", (len(image), 96, 96), spacing, n, cells)
        seen, wanted = pair("project", sheet, spacing, recipe, np.random.default_rng(n))
        train.append(Field(str(n), seen, wanted, str(n), spacing))

    def score(found: Image, test: Field) -> Scores:
        away = np.abs(most_like(found, test.image) - height)
        return {**scores(found, test.truth), "height_error": float(away.mean())}

    return Cell(
        {"name": "project"},
        train,
        [Field("stack", image, truth, "stack", spacing)],
        {name: Rival(name) for name in ("maximum_projection", "surface_projection")},
        score,
        lambda found: found[0],
    )


def most_like(plane: Image, image: Image) -> Image:
    """Return at each pixel the number of the plane that a projection is most like, smoothed as the reference is."""
    flat = fitted(plane, image.max(0, keepdims=True))(plane)
    away = [ndimage.gaussian_filter((z - flat[0]) ** 2, 5) for z in image.astype(np.float64)]
    rough = ndimage.median_filter(np.argmin(away, 0).astype(np.int16), 41).astype(np.float32)
    return ndimage.gaussian_filter(rough, 8)


# Deblurring


def deconvolutions(
    known: Mapping[str, Any], iterations: Sequence[int], noise: Sequence[float]
) -> dict[str, Rival]:
    """Return the image as it is, and deconvolutions by a known blur with what is chosen of each."""
    return {
        "identity": Rival("identity"),
        "richardson_lucy": Rival("richardson_lucy", known, {"iterations": iterations}),
        "wiener": Rival("wiener", known, {"noise": noise}),
    }


POINTS = [(z, y, x) for z in (6, 72) for y in (7, 74) for x in (7, 74)]


def points(data: Path, number: int) -> Cell:
    folder = data / "open/deconv_redlionfish"
    image, kernel = read(folder / "points_blurred_poisson.tif"), read(folder / "psf_measured.tif")
    kernel = kernel / kernel.sum(dtype=np.float64)
    spacing = (0.1, 0.1, 0.1)
    shapes = StructureSpec(ball=(0.06, 0.12), puncta=(0.01, 0.1), filaments=(0.01, 0.1), radius=(0.05, 0.1))
    train = []
    for n in range(number):
        truth = structure(("puncta", "filaments")[n % 2], (64, 64, 64), spacing, n, shapes)
        rng = np.random.default_rng(n)
        light = np.maximum(convolved(truth, kernel), 0)
        camera = CameraSpec(photons=(50, 250), gain=(1, 1), offset=(0, 0), read_noise=(0, 0)).draw(light, rng)
        # Single bright voxels would be hardly anything to learn: what is aimed at is a little wider.
        aim = camera.expected(ndimage.gaussian_filter(truth, 1.0))
        train.append(Field(str(n), camera.exposed(light, rng), aim, str(n), spacing))
    truth = np.zeros(image.shape, np.float32)
    truth[tuple(np.transpose(POINTS))] = 1
    near = ndimage.distance_transform_cdt(truth == 0, "chessboard") <= 3
    truth = ndimage.gaussian_filter(truth, 1.5)  # their places are known to a voxel

    def score(found: Image, test: Field) -> Scores:
        light = np.clip(found - np.median(found), 0, None).astype(np.float64)
        return {
            **scores(found, test.truth, "extremes"),
            "near_points": float(light[near].sum() / light.sum()),
        }

    return Cell(
        {"name": "deblur"},
        train,
        [Field("points", image, truth, "points", spacing)],
        {
            "gaussian": Rival("gaussian"),
            **deconvolutions({"psf": kernel}, (10, 30, 100), (1e-4, 1e-3, 1e-2, 1e-1)),
        },
        score,
        lambda found: found[:, 74],
    )


SPLIT = 22
"""Plane from which the nucleus is scored."""


def dna(data: Path, number: int, simulated: bool) -> Cell:
    path = data / "open/neubias_confocal/dna_confocal_and_widefield.tif"
    both = open_volume(path)
    (confocal, wide), spacing = both.read(), both.spacing
    assert spacing is not None
    train = [Field("planes 0 to 21", wide[:SPLIT], confocal[:SPLIT], "nucleus", spacing)]
    if simulated:
        optics = OpticsSpec(kinds=("widefield",), na=(0.4, 0.8), wavelength=(0.44, 0.48))
        recipe = DegradeSpec(optics=optics, camera=CameraSpec(photons=(200, 2000), offset=(0, 200)))
        train = []
        for n in range(number):
            rng = np.random.default_rng(n)
            truth = nucleus((45, 96, 96), spacing, rng, n)
            train.append(Field(str(n), *pair("deblur", truth, spacing, recipe, rng), str(n), spacing))
    kernel = psf(PsfSpec(na=0.6, wavelength=0.46), spacing, (33, 33, 33))

    def score(found: Image, test: Field) -> Scores:
        found, truth = found[SPLIT:], test.truth[SPLIT:]
        curve = shell_correlation(found, truth, spacing, "lateral")
        return {**scores(found, truth), "shared_um": curve.resolution()}

    return Cell(
        {"name": "deblur"},
        train,
        [Field("nucleus", wide, confocal, "nucleus", spacing)],
        {
            "gaussian": Rival("gaussian"),
            **deconvolutions({"psf": kernel}, (5, 20, 50), (1e-3, 1e-2, 1e-1)),
        },
        score,
        lambda found: found[:, 65],
    )


def nucleus(size: Triple, spacing: Spacing, rng: np.random.Generator, seed: int) -> Image:
    """Return a flat ellipsoid filled with clumps, as chromatin is."""
    radii = np.array((rng.uniform(2, 5), *rng.uniform(7, 13, 2)))
    centre = np.array(size) * spacing * rng.uniform(0.4, 0.6, 3)
    axes = [(np.arange(n) + 0.5) * d for n, d in zip(size, spacing)]
    away = sum(((a - c) / r) ** 2 for a, c, r in zip(np.meshgrid(*axes, indexing="ij"), centre, radii))
    kind = ("puncta", "vesicles", "membranes")[seed % 3]
    clumps = structure(kind, size, spacing, seed, StructureSpec().scaled(3))
    return np.asarray((away < 1) * (0.3 + 0.7 * clumps), np.float32)


def light_sheet(data: Path, number: int) -> Cell:
    folder = data / "bench_only/lsm_fm"

    def fields(split: str) -> list[Field]:
        found = []
        for path in sorted(folder.glob(f"{split}_*_ch?.tif")):
            sharp = read(path).astype(np.float32)
            blurred = ndimage.gaussian_filter(sharp, 2.5)
            blurred += np.random.default_rng(len(found)).normal(0, 2.5, sharp.shape).astype(np.float32)
            found.append(Field(path.stem.removeprefix(f"{split}_").split("_patch")[0], blurred, sharp, split))
        return found

    def score(found: Image, test: Field) -> Scores:
        low, high = np.percentile(test.image, (1, 99))
        inside = [np.clip((v - low) / (high - low), 0, 1).astype(np.float32) for v in (found, test.truth)]
        published = restoration_scores(*(from_array(v) for v in inside), span="extremes")
        return {
            **scores(found, test.truth),
            "psnr_published": published["psnr"],
            "ssim_published": published["ssim_3d"],
        }

    known = {"sigma": 2.5, "axial": 1.0}
    return Cell(
        {"name": "deblur"},
        fields("train"),
        fields("test"),
        deconvolutions(known, (10, 50, 150), (1e-6, 1e-5, 1e-4, 1e-3, 1e-2)),
        score,
        lambda found: found[48],
    )


# Coarse z steps

COARSE = {
    "nuclei": ("organoid_lstree/budding_t301_nuclei", 8),
    "membrane": ("organoid_lstree/budding_t301_membrane", 8),
    "raw_nuclei": ("organoid_lstree/enterocyst_t322_nuclei", 8),
    "chromosomes": ("neubias_confocal/chromosomes", 4),
    "bright_nuclei": ("neubias_confocal/nuclei_bright", 5),
}
"""Files and the planes that are made of each."""


def coarse(data: Path, name: str) -> Cell:
    path, factor = COARSE[name]
    image = read(data / "open" / f"{path}.tif").astype(np.float32)
    spacing = (float(factor), 1.0, 1.0)
    planes = np.arange(len(image))
    kept = np.abs(planes - len(image) / 2) < len(image) / 8  # in the middle: not trained on
    turned = [Field(axis, *of_planes(image[~kept], factor, axis), "", spacing) for axis in "yx"]
    held = [Field(axis, *of_planes(image[kept], factor, axis), "", spacing) for axis in "yx"]

    def score(found: Image, test: Field) -> Scores:
        if test.name != "stack":
            return scores(found, test.truth)
        return {"again_nrmse": nrmse(seen_coarse(found, factor), image)}

    def restore(way: Restore, test: Field) -> Image:
        # Sections are restored one by one, as in training, at the intensity range of the whole.
        if test.name != "stack":
            return sections(way, test.image, test)
        along_x = sections(way, image, test)
        along_y = sections(way, image.swapaxes(1, 2), test).swapaxes(1, 2)
        return (along_x + along_y) / 2

    return Cell(
        {"name": "isotropic", "factor": factor},
        turned,
        [*held, Field("stack", image, image, "", spacing)],
        {"interpolation_z": Rival("interpolation_z", {"factor": factor})},
        score,
        lambda found: found[:, found.shape[1] // 2],
        patch=(16, 1, 96),
        restore=restore,
    )


def seen_coarse(volume: Image, factor: int) -> Image:
    """Return what a microscope with a z step of so many planes would show: each plane as thick as the step."""
    return ndimage.gaussian_filter1d(np.asarray(volume, np.float32), factor / 2.355, 0, mode="nearest")[
        ::factor
    ]


def of_planes(image: Image, factor: int, axis: str) -> tuple[Image, Image]:
    """Return planes (Z Y X) turned so that y, or x, comes first; as a coarse step would show them, and as they are."""
    truth = image.swapaxes(0, 1) if axis == "y" else image.transpose(2, 0, 1)
    truth = truth[: len(truth) // factor * factor]
    return seen_coarse(truth, factor), truth


def sections(way: Restore, image: Image, test: Field) -> Image:
    """Return a volume restored section by section."""
    found = [way(changed(test, image=image[:, [n]])) for n in range(image.shape[1])]
    return np.concatenate([part.reshape(-1, 1, image.shape[2]) for part in found], 1)


# Light fields

VIEWS = 5


def views_of(image: Image, pixels: int, inner: int) -> Image:
    """Return a light field with 5 × 5 pixels a lenslet: means over the inner part of each lenslet."""
    rows, columns = image.shape[0] // pixels, image.shape[1] // pixels
    first, each = (pixels - inner) // 2, inner // VIEWS
    apart = image[: rows * pixels, : columns * pixels].reshape(rows, pixels, columns, pixels)
    part = apart[:, first : first + inner, :, first : first + inner].astype(np.float32)
    return (
        part.reshape(rows, VIEWS, each, columns, VIEWS, each)
        .mean((2, 5))
        .reshape(rows * VIEWS, columns * VIEWS)
    )


def simulated_views(
    depth: int, spacing: Spacing, disparity: tuple[float, float], sizes: Sequence[float], number: int
) -> list[Field]:
    """Return simulated light fields of structures so many times as large as the package's."""
    optics = OpticsSpec(
        kinds=("widefield",), na=(1.0, 1.2), wavelength=(0.55, 0.62), refractive_index=(1.33, 1.36)
    )
    recipe = DegradeSpec(
        optics=optics,
        camera=CameraSpec(photons=(200, 2000)),
        views=VIEWS,
        depth=depth,
        disparity=disparity,
    )
    found = []
    for n in range(number):
        kind = ("vesicles", "filaments", "puncta")[n % 3]
        shapes = StructureSpec().scaled(sizes[n // 3 % len(sizes)])
        truth = structure(kind, (depth, 20 * VIEWS, 20 * VIEWS), spacing, n, shapes)
        seen, wanted = pair("light_field", truth, spacing, recipe, np.random.default_rng(n))
        found.append(Field(f"{kind} {n}", seen, wanted, str(n), (spacing[0] * depth, *spacing[1:])))
    return found


def vesicle(data: Path, number: int) -> Cell:
    folder = data / "bench_only/light_field"
    truth = read(folder / "guv_sim_volume.tif").astype(np.float32)
    image = views_of(read(folder / "guv_sim_lightfield.tif")[0], 16, 10)[None]
    pitch = 104 / 60
    spacing = (pitch / 3, pitch / VIEWS, pitch / VIEWS)
    # A plane moves by its height times the tangent of a view's angle, whose sine is 2 / 15 of the aperture's a pixel.
    sine = 1.2 / 1.35
    least, most = (
        float(2 * s / 7.5 * spacing[0] / spacing[1]) for s in (sine, sine / np.sqrt(1 - (sine * 0.7) ** 2))
    )
    shift = (least + most) / 2

    def on_truth(found: Image) -> Image:
        lenslets = found.shape[1] // VIEWS * 3
        fine = interpolated(found, (len(found), lenslets, lenslets))
        cut = (lenslets - truth.shape[1]) // 2
        return fine[:, cut : cut + truth.shape[1], cut : cut + truth.shape[2]]

    return Cell(
        {"name": "light_field", "views": VIEWS, "depth": len(truth), "step": shift / VIEWS},
        simulated_views(len(truth), spacing, (least, most), (6, 12, 20), number),
        [Field("vesicle", image, truth, "vesicle", (spacing[0] * len(truth), *spacing[1:]))],
        {"back_projection": of_views(len(truth), shift)},
        lambda found, test: scores(found, test.truth),
        lambda found: found[:, found.shape[1] // 2],
        restore=lambda way, test: on_truth(way(test)),
    )


def vessels(data: Path, number: int) -> Cell:
    folder = data / "bench_only/light_field"
    truth = read(folder / "mouse_deconvolved.tif").astype(np.float32) ** 2  # it was stored as square roots
    truth = truth[41:20:-1]  # where the vessels are; z runs the other way there
    image = views_of(read(folder / "mouse_lightfield.tif")[0], 33, 20)[None]
    depth, spacing = len(truth), (1.0, 1.0, 1.0)

    def on_truth(found: Image) -> Image:
        return interpolated(found, (depth, *truth.shape[1:]))

    def score(found: Image, test: Field) -> Scores:
        inner = np.s_[:, 4:-4, 4:-4]
        return scores(found[inner], test.truth[inner])

    return Cell(
        {"name": "light_field", "views": VIEWS, "depth": depth, "step": 0.7 / VIEWS},
        simulated_views(depth, spacing, (0.55, 0.9), (10, 20, 30), number),
        [Field("vessels", image, truth, "vessels", (spacing[0] * depth, *spacing[1:]))],
        {"back_projection": of_views(depth, 0.7)},
        score,
        lambda found: found.max(1),
        restore=lambda way, test: on_truth(way(test)),
    )


def of_views(planes: int, disparity: float) -> Rival:
    """Return back-projection whose planes shift as the simulated ones do: pixels per view, in pixels of a view."""
    steps = [share * disparity / VIEWS for share in (-1.3, -1, -0.7, 0.7, 1, 1.3)]
    fixed = {"planes": planes, "side": VIEWS, "factor": VIEWS}
    return Rival("back_projection", fixed, {"step": steps, "iterations": (0, 5)})


CELLS: dict[str, Callable[[Path, int], Cell]] = {
    "epithelium": epithelium,
    "points": points,
    "dna_simulated": lambda data, number: dna(data, number, simulated=True),
    "dna_halves": lambda data, number: dna(data, number, simulated=False),
    "light_sheet": light_sheet,
    **{f"coarse_{name}": lambda data, number, name=name: coarse(data, name) for name in COARSE},
    "light_field_vesicle": vesicle,
    "light_field_vessels": vessels,
}
SIMULATED = 24
CHOSEN_ON = 4
"""Training fields, the first, that classical parameters are chosen on."""


def network(name: str, cell: Cell, budget: Budget, folder: Path) -> tuple[Model, float, int]:
    """Return the cell's network, its processor time and its steps; trained, or as it was kept."""
    path = folder / f"{name}.safetensors"
    about = path.with_suffix(".json")
    if about.exists():
        known = json.loads(about.read_text())
        return load(path), known["cpu_s"], known["steps"]
    model, spent, steps = trained(cell.task, cell.train, budget, patch=cell.patch)
    model.save(path)
    about.write_text(json.dumps({"cpu_s": spent, "steps": steps}))
    return model, spent, steps


def run(
    name: str, cell: Cell, arm: str, budget: Budget, models: Path, shown: Path | None
) -> list[dict[str, Any]]:
    """Return a row for each scored field; leave what is shown in a folder."""
    about: dict[str, Any] = {}
    model = None
    if arm == "unet":
        model, spent, about["steps"] = network(name, cell, budget, models)
    else:
        rival = cell.rivals[arm]
        way, spent, about["parameters"] = classical(
            rival.name, cell.train[:CHOSEN_ON], fixed=rival.fixed, grid=rival.grid
        )
    rows = []
    for test in cell.test:
        if model is not None:  # parts are restored at the intensity range of the whole
            way = by_network(model, measure(from_array(stack(test.image)), progress=False))
        found = way(test) if cell.restore is None else cell.restore(way, test)
        row = {"cell": name, "arm": arm, "field": test.name, "cpu_s": round(spent, 1), **about}
        rows.append({**row, **cell.score(found.astype(np.float32), test)})
        if shown is not None:
            np.save(shown / f"{name}.{test.name}.{arm}.npy", cell.view(found))
            np.save(shown / f"{name}.{test.name}.npy", cell.view(stack(test.truth)))
    return rows


def draw(shown: Path) -> None:
    """Draw a strip for each scored field: its arms, and its truth last."""
    for path in sorted(p for p in shown.glob("*.npy") if p.stem.count(".") == 1):
        arms = sorted(p for p in shown.glob(f"{path.stem}.*.npy"))
        views = [(arm.stem.rpartition(".")[2], np.load(arm)) for arm in arms]
        views.append(
            ("stack" if path.stem.endswith(".stack") and "coarse" in path.stem else "truth", np.load(path))
        )
        figure = Figure(figsize=(3 * len(views), 3.2), dpi=80)
        for place, (title, plane) in zip(np.atleast_1d(figure.subplots(1, len(views))), views):
            low, high = np.percentile(plane, (0.5, 99.8))
            place.imshow(plane, cmap="gray", vmin=low, vmax=high, aspect="auto", interpolation="nearest")
            place.set_title(title, fontsize=9)
            place.set_axis_off()
        figure.tight_layout()
        figure.savefig(path.with_suffix(".png"))


SHOWN = {
    "psnr": "{:.2f} dB",
    "ssim": "SSIM {:.3f}",
    "nrmse": "NRMSE {:.3f}",
    "height_error": "height off by {:.2f} planes",
    "near_points": "{:.0%} near points",
    "shared_um": "like it down to {:.2f} µm",
    "psnr_published": "their PSNR {:.2f}",
    "ssim_published": "their SSIM {:.3f}",
    "again_nrmse": "seen again NRMSE {:.4f}",
}


def table(rows: list[dict[str, Any]]) -> None:
    print("| cell | field | arm | scores | CPU-s |")
    print("|---|---|---|---|---|")
    for row in rows:
        told = ", ".join(form.format(row[name]) for name, form in SHOWN.items() if name in row)
        print(f"| {row['cell']} | {row['field']} | {row['arm']} | {told} | {row['cpu_s']:.0f} |")


def main() -> int:
    """Fill the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="one cell, one step of training")
    parser.add_argument("--only", nargs="*", default=list(CELLS), choices=CELLS)
    parser.add_argument("--arms", nargs="*", help="default: all")
    parser.add_argument("--minutes", type=float, default=15.0)
    parser.add_argument("--steps", type=int, help="of every network, in place of minutes")
    parser.add_argument("--out", type=Path, default=Path("scratch/restoration_real.jsonl"))
    parser.add_argument("--models", type=Path, default=Path("scratch/restoration_real"))
    parser.add_argument("--pictures", type=Path, help="folder for a picture of each scored field")
    told = parser.parse_args()
    torch.set_num_threads(1)
    data = Path(os.environ.get("AEQUOREA_DATA") or Path(__file__).parents[2] / "shared" / "data")
    if not (data / "open").exists():
        print(f"no real images in {data}; set AEQUOREA_DATA to their folder")
        return 0
    budget = Budget(60 * told.minutes, 1 if told.quick else told.steps)
    scratch = Path(tempfile.mkdtemp())
    out, models = (scratch / "quick.jsonl", scratch) if told.quick else (told.out, told.models)
    for folder in filter(None, (out.parent, models, told.pictures)):
        folder.mkdir(parents=True, exist_ok=True)
    rows = [json.loads(line) for line in out.read_text().splitlines()] if out.exists() else []
    done = {(row["cell"], row["arm"]) for row in rows}
    for name in ["epithelium"] if told.quick else told.only:
        cell = CELLS[name](data, 4 if told.quick else SIMULATED)
        for arm in [arm for arm in (*cell.rivals, "unet") if told.arms is None or arm in told.arms]:
            if (name, arm) in done:
                continue
            made = run(name, cell, arm, budget, models, told.pictures)
            rows += made
            with out.open("a") as file:
                file.writelines(json.dumps(row) + "\n" for row in made)
            print(
                f"{name} {arm}: {made[0].get('psnr', np.nan):.2f} dB, {made[0]['cpu_s']:.0f} CPU-s",
                flush=True,
            )
    if told.pictures is not None:
        draw(told.pictures)
    table(rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
