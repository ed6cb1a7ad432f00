"""Why a result is empty or absurd: what the image has that the training images had not."""

from __future__ import annotations

import numpy as np

from aequorea.model import Model
from aequorea.results import Result
from aequorea.signal.intensity import Intensity, count_upper
from aequorea.signal.resample import TOLERATED
from aequorea.volume import Volume

FEWEST, MOST = 1e-5, 0.9
"""Shares of foreground outside of which a result is doubted."""
UNLIKE = 3.0
"""Ratio of object sizes, or of intensity ranges, from which two images are called unlike."""
LOOKED_AT = 1 << 23
"""Voxels of the dense result that are looked at; of a larger one a coarser level."""


def explain(
    model: Model,
    volume: Volume,
    intensity: Intensity,
    dense: Volume,
    result: Result,
    point: dict[str, float] | None = None,
) -> list[str]:
    """Return lines that say what is doubtful about a result and why; none where nothing is.

    Parameters
    ----------
    model
        With its card.
    volume, intensity
        The image and its range.
    dense
        The stored output; only models that store probabilities in 8 bits are judged.
    result
        Layers and tables decoded from it.
    point
        Operating point that it was decoded at; default: the model's.
    """
    if model.task.dense_dtype != "uint8":
        return []
    curve = threshold_curve(dense)
    threshold = (model.point if point is None else point).get("threshold", 0.5)
    share = float(np.interp(threshold, list(curve), list(curve.values())))
    doubts = []
    if share < FEWEST:
        doubts.append("hardly any foreground was found")
    elif share > MOST:
        doubts.append("nearly everything was called foreground")
    if not doubts and "objects" in result.tables and not len(result.tables["objects"].get("id", ())):
        doubts.append("no object was found")
    found = _median_diameter(result)
    trained = model.card.get("object_um") if model.spacing is not None else None
    if found and trained and not 1 / UNLIKE < found / float(trained) < UNLIKE:
        doubts.append(
            f"objects measure {found:.3g} µm across where those of the training measured {float(trained):.3g}: "
            "see --object-size and --spacing"
        )
    if not doubts:
        return []
    shares = ", ".join(f"{t:g}: {s:.2%}" for t, s in curve.items())
    return ["; ".join(doubts), f"foreground by threshold: {shares}", *_unlike(model, volume, intensity)]


def threshold_curve(dense: Volume) -> dict[float, float]:
    """Return the share of voxels at or above each threshold 0.1, 0.2, … 0.9."""
    level = next(
        (v for v in (dense, *dense.levels) if v.region.voxels <= LOOKED_AT), (dense, *dense.levels)[-1]
    )
    counts = np.zeros(256, np.int64)
    for block in level.blocks():
        counts += count_upper(block[0].ravel())
    above = counts[::-1].cumsum()[::-1] / max(1, counts.sum())
    return {t / 10: float(above[round(25.5 * t)]) for t in range(1, 10)}


def _median_diameter(result: Result) -> float | None:
    table = result.tables.get("objects")
    if not table or not len(table.get("volume_um3", ())):
        return None
    return float(np.cbrt(6 / np.pi * np.median(table["volume_um3"])))


def _unlike(model: Model, volume: Volume, intensity: Intensity) -> list[str]:
    lines = []
    for number, own in enumerate(intensity.channels):
        ranges = [
            known["channels"][number]
            for known in model.card.get("intensities", {}).values()
            if number < len(known["channels"])
        ]
        if not ranges:
            continue
        low, high = min(r["low"] for r in ranges), max(r["high"] for r in ranges)
        width = max(own.high - own.low, 1e-12)
        if not 1 / UNLIKE < width / max(high - low, 1e-12) < UNLIKE:
            lines.append(
                f"intensities of {volume.channels[number]} run from {own.low:.4g} to {own.high:.4g}, in training "
                f"from {low:.4g} to {high:.4g}: is it the right channel?"
            )
    if volume.spacing is None and model.spacing is not None:
        lines.append("the voxel size of the image is unknown: give --spacing Z,Y,X in µm")
    elif volume.spacing is not None and model.spacing is None:
        lines.append(
            "the voxel size of the training images was not known: objects must measure as many voxels as there "
            "(see --scale)"
        )
    elif volume.spacing is not None and model.spacing is not None:
        ratio = max(max(a / b, b / a) for a, b in zip(volume.spacing, model.spacing))
        if ratio > TOLERATED:
            lines.append(
                "voxels of "
                + " x ".join(f"{s:g}" for s in volume.spacing)
                + " µm, in training "
                + " x ".join(f"{s:g}" for s in model.spacing)
            )
    return lines or [
        "intensities and voxel size are like those of the training: label a crop of this image too"
    ]
