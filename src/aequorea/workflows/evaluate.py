"""Compare results with labels, write the scores, then draw the report.

The scores are on disk (``scores.json``, ``scores.csv``) before anything is drawn, and ``report.html`` is made
from what is on disk alone, so that :func:`draw_report` can redraw it at any time.
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from aequorea.annotations import Annotation, LabelImage, TargetImage
from aequorea.engine.durable import make_folder, write_file, write_json
from aequorea.errors import DataError
from aequorea.plugs import Task
from aequorea.report import evaluation, pictures
from aequorea.report.methods import methods
from aequorea.report.page import Picture
from aequorea.report.pictures import ERROR_COLOURS, FALSE, MISSED, POOR, RIGHT, Overlay, Planes
from aequorea.report.restoration import DEFINITIONS, residual_picture
from aequorea.results import Result
from aequorea.scores import pooling, volumes
from aequorea.scores.bootstrap import Interval
from aequorea.scores.matching import Matching, Overlaps
from aequorea.scores.restoration import restoration_scores
from aequorea.volume import Array, Region, Triple, Volume

IOUS = tuple(round(0.1 + 0.05 * i, 2) for i in range(18))
MOST_PICTURED = 6
PICTURED: Triple = (64, 384, 384)
"""Voxels (z, y, x) of a target that are drawn at most."""
_NO_CLASS = 255


@dataclass(frozen=True)
class Case:
    """One image with its labels and a result to compare with them.

    Attributes
    ----------
    name
        Of the image; equal for results of several methods on one image.
    image, truth, result
        On one grid.
    method
        What made the result; the first method is compared with the others.
    """

    name: str
    image: Volume
    truth: Annotation
    result: Result
    method: str = "model"


@dataclass(frozen=True)
class Shown:
    """Pictures of one case: PNG bytes and captions, and the words for colours in them."""

    heading: str
    pictures: Sequence[tuple[bytes, str]]
    colours: Sequence[tuple[str, tuple[int, int, int]]] = ()


def evaluate(
    cases: Iterable[Case],
    task: Task,
    out: str | Path,
    *,
    card: Mapping[str, Any] | None = None,
    digests: Mapping[str, str] | None = None,
    title: str = "Evaluation",
) -> dict[str, Any]:
    """Score every case and write ``scores.json``, ``scores.csv``, ``pictures/`` and ``report.html``.

    Parameters
    ----------
    cases
        Taken one after the other; of all but the few that will be pictured only numbers are kept.
    task
        Whose ``score`` is asked.
    out
        Folder for what is written.
    card
        The model's card, for the methods paragraph.
    digests
        Of the files that made the result, by name.
    title
        Of the report.

    Returns
    -------
    dict
        What ``scores.json`` holds.

    Raises
    ------
    DataError
        If there is no case, or a result does not fit its labels.
    """
    rows: list[dict[str, Any]] = []
    kept: list[tuple[float, int, Case]] = []
    for case in cases:
        row = {"image": case.name, "method": case.method} | compare(case.result, case.truth, task)
        rows.append(row)
        if case.method == rows[0]["method"]:
            kept.append((float(row.get(task.better, math.nan)), len(rows), case))
            kept.sort(key=lambda entry: entry[:2])
            if len(kept) > MOST_PICTURED:
                del kept[MOST_PICTURED // 2]
    if not rows:
        raise DataError(f"{out}: nothing to evaluate: no image with labels was given")
    drawn = (
        shown for value, _, case in kept if (shown := picture(case, task, (task.better, value))) is not None
    )
    return write_evaluation(Path(out), rows, drawn, card or {}, digests=digests, title=title)


def compare(result: Result, truth: Annotation, task: Task) -> dict[str, Any]:
    """Score one result.

    Returns
    -------
    dict
        Scores and counts as ``task.score`` gives them; for objects also ``matches``: pairs of IoU and the
        number of objects that match at it.
    """
    row: dict[str, Any] = dict(task.score(result, truth, truth.spacing))
    if "objects" in result.layers and isinstance(truth, LabelImage):
        overlaps = Overlaps.of(volumes.overlap_table(result.layers["objects"], truth))
        row["matches"] = [[threshold, overlaps.match(threshold).tp] for threshold in IOUS]
    return row


def write_evaluation(
    out: Path,
    rows: Sequence[Mapping[str, Any]],
    pictures: Iterable[Shown],
    card: Mapping[str, Any],
    *,
    digests: Mapping[str, str] | None = None,
    title: str = "Evaluation",
) -> dict[str, Any]:
    """Write scores first, then pictures and report.

    Parameters
    ----------
    out
        A folder; made where it is missing.
    rows
        One for each image and method: ``image``, ``method``, then scores and counts, and perhaps ``matches``.
    pictures
        Drawn (if it is a generator) after the scores are written.
    card
        The model's card, empty for a method without a network.
    digests
        Of the files that made the results, by name.
    title
        Of the report.

    Returns
    -------
    dict
        What ``scores.json`` holds: ``title``, ``date``, ``images`` (the rows), ``pooled`` (by method and
        score: ``value``, ``low``, ``high``, ``n``), ``differences`` (first method minus each other, paired by
        image), ``methods`` (paragraphs) and ``card``. Numbers that are not finite are ``null``.
    """
    by_method: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        by_method.setdefault(row["method"], []).append(row)
    data: dict[str, Any] = _plain(
        {
            "title": title,
            "date": date.today().isoformat(),
            "images": list(rows),
            "pooled": {
                method: pooling.pool([_scores(row) for row in own]) for method, own in by_method.items()
            },
            "differences": _differences(by_method),
            "methods": methods(card, digests) + ([DEFINITIONS] if any("psnr" in row for row in rows) else []),
            "card": dict(card),
        }
    )
    make_folder(out)
    write_json(out / "scores.json", data)
    write_file(out / "scores.csv", _csv(rows))
    _write_pictures(out / "pictures", pictures)
    draw_report(out)
    return data


def draw_report(out: str | Path) -> Path:
    """Draw ``report.html`` from the ``scores.json`` and ``pictures`` in a folder; returns its path.

    Raises
    ------
    DataError
        If the folder holds no scores.
    """
    out = Path(out)
    try:
        data = json.loads((out / "scores.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError(
            f"{out}: no scores.json here; run 'aequorea evaluate MODEL DATA --out {out}' first"
        ) from None
    sections = []
    listed = out / "pictures" / "pictures.json"
    for entry in json.loads(listed.read_text(encoding="utf-8")) if listed.exists() else []:
        files = [((listed.parent / name).read_bytes(), caption) for name, caption in entry["files"]]
        colours = [(text, (red, green, blue)) for text, (red, green, blue) in entry["colours"]]
        sections.append(Picture(entry["heading"], files, colours=colours))
    write_file(out / "report.html", evaluation.report(data, sections).encode())
    return out / "report.html"


def picture(case: Case, task: Task, score: tuple[str, float]) -> Shown | None:
    """Draw image, labels, result and errors of a case in three planes; ``None`` where no labels can be drawn.

    Parameters
    ----------
    case
        Only a few planes of it are read, and one block to choose them.
    task
        Says what the labels mean to it.
    score
        Name and value, for the heading.
    """
    if isinstance(case.truth, TargetImage) and "restored" in case.result.layers:
        return _restored(case, score)
    layer = next((name for name in ("objects", "classes") if name in case.result.layers), None)
    if layer is None or not isinstance(case.truth, LabelImage) or case.image.size != case.truth.volume.size:
        return None
    pred = case.result.layers[layer]
    truth = case.truth if layer == "objects" else _coded(case, task)
    at, region = _view(pred, truth)
    image = pictures.cut(case.image, at, region)
    labels, found, ignored = (
        pictures.planes(partial(_side, pred, truth, side), at, region) for side in range(3)
    )
    spacing = case.image.spacing or case.truth.spacing
    if layer == "objects":
        matching = Overlaps.of(volumes.overlap_table(pred, case.truth)).match()
        partners = {int(b): int(a) for a, b in matching.pairs}
        errors = _each(labels, found, ignored, matching)
        words = {RIGHT: "matched", POOR: "found, but split, merged or badly outlined", MISSED: "missed"}
    else:
        partners = {}
        errors = _each(labels, found, ignored, None)
        words = {RIGHT: "right", POOR: "wrong class", MISSED: "missed"}
    words[FALSE] = "false"
    present = pictures.values(errors)
    keys = [(words[code], ERROR_COLOURS[code]) for code in (RIGHT, POOR, MISSED, FALSE) if code in present]
    colours = pictures.colours_of(pictures.values(found), partners)
    white = dict.fromkeys(pictures.values(labels), (255,) * 3)
    drawn = [
        (pictures.draw(image, spacing), "Image"),
        (pictures.draw(image, spacing, [Overlay(labels, fill=0.12)]), "Labels"),
        (
            pictures.draw(image, spacing, [Overlay(found, colours, fill=0.12)]),
            "Result" + (", matched objects in the colour of their label" if layer == "objects" else ""),
        ),
        (
            pictures.draw(
                image,
                spacing,
                [Overlay(errors, ERROR_COLOURS, fill=0.55, line=0), Overlay(labels, white, line=1)],
            ),
            "Errors, with the outlines of the labels",
        ),
    ]
    name, value = score
    return Shown(f"{case.name} · {evaluation.title_of(name)}: {evaluation.shown(name, value)}", drawn, keys)


def _restored(case: Case, score: tuple[str, float]) -> Shown:
    """Draw input, result, target and what is left between them, of a part around the middle."""
    assert isinstance(case.truth, TargetImage)
    found, truth = case.result.layers["restored"], case.truth.volume
    size = [min(n, most) for n, most in zip(truth.size, PICTURED)]
    region = Region.at([(n - m) // 2 for n, m in zip(truth.size, size)], size)
    z, y, x = (a + n // 2 for a, n in zip(region.start, region.size))
    scores = restoration_scores(found.crop(region), truth.crop(region), fit=True)
    given = _same_place(case.image, region, truth.size)
    at = [n // 2 for n in given.size]
    drawn = residual_picture(
        pictures.cut(
            case.image, (given.start[0] + at[0], given.start[1] + at[1], given.start[2] + at[2]), given
        ),
        pictures.cut(found, (z, y, x), region),
        pictures.cut(truth, (z, y, x), region),
        truth.spacing or found.spacing,
        scores,
    )
    name, value = score
    return Shown(
        f"{case.name} · {evaluation.title_of(name)}: {evaluation.shown(name, value)}",
        [(drawn, "Input, result (fitted to the target), target, and the difference of the last two")],
    )


def _same_place(image: Volume, region: Region, size: Triple) -> Region:
    """Return the region of an image that shows what a region of a grid of ``size`` voxels shows; all of other axes."""
    start, stop = [], []
    for a, b, n, m in zip(region.start, region.stop, image.size, size):
        whole = m == 1 or n == 1
        start.append(0 if whole else a * n // m)
        stop.append(n if whole else max(a * n // m + 1, -(-b * n // m)))
    return Region((start[0], start[1], start[2]), (stop[0], stop[1], stop[2]))


def _each(labels: Planes, found: Planes, ignored: Planes, matching: Matching | None) -> Planes:
    """Return the error codes of three planes."""
    codes = [
        pictures.voxel_errors(a, b, c) if matching is None else pictures.object_errors(a, b, matching, c)
        for a, b, c in zip(labels.all, found.all, ignored.all)
    ]
    return labels.like(*codes)


def _coded(case: Case, task: Task) -> LabelImage:
    """Return the labels as the task's classes."""
    target = task.target(case.truth, case.truth.spacing)

    def reader(region: Region) -> Array:
        return np.nan_to_num(target.read(region)[:1], nan=_NO_CLASS).astype(np.uint8)

    return LabelImage(
        replace(
            target,
            reader=reader,
            dtype=np.dtype(np.uint8),
            shape=(1, *target.size),
            channels=("",),
            levels=(),
        ),
        _NO_CLASS,
    )


