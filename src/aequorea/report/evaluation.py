"""The report of an evaluation, drawn from its ``scores.json`` and pictures."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from aequorea.report.curves import Line
from aequorea.report.page import Curve, Figure, Headline, Picture, Section, Table, Text, page


@dataclass(frozen=True)
class Name:
    """How a score is shown: its title and whether as a share, a distance or a plain number."""

    title: str
    form: str = "number"


NAMES: dict[str, Name] = {
    "f1_50": Name("F1 at IoU 0.5"),
    "pq": Name("Panoptic quality"),
    "ap_50": Name("AP at 0.5"),
    "f1_75": Name("F1 at 0.75"),
    "ap_75": Name("AP at 0.75"),
    "split_rate": Name("Split", "share"),
    "merge_rate": Name("Merged", "share"),
    "count_error": Name("Count error", "signed share"),
    "psnr": Name("PSNR", "dB"),
    "ssim": Name("SSIM"),
    "ssim_3d": Name("SSIM, 3-D"),
    "ms_ssim": Name("MS-SSIM"),
    "nrmse": Name("NRMSE"),
    "correlation": Name("Correlation"),
    "dice": Name("Dice"),
    "iou": Name("IoU"),
    "cldice": Name("clDice"),
    "hd95_um": Name("HD95", "µm"),
    "hd95_voxels": Name("HD95", "voxels"),
    "surface_distance_um": Name("Surface distance", "µm"),
    "surface_distance_voxels": Name("Surface distance", "voxels"),
    "precision": Name("Precision"),
    "recall": Name("Recall"),
    "rand_error": Name("Rand error"),
    "voi_split": Name("VOI split", "bits"),
    "voi_merge": Name("VOI merge", "bits"),
}
_RESTORED = ("psnr", "ssim", "ssim_3d", "ms_ssim", "nrmse", "correlation")
_HEADLINE = {
    True: ("f1_50", "pq", "split_rate", "merge_rate", "count_error"),
    False: ("dice", "iou", "cldice", "hd95_um", "hd95_voxels", *_RESTORED),
}
_COLUMNS = {
    True: ("f1_50", "ap_50", "f1_75", "ap_75", "pq", "split_rate", "merge_rate", "count_error", "dice"),
    False: (
        "dice", "iou", "precision", "recall", "cldice",
        "hd95_um", "hd95_voxels", "surface_distance_um", "surface_distance_voxels", *_RESTORED,
    ),
}  # fmt: skip

FEW_IMAGES = 10

Estimate = Mapping[str, Any]
"""``value``, ``low``, ``high`` and ``n`` of a pooled score; ``None`` where there is no number."""


def report(data: Mapping[str, Any], pictures: Sequence[Picture] = ()) -> str:
    """Return the HTML page of an evaluation.

    Parameters
    ----------
    data
        What ``scores.json`` holds: see :func:`aequorea.workflows.evaluate.write_evaluation`.
    pictures
        Sections to show between scores and tables.
    """
    rows, pooled = data["images"], data["pooled"]
    methods = list(pooled)
    n = len({row["image"] for row in rows})
    subtitle = " · ".join([f"{n} image{'s' if n != 1 else ''}", " beside ".join(methods), data["date"]])
    sections: list[Section] = []
    if methods:
        sections.append(_headline(pooled[methods[0]]))
    if len(methods) > 1:
        sections.append(_comparison(pooled, data.get("differences", {})))
    sections += pictures
    sections += _classes(pooled[methods[0]]) if methods else []
    sections += _curves(rows)
    sections += [_images(rows, method, pooled[method], len(methods) > 1) for method in methods]
    sections.append(Text("Methods", [*data.get("methods", []), *_definitions(pooled)]))
    return page(data.get("title", "Evaluation"), sections, subtitle)


def shown(name: str, value: float | None) -> str:
    """Return a score as text, in its unit; a dash where there is none."""
    if value is None or not math.isfinite(value):
        return "–"
    form = NAMES.get(name.partition(".")[0], Name(name)).form
    if form == "share":
        return f"{100 * value:.1f} %"
    if form == "signed share":
        return f"{100 * value:+.1f} %".replace("-", "−")
    if form in ("µm", "voxels", "bits", "dB"):
        return f"{value:.2f} {form}"
    return f"{value:.3f}".replace("-", "−")


def title_of(name: str) -> str:
    """Return the title of a score."""
    stem, _, cls = name.partition(".")
    title = NAMES[stem].title if stem in NAMES else stem
    return f"{title}, {cls}" if cls else title


def _is_objects(scores: Mapping[str, Any]) -> bool:
    return "f1_50" in scores


def _columns(scores: Mapping[str, Any]) -> list[str]:
    """Known scores in their order, then whatever else a task gave (without classes)."""
    known = [name for name in _COLUMNS[_is_objects(scores)] if name in scores]
    return known or [name for name in scores if "." not in name]


def _interval(name: str, estimate: Estimate) -> str:
    if estimate["low"] is None or estimate["high"] is None:
        return ""
    return f"{shown(name, estimate['low'])} to {shown(name, estimate['high'])}"


def _headline(pooled: Mapping[str, Estimate]) -> Headline:
    names = [name for name in _HEADLINE[_is_objects(pooled)] if name in pooled] or list(pooled)[:4]
    return Headline(
        [
            Figure(title_of(name), shown(name, pooled[name]["value"]), _interval(name, pooled[name]))
            for name in names
        ]
    )


def _comparison(pooled: Mapping[str, Mapping[str, Estimate]], differences: Mapping[str, Any]) -> Table:
    methods = list(pooled)
    columns = _columns(pooled[methods[0]])
    rows = [[method, *(_cell(name, pooled[method].get(name)) for name in columns)] for method in methods]
    notes = []
    for method, by_name in differences.items():
        for name, estimate in by_name.items():
            interval = _interval(name, estimate)
            told = f" ({interval})" if interval else ""
            notes.append(
                f"{methods[0]} minus {method}, {title_of(name)}: {shown(name, estimate['value'])}{told}."
            )
    return Table("Compared", ["Method", *(title_of(name) for name in columns)], rows, " ".join(notes))


def _cell(name: str, estimate: Estimate | None) -> str:
    return shown(name, estimate["value"]) if estimate else "–"


def _classes(pooled: Mapping[str, Estimate]) -> list[Section]:
    """A table of the pooled scores of each class, where there are several."""
    classes = list(dict.fromkeys(name.partition(".")[2] for name in pooled if "." in name))
    if not classes:
        return []
    columns = [name for name in _COLUMNS[False] if f"{name}.{classes[0]}" in pooled]
    rows = [[cls, *(_cell(name, pooled.get(f"{name}.{cls}")) for name in columns)] for cls in classes]
    return [Table("Classes, all images pooled", ["Class", *(title_of(name) for name in columns)], rows)]


def _images(
    rows: Sequence[Mapping[str, Any]], method: str, pooled: Mapping[str, Estimate], named: bool
) -> Table:
    own = [row for row in rows if row["method"] == method]
    columns = _columns(pooled)
    counted = _is_objects(pooled)
    table = []
    for row in own:
        objects = [f"{row['n_truth']:.0f}", f"{row['n_pred']:.0f}"] if counted else []
        table.append([row["image"], *objects, *(shown(name, row.get(name)) for name in columns)])
    totals = [f"{sum(row[side] for row in own):.0f}" for side in ("n_truth", "n_pred")] if counted else []
    table.append(["All images, pooled", *totals, *(_cell(name, pooled[name]) for name in columns)])
    note = "One image: there is no interval over images."
    if len(own) > 1:
        for end in ("low", "high"):
            bounds = [shown(name, pooled[name][end]) for name in columns]
            table.append([f"95 % interval, {end}", *([""] * len(totals)), *bounds])
        few = f"With {len(own)} images an interval is rough, and rather too narrow."
        note = few if len(own) < FEW_IMAGES else ""
    heading = f"Images: {method}" if named else "Images"
    objects = ["True objects", "Found"] if counted else []
    return Table(
        heading,
        ["Image", *objects, *(title_of(name) for name in columns)],
        table,
        note,
        strong=len(table) - len(own),
    )


def _curves(rows: Sequence[Mapping[str, Any]]) -> list[Section]:
    """F1 of all objects against the IoU that a match must reach, one line a method."""
    lines = []
    for method in dict.fromkeys(row["method"] for row in rows):
        own = [row for row in rows if row["method"] == method and row.get("matches")]
        if own:
            thresholds = [threshold for threshold, _ in own[0]["matches"]]
            objects = sum(row["n_truth"] + row["n_pred"] for row in own)
            matched = [sum(row["matches"][i][1] for row in own) for i in range(len(thresholds))]
            lines.append(Line(method, thresholds, [2 * tp / objects if objects else 1.0 for tp in matched]))
    if not lines:
        return []
    note = "A line that stays high to the right means outlines as exact as the labels."
    return [
        Curve(
            "F1 by the overlap asked for",
            lines,
            "IoU from which objects match",
            "F1",
            note,
            (0.1, 0.95),
            (0.0, 1.0),
        )
    ]


_OBJECTS = (
    "Objects are matched one to one so that most pairs reach the given intersection over union (IoU). "
    "F1 = 2TP / (2TP + FP + FN), AP = TP / (TP + FP + FN), panoptic quality = sum of matched IoU / "
    "(TP + FP/2 + FN/2) at IoU 0.5. Split: share of true objects with two or more found objects mostly "
    "inside them; merged: share of true objects that lie mostly inside one found object together with "
    "another; count error: (found - true) / true."
)
_VOXELS = "Dice = 2TP / (2TP + FP + FN) and IoU = TP / (TP + FP + FN) of voxels."
_LINES = "clDice is the harmonic mean of the shares of each centre line that lie inside the other mask."
_SURFACES = "HD95 is the larger of the two 95th percentiles of the distances from surface to surface."
_POOLED = (
    "Pooled scores are those of the summed counts of all images; distances are averaged over images. "
    "Intervals are 95 % percentile bootstrap intervals over images (2000 resamples). Unlabelled voxels do "
    "not count."
)


def _definitions(pooled: Mapping[str, Mapping[str, Estimate]]) -> list[str]:
    """Return the definitions of the scores that occur."""
    names = {name.partition(".")[0] for scores in pooled.values() for name in scores}
    voxels = [
        text
        for text, known in (
            (_VOXELS, {"dice"}),
            (_LINES, {"cldice"}),
            (_SURFACES, {"hd95_um", "hd95_voxels"}),
        )
        if names & known
    ]
    told = [_OBJECTS] if "f1_50" in names else []
    return [*told, *([" ".join(voxels)] if voxels else []), _POOLED]
