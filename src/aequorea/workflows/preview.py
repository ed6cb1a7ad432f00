"""The verb *predict --preview*: three informative blocks in a minute, with a page to look at."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from aequorea.engine.counts import is_counted
from aequorea.engine.durable import write_file
from aequorea.model import Model
from aequorea.report import pictures
from aequorea.report.page import Picture, Text, page
from aequorea.signal.intensity import PLACES, places
from aequorea.signal.resample import resampled
from aequorea.volume import Region, Volume
from aequorea.workflows.crops import choose
from aequorea.workflows.predict import PredictSpec, working_size

BLOCKS = 3
BLOCK_VOXELS = 96**3


def preview(
    model: Model,
    volume: Volume,
    out: Path,
    spec: PredictSpec | None = None,
    *,
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
    spec
        Its region, scale, object size, threshold, precision and mirroring hold; blocks are computed whole, without
        tiles.
    say
        Receives lines for the user.

    Returns
    -------
    list of Region
        The blocks.
    """
    spec = spec or PredictSpec()
    point = model.point if spec.threshold is None else {**model.point, "threshold": spec.threshold}
    intensity = model.intensity_of(places(volume))
    if spec.region:
        volume = volume.crop(Region.parse(spec.region, volume.size))
    z = min(volume.size[0], 48)
    side = round((BLOCK_VOXELS / z) ** 0.5)
    size = (z, min(side, volume.size[1]), min(side, volume.size[2]))
    shown: list[Any] = []
    blocks = choose(volume, n=BLOCKS, size=size)
    for region in blocks:
        block = volume.crop(region)
        at = working_size(model, block, spec)
        result = model.predict(
            resampled(block, at),
            intensity=intensity,
            precision=spec.precision,
            point=point,
            mirrored=spec.mirrored,
        )
        name, layer = next(iter(result.layers.items()))
        if is_counted(model.task):
            shown.append(_restored(region, block, layer))
            say(f"{region}: restored, {layer.size} voxels (z, y, x)")
            continue
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


def _restored(region: Region, block: Volume, layer: Volume) -> Picture:
    """Return a block before and after, each in its middle planes."""
    drawn = []
    for volume, words in ((block, "Image"), (layer, "Restored")):
        z, y, x = (n // 2 for n in volume.size)
        drawn.append((pictures.draw(pictures.cut(volume, (z, y, x)), volume.spacing), words))
    return Picture(f"Block {region}", drawn)