def _view(pred: Volume, truth: LabelImage) -> tuple[Triple, Region]:
    """Choose where to cut, and how far to show: around most of what is labelled."""
    best, where = -1, pred.region
    for block in pred.region.split((256, 512, 512)):
        labels, _, _ = volumes.read_objects(pred, truth, block)
        if (n := int(np.count_nonzero(labels))) > best:
            best, where = n, block
    labels, found, _ = volumes.read_objects(pred, truth, where)
    mask = labels != 0
    inside = pictures.busiest(mask if mask.any() else found)
    region = pictures.frame(mask | (found != 0), inside, truth.spacing)
    z, y, x = (a + b for a, b in zip(inside, where.start))
    return (z, y, x), region.shift(where.start)


def _side(pred: Volume, truth: LabelImage, side: int, region: Region) -> Array:
    """Return labels (0), result (1) or the mask of unlabelled voxels (2) of a region."""
    labels, found, ignore = volumes.read_objects(pred, truth, region)
    return (labels, found, np.zeros(labels.shape, bool) if ignore is None else ignore)[side]


def _scores(row: Mapping[str, Any]) -> dict[str, float]:
    return {name: value for name, value in row.items() if name not in ("image", "method", "matches")}


def _differences(by_method: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[str, dict[str, Interval]]:
    """Return the first method minus each other, in the first score, over the images that both have."""
    first, *others = by_method
    own = {row["image"]: row for row in by_method[first]}
    found: dict[str, dict[str, Interval]] = {}
    for method in others:
        pairs = [(own[row["image"]], row) for row in by_method[method] if row["image"] in own]
        name = next(iter(pooling.pool([_scores(by_method[first][0])])), None)
        if pairs and name is not None:
            found[method] = {name: pooling.paired([a for a, _ in pairs], [b for _, b in pairs], name)}
    return found


def _csv(rows: Sequence[Mapping[str, Any]]) -> bytes:
    names = list(dict.fromkeys(name for row in rows for name in row if name != "matches"))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(names)
    for row in rows:
        writer.writerow([_number(row.get(name, "")) for name in names])
    return text.getvalue().encode()


def _number(value: Any) -> Any:
    return f"{value:.6g}" if isinstance(value, float) else value


def _write_pictures(folder: Path, shown: Iterable[Shown]) -> None:
    entries = []
    for index, one in enumerate(shown):
        files = []
        for part, (png, caption) in enumerate(one.pictures):
            name = f"{index + 1:02d}_{part + 1}_{caption.partition(',')[0].lower()}.png"
            write_file(folder / name, png)
            files.append([name, caption])
        entries.append(
            {"heading": one.heading, "files": files, "colours": [list(key) for key in one.colours]}
        )
    write_json(folder / "pictures.json", entries)


def _plain(value: Any) -> Any:
    """Return JSON-ready data; numbers that are not finite become ``None``."""
    if isinstance(value, Interval):
        return _plain(value._asdict())
    if isinstance(value, Mapping):
        return {str(key): _plain(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(part) for part in value]
    if isinstance(value, (float, np.floating)):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, np.integer):
        return int(value)
    return value
