"""The verb *predict --preview*: three informative blocks in a minute, with a page to look at."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from aequorea.engine.durable import write_file
from aequorea.model import Model
from aequorea.report import pictures
from aequorea.report.page import Picture, Text, page
from aequorea.signal.intensity import PLACES, sampled
from aequorea.signal.resample import matched_size, resampled
from aequorea.volume import Region, Volume
from aequorea.workflows.crops import choose

BLOCKS = 3
BLOCK_VOXELS = 96**3


def preview(
    model: Model,
    volume: Volume,
    out: Path,
    *,
    point: dict[str, float] | None = None,
    say: Callable[[str], None] = print,
) -> list[Region]:
    """Predict three informative blocks of a volume in memory and write a page that shows them.

    Parameters
    ----------
    model
        To try.
    volume
        Not normalised.
    out
        The page (HTML) to write.
    point
        Operating point in place of the model's.
    say
        Receives lines for the user.

    Returns
    -------
    list of Region
        The blocks.
    """
    z = min(volume.size[0], 48)
    side = round((BLOCK_VOXELS / z) ** 0.5)
    size = (z, min(side, volume.size[1]), min(side, volume.size[2]))
    intensity = sampled(volume)
    shown: list[Any] = []
    blocks = choose(volume, n=BLOCKS, size=size)
    for region in blocks:
        block = volume.crop(region)
        target = model.spacing
        at = block.size if target is None else matched_size(block, target)
        result = model.predict(resampled(block, at), intensity=intensity, point=point)
        name, layer = next(iter(result.layers.items()))
        found = resampled(layer, block.size, "nearest")
        labels = found.read()[0]
        middle = pictures.busiest(labels > 0) if labels.any() else tuple(n // 2 for n in block.size)
        place = (int(middle[0]), int(middle[1]), int(middle[2]))
        image = pictures.cut(block, place)
        outlines = pictures.cut(found, place)
        count = f"{len(np.unique(labels)) - bool((labels == 0).any())} {name}, {(labels > 0).mean():.1%} of the voxels"
        say(f"{region}: {count}")
        drawn = [
            (pictures.draw(image, block.spacing), "Image"),
            (pictures.draw(image, block.spacing, [pictures.Overlay(outlines, fill=0.15)]), count),
        ]
        shown.append(Picture(f"Block {region}", drawn))
    words = Text(
        "What this is",
        [
            f"{len(blocks)} informative blocks of {volume.name}, predicted in memory with the intensity range of "
            f"{int(np.prod(PLACES))} sampled places. A whole prediction uses the range of the whole volume."
        ],
    )
    write_file(out, page("Preview", [words, *shown], volume.name).encode())
    return blocks
