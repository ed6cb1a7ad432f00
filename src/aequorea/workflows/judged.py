"""How a pretraining run is judged: tables of what was learnt, and a page with reconstructions."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from aequorea.engine.blocks import Source, cut
from aequorea.progress import report as stage_ended
from aequorea.report import pictures
from aequorea.report.curves import Line
from aequorea.report.page import Curve, Picture, Section, Table, Text, page
from aequorea.volume import from_array

CROPS = 8
"""Patches of a held-out volume."""
SHOWN = 4
"""Held-out volumes whose patches the report shows."""
TABLES = (
    ("Hidden-voxel R² against the mean of the visible voxels", "held_out"),
    ("Dice from 1,000 painted voxels, logistic head on frozen features", "strokes"),
)


def told(card: dict[str, Any]) -> list[str]:
    """Return what a card says of the run: tables of held-out volumes and of strokes, a line each."""
    lines = []
    for heading, key in TABLES:
        lines += [heading, *_table(card[key])] if card[key] else [f"{heading}: nothing was held out"]
    return lines


def _table(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Return rows and their mean as lines."""
    names = [name for name in rows[0] if name != "volume"]
    width = max(len("mean"), *(len(row["volume"]) for row in rows))
    lines = [f"{'':{width}}  " + "  ".join(f"{name:>13}" for name in names)]
    for row in [*rows, {"volume": "mean", **{n: float(np.mean([r[n] for r in rows])) for n in names}}]:
        lines.append(f"{row['volume']:{width}}  " + "  ".join(f"{row[name]:13.3f}" for name in names))
    return lines


def judged(
    objective: Any, n: int, body: Any, sources: Sequence[Source], facts: Sequence[list[Any]]
) -> list[dict[str, Any]]:
    """Return R² of hidden voxels on each held-out volume: the network's and its rivals'."""
    residuals = getattr(objective, "residuals", None)
    if residuals is None:
        return []
    rows = []
    for source, known in zip(sources, facts):
        at, total = time.monotonic(), dict[str, float]()
        for i in range(CROPS):
            batch = _one(objective, source, known[n], i, body)
            with torch.inference_mode():
                for name, value in residuals(body, batch, source.image.spacing).items():
                    total[name] = total.get(name, 0.0) + float(value.sum())
        mean = total.pop("visible mean")
        stage_ended("judge", time.monotonic() - at)
        rows.append({"volume": Path(source.image.name).name, **{k: 1 - v / mean for k, v in total.items()}})
    return rows


def _one(objective: Any, source: Source, facts: Any, number: int, body: Any) -> dict[str, Tensor]:
    """Return a batch of one patch of a held-out volume, as it was recorded, on the body's device."""
    rng = np.random.default_rng([number, 77])
    made = objective.prepare(cut(source, rng), rng, {**facts, "unchanged": True})
    device = next(body.parameters()).device
    return {name: torch.from_numpy(np.asarray(array))[None].to(device) for name, array in made.items()}


def report(
    objectives: Sequence[tuple[Any, Any]],
    body: Any,
    sources: Sequence[Source],
    facts: Sequence[list[Any]],
    card: dict[str, Any],
    history: Sequence[dict[str, float]],
) -> str:
    """Return a page: the curve, what was said of the run, and held-out patches with their reconstructions."""
    steps = [row for row in history if "loss" in row]
    sections: list[Section] = [
        Text("What was learnt", ["Of volumes that were not trained on, and under strokes:"]),
        *(_section(name, card[key]) for name, key in TABLES if card[key]),
        Curve(
            "Training", [Line("loss", [r["step"] for r in steps], [r["loss"] for r in steps])], "step", "loss"
        ),
    ]
    for n, (objective, words) in enumerate(objectives):
        if not hasattr(objective, "pictures"):
            continue
        for source, known in list(zip(sources, facts))[:SHOWN]:
            batch = _one(objective, source, known[n], 0, body)
            with torch.inference_mode():
                images = objective.pictures(body, batch, source.image.spacing)
            drawn = []
            limits = None
            for name, image in images.items():
                volume = from_array(image[0, 0].float().cpu().numpy(), source.image.spacing)
                z, y, x = (size // 2 for size in volume.size)
                three = pictures.cut(volume, (z, y, x))
                limits = limits or pictures.contrast(three)
                drawn.append((pictures.draw(three, volume.spacing, limits=limits), name))
            title = f"{Path(source.image.name).name}, {words.objective['name']}"
            sections.append(Picture(title, drawn))
    return page("Pretraining", sections)


def _section(heading: str, rows: Sequence[dict[str, Any]]) -> Table:
    names = list(rows[0])
    cells = [[f"{row[name]:.3f}" if name != "volume" else row[name] for name in names] for row in rows]
    return Table(heading, names, cells)
