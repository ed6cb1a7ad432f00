"""Reports of restoration: input, result, truth and what is left between them.

A residual shows what a score hides: noise left over, structure lost, structure invented. It is drawn after the
fit that the scores were made with, on one scale of colours around 0, with the NRMSE of the whole volume beside it.
"""

from __future__ import annotations

from collections.abc import Mapping
from io import BytesIO

import numpy as np
from matplotlib.figure import Figure as Canvas

from aequorea.report.pictures import Planes, contrast
from aequorea.scores.restoration import Fit
from aequorea.volume import Array, Spacing

DEFINITIONS = (
    "Intensities of each result were fitted to the truth by least squares (gain and offset, one pair a volume). All "
    "voxels of every volume count. The range is the 99.9 minus the 0.1 percentile of the truth; PSNR is "
    "20 log10(range / RMSE) and NRMSE is RMSE / range. SSIM and MS-SSIM are means over xy planes (Gaussian window of "
    "11 pixels, standard deviation 1.5), SSIM 3-D has windows of 11 voxels along each axis."
)
"""Of the scores, for the methods."""

_SHARES = (0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
_DPI = 100
_GAP, _TOP, _LEFT, _RIGHT = 0.06, 0.32, 0.3, 0.75

Scores = Mapping[str, float]


def residual_picture(
    given: Planes,
    found: Planes,
    truth: Planes,
    spacing: Spacing | None,
    scores: Scores,
    *,
    width: int = 1280,
) -> bytes:
    """Draw input, result, truth and residual side by side, a row for each plane.

    Parameters
    ----------
    given, found, truth
        Planes of each (:func:`aequorea.report.pictures.cut`). The input may have other voxels than the others: it
        is drawn at the same size. It has its own contrast; result and truth share the truth's.
    spacing
        Voxel size of the truth in µm (z, y, x); ``None`` draws voxels as cubes.
    scores
        ``gain``, ``offset``, ``range`` and ``nrmse`` of the whole volume, as
        :func:`aequorea.scores.restoration.restoration_scores` gives them.
    width
        Of the picture in pixels.

    Returns
    -------
    bytes
        A PNG file.
    """
    line = Fit(scores["gain"], scores["offset"])
    fitted = found.like(*(line(plane) for plane in found.all))
    residual = found.like(*(one - np.asarray(other, np.float64) for one, other in zip(fitted.all, truth.all)))
    limit = _limit(residual, scores["range"])
    dark, bright = contrast(truth)
    columns: list[tuple[str, Planes, tuple[float, float], str]] = [
        ("Input", given, contrast(given), "gray"),
        (
            "Result" if (line.gain, line.offset) == (1, 0) else "Result, fitted",
            fitted,
            (dark, bright),
            "gray",
        ),
        ("Truth", truth, (dark, bright), "gray"),
        (f"Result − truth, NRMSE {scores['nrmse']:.3f}", residual, (-limit, limit), "RdBu_r"),
    ]
    rows = _rows(truth, spacing)
    inches = width / _DPI
    breadth = (inches - _LEFT - _RIGHT - 3 * _GAP) / 4
    heights = [breadth * min(aspect, 1.6) for _, aspect in rows]
    total = _TOP + sum(heights) + _GAP * len(rows)
    canvas = Canvas(figsize=(inches, total), dpi=_DPI)
    top = total - _TOP
    for index, ((name, aspect), height) in enumerate(zip(rows, heights)):
        top -= height
        for column, (title, planes, (low, high), colours) in enumerate(columns):
            # A tall plane is drawn narrower, so that its proportions stay true.
            wide = height / aspect
            left = _LEFT + column * (breadth + _GAP) + (breadth - wide) / 2
            axes = canvas.add_axes((left / inches, top / total, wide / inches, height / total))
            axes.set_axis_off()
            shown = axes.imshow(
                _plane(planes, name),
                cmap=colours,
                vmin=low,
                vmax=high,
                aspect="auto",
                interpolation="nearest",
            )
            if index == 0:
                axes.set_title(title, fontsize=10)
            if column == 0:
                axes.text(-0.03, 0.5, name, transform=axes.transAxes, ha="right", va="center", fontsize=10)
            if column == 3 and index == 0:
                place = (inches - _RIGHT + 0.1) / inches
                bar = canvas.add_axes((place, top / total, 0.12 / inches, height / total))
                canvas.colorbar(shown, cax=bar).ax.tick_params(labelsize=8)
        top -= _GAP
    buffer = BytesIO()
    canvas.savefig(buffer, format="png", dpi=_DPI)
    return buffer.getvalue()


def _rows(truth: Planes, spacing: Spacing | None) -> list[tuple[str, float]]:
    """Return the planes to draw and how high each is relative to its width; a flat image has one."""
    z, y, x = spacing or (1.0, 1.0, 1.0)
    depth, (height, width) = truth.xz.shape[0], truth.xy.shape
    rows = [("xy", height * y / (width * x))]
    if depth > 1:
        rows += [("xz", depth * z / (width * x)), ("yz", depth * z / (height * y))]
    return rows


def _plane(planes: Planes, name: str) -> Array:
    return {"xy": planes.xy, "xz": planes.xz, "yz": planes.yz.T}[name]


def _limit(residual: Planes, data_range: float) -> float:
    """Return a round share of the range that holds nearly all of a residual, so that pictures compare."""
    values = np.abs(np.concatenate([plane.ravel() for plane in residual.all]))
    values = values[np.isfinite(values)]
    largest = float(np.percentile(values, 99.5)) if values.size else 0.0
    scale = data_range if data_range > 0 else 1.0
    return scale * next((share for share in _SHARES if share * scale >= largest), max(1.0, largest / scale))
