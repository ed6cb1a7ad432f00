"""Draw ``docs/pictures/restoration.png``: simulated specimens that were not trained on, before and after.

Planes from few photons, and planes between the planes of a stack. Trains for some minutes.

    python docs/make_restoration_picture.py
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from aequorea.annotations import TargetImage
from aequorea.engine.train import TrainSpec
from aequorea.scores.restoration import fitted, psnr
from aequorea.signal.degrade import DegradeSpec, pair
from aequorea.signal.restore import Classical, choose
from aequorea.signal.structures import structure
from aequorea.volume import from_array
from aequorea.workflows.dataset import Item
from aequorea.workflows.finetune import FinetuneSpec, finetune

SPACING = (0.3, 0.1, 0.1)
TASKS = {
    "denoise": ({}, (8, 160, 160), "gaussian", None),
    "isotropic": ({"factor": 4}, (32, 96, 96), "interpolation_z", {"factor": 4}),
}
TRAINED, STEPS, SEEN = 12, 120, ("membranes", "vesicles", "puncta")


def fields(task, number, first):
    """Return (image, target) of specimens, single planes for denoising."""
    found = []
    for n in range(first, first + number):
        truth = structure(SEEN[n % 2], TASKS[task][1], SPACING, n)
        image, target = pair(task, truth, SPACING, DegradeSpec(planes=4), np.random.default_rng(n))
        part = slice(4, 5) if task == "denoise" else slice(None)
        found.append((image[part], target[part]))
    return found


def main() -> None:
    """Train, restore, draw."""
    figure = Figure(figsize=(9, 4.7), dpi=90)
    axes = figure.subplots(2, 4)
    for row, (task, (words, _, rival, fixed)) in zip(axes, TASKS.items()):
        taught = fields(task, TRAINED, 0)
        items = [
            Item(str(n), from_array(image, SPACING), TargetImage(from_array(target)), str(n))
            for n, (image, target) in enumerate(taught)
        ]
        spec = FinetuneSpec(
            task={"name": task, **words}, backbone={"name": "unet"}, held_out=0, train=TrainSpec(steps=STEPS)
        )
        with tempfile.TemporaryDirectory() as folder:
            model = finetune(items, Path(folder) / "run", spec).model
        image, target = fields(task, 1, 100)[0]
        chosen = choose(rival, taught, lambda a, b: psnr(a, b, fit=True), fixed=fixed)
        classical = Classical(rival, {**(fixed or {}), **chosen}).predict(image)
        found = model.predict(image, SPACING).layers["restored"].read()[0]
        for place, volume, name in zip(
            row, (image, classical, found, target), ("Image", rival.replace("_z", ""), "aequorea", "Truth")
        ):
            shown = volume if name in ("Image", "Truth") else fitted(volume, target)(volume)
            plane = shown[0] if task == "denoise" else shown[:, 48]
            low, high = np.percentile(plane if name == "Image" else target, (0.5, 99.8))
            place.imshow(plane, cmap="gray", vmin=low, vmax=high, aspect="auto", interpolation="nearest")
            score = "" if name in ("Image", "Truth") else f", {psnr(volume, target, fit=True):.1f} dB"
            place.set_title(name + score, fontsize=9)
            place.set_axis_off()
    figure.tight_layout()
    path = Path(__file__).parent / "pictures" / "restoration.png"
    figure.savefig(path)
    print(f"{path}: {path.stat().st_size} bytes")


if __name__ == "__main__":
    main()
