"""Draw ``docs/pictures/restored.png``: deblurring, planes between planes, projection and a light field.

The first two are real files that may be shown (CC-BY-4.0, NEUBIAS training resources; MIT, Friedrich Miescher
Institute). The files of the other two have no licence, so simulated specimens that were not trained on stand in for
them. Reads what this has left:

    python benchmarks/restoration_real.py --pictures scratch/views
    python docs/make_real_picture.py
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "benchmarks"))

import restoration_real as real  # noqa: E402
from aequorea.model import load  # noqa: E402
from arms import by_network, classical, decibels  # noqa: E402

VIEWS, MODELS = ROOT / "scratch/views", ROOT / "scratch/restoration_real"
DATA = Path(os.environ.get("AEQUOREA_DATA") or ROOT.parent / "shared" / "data")


def kept(name, field, arms, titles):
    """Return (title, view) of what the benchmark has left."""
    return [(title, np.load(VIEWS / f"{name}.{field}{arm}.npy")) for title, arm in zip(titles, arms)]


def simulated(name, rival, view, title):
    """Return (title, view) of a specimen that was not trained on: image, classical method, network, truth."""
    cell = real.CELLS[name](DATA, real.SIMULATED + 1)
    test = cell.train.pop()
    about = cell.rivals[rival]
    way, _, _ = classical(about.name, cell.train[: real.CHOSEN_ON], fixed=about.fixed, grid=about.grid)
    rows = [(title, test.image)]
    for arm, found in (
        (rival.replace("_", " "), way(test)),
        ("aequorea", by_network(load(MODELS / f"{name}.safetensors"))(test)),
    ):
        rows.append((f"{arm}, {decibels(found, test.truth):.1f} dB", found))
    return [(label, view(plane)) for label, plane in [*rows, ("Truth", test.truth)]]


def main() -> None:
    """Draw."""
    rows = [
        kept(
            "dna_simulated",
            "nucleus",
            (".identity", ".richardson_lucy", ".unet", ""),
            ("Wide field (x, z)", "richardson lucy", "aequorea", "Confocal"),
        ),
        kept(
            "coarse_membrane",
            "stack",
            ("", ".interpolation_z", ".unet"),
            ("Stack (x, z)", "interpolation", "aequorea"),
        ),
        simulated(
            "epithelium",
            "surface_projection",
            lambda image: image.max(0),
            "Simulated stack, maximum",
        ),
        simulated(
            "light_field_vesicle",
            "back_projection",
            lambda image: image[len(image) // 2],
            "Simulated light field",
        ),
    ]
    figure = Figure(figsize=(9, 9.4), dpi=80)
    for places, row in zip(figure.subplots(4, 4), rows):
        for place in places:
            place.set_axis_off()
        for place, (title, plane) in zip(places, row):
            low, high = np.percentile(plane, (0.5, 99.8))
            place.imshow(plane, cmap="gray", vmin=low, vmax=high, aspect="auto", interpolation="nearest")
            place.set_title(title, fontsize=9)
    figure.tight_layout()
    path = Path(__file__).parent / "pictures" / "restored.png"
    figure.savefig(path)
    print(f"{path}: {path.stat().st_size} bytes")


if __name__ == "__main__":
    main()
