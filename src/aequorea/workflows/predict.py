"""The verb *predict*: a volume of any size into an OME-Zarr; what was interrupted is taken up again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from aequorea import __version__
from aequorea.engine.durable import file_digest, write_json
from aequorea.engine.inference import Precision
from aequorea.engine.predict import TILE_VOXELS, Timing, normalised, predict_dense
from aequorea.engine.tiles import Tiling, choose_core
from aequorea.engine.writer import ZarrOutput
from aequorea.errors import DataError
from aequorea.model import Model, load
from aequorea.results import Result
from aequorea.signal.intensity import Intensity, measure
from aequorea.specs import Spec
from aequorea.volume import Array, Region, Triple, Volume
from aequorea.workflows.open import open as open_volume

CHUNK: Triple = (64, 64, 64)


class PredictSpec(Spec):
    """Recipe of a prediction; what decides the result, and so whether an interrupted one may be taken up.

    Attributes
    ----------
    region
        ``z0:z1,y0:y1,x0:x1``; the result is that of the whole volume, cut.
    halo
        ``default``, ``full`` (exact) or voxels (z, y, x).
    tile
        Most voxels computed at once.
    precision
        ``auto``, ``float32`` or ``bfloat16``.
    threshold
        In place of the calibrated one.
    """

    region: str | None = None
    halo: Literal["default", "full"] | Triple = "default"
    tile: int = TILE_VOXELS
    precision: Precision = "auto"
    threshold: float | None = None


@dataclass(frozen=True)
class Predicted:
    """What a prediction left.

    Attributes
    ----------
    path
        The store.
    result
        Layers and tables.
    timing
        ``None`` where nothing had to be computed.
    lines
        What the user should know, a line each.
    """

    path: Path
    result: Result
    timing: Timing | None
    lines: list[str]


def predict(
    model: Model | str | Path,
    source: Any,
    out: str | Path,
    spec: PredictSpec | None = None,
    *,
    mask: Volume | None = None,
    overwrite: bool = False,
    say: Callable[[str], None] = print,
) -> Predicted:
    """Predict a volume into an OME-Zarr, or take up a prediction that was interrupted.

    Parameters
    ----------
    model
        A model or its file.
    source
        Whatever :func:`aequorea.open` takes.
    out
        The store to write.
    spec
        Recipe.
    mask
        On the image's grid; nothing is predicted where it is 0.
    overwrite
        Begin anew where ``out`` holds another result.
    say
        Receives lines for the user.

    Raises
    ------
    DataError
        If image, mask and model do not fit each other, or ``out`` holds something else.
    """
    spec = spec or PredictSpec()
    print_of_model = file_digest(Path(model)) if isinstance(model, str | Path) else "in memory"
    model = load(model) if isinstance(model, str | Path) else model
    volume = source if isinstance(source, Volume) else open_volume(source)
    _check_fit(model, volume, mask)
    region = Region.parse(spec.region, volume.size) if spec.region else volume.region
    tiling = Tiling.of(model.network, volume.size, volume.spacing or model.spacing, spec.halo)
    core = choose_core(region.size, tiling.grid, tiling.halo, spec.tile)
    shard = model.network.head.output_grid(Region.at((0, 0, 0), core), None)[0].size
    recipe = [
        print_of_model,
        volume.fingerprint,
        mask.fingerprint if mask else "",
        spec.model_dump_json(),
    ]
    identity = hashlib.sha256("\n".join(recipe).encode()).hexdigest()
    output = ZarrOutput(
        out,
        identity=identity,
        shard=shard,
        chunk=CHUNK,
        overwrite=overwrite,
        facts={"version": __version__, "model": print_of_model, "image": volume.name},
    )
    lines: list[str] = []

    def tell(line: str) -> None:
        lines.append(line)
        say(line)

    for path in output.damaged:
        tell(f"{path}: damaged since it was written; computed again")
    if output.finished:
        tell(f"{out}: finished before, nothing to do")
        return Predicted(Path(out), output.result, None, lines)
    intensity = _intensity(volume, output)
    output.remember(intensity=intensity.plain())
    task = model.task
    placed = tiling.output(region)
    layer = output.layer(
        "dense",
        size=placed.size,
        dtype=task.dense_dtype,
        kind="image",
        channels=task.dense_channels,
        spacing=tiling.output_spacing if volume.spacing else None,
    )

    def wanted(part: Region) -> Array:
        assert mask is not None
        keep: Array = mask.read(part.shift(placed.start))[0] > 0
        return keep

    timing = predict_dense(
        tiling,
        normalised(volume, intensity),
        layer,
        task.store,
        core,
        region=region,
        empty=np.zeros(len(task.dense_channels), task.dense_dtype),
        budget=spec.tile,
        precision=spec.precision,
        wanted=wanted if mask is not None else None,
        on_shrink=lambda voxels: tell(f"memory did not suffice: going on with tiles of {voxels:,} voxels"),
    )
    dense = layer.finish()
    point = model.point if spec.threshold is None else {**model.point, "threshold": spec.threshold}
    same_grid = placed == region
    task.decode(dense, volume.crop(region) if same_grid else None, output, point)
    output.complete()
    return Predicted(Path(out), output.result, timing, lines)


def _check_fit(model: Model, volume: Volume, mask: Volume | None) -> None:
    channels = int(model.card.get("channels", 1))
    if volume.shape[0] != channels:
        raise DataError(
            f"{volume.name}: {volume.shape[0]} channels, but the model was trained on {channels}; "
            f"pick with --channel ({', '.join(volume.channels)})"
        )
    if mask is not None and mask.size != volume.size:
        raise DataError(f"{mask.name}: mask of {mask.size} voxels for an image of {volume.size} (z, y, x)")


def _intensity(volume: Volume, output: ZarrOutput) -> Intensity:
    """Return the volume's intensity range, from an interrupted run where there was one."""
    kept = output.scratch("intensity") / "intensity.json"
    if kept.exists():
        return Intensity.parse(json.loads(kept.read_text()))
    intensity = measure(volume)
    write_json(kept, intensity.plain())
    return intensity
