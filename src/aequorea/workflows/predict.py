"""The verb *predict*: a volume of any size into an OME-Zarr; what was interrupted is taken up again."""

from __future__ import annotations

import hashlib
import json
import math
import shutil
from collections.abc import Callable
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from pydantic import Field

from aequorea import __version__
from aequorea.crew import AllDone, TakeOver
from aequorea.engine.counting import measure_together
from aequorea.engine.counts import counted_type, counter, in_counts, is_counted
from aequorea.engine.durable import held, write_json
from aequorea.engine.fit_tiles import Tiles, check_tiles, choose_tiles
from aequorea.engine.inference import Precision
from aequorea.engine.layer import OURS
from aequorea.engine.memory import capped
from aequorea.engine.predict import Timing, check_size, normalised, predict_dense
from aequorea.engine.tiles import Tiling
from aequorea.engine.writer import ZarrOutput
from aequorea.errors import AequoreaError, DataError
from aequorea.model import Model, load, model_file
from aequorea.results import Result
from aequorea.signal.intensity import Intensity, places
from aequorea.signal.resample import matched_size, placed, resampled
from aequorea.specs import Spec
from aequorea.volume import Array, Region, Spacing, Triple, Volume
from aequorea.workflows.explain import explain
from aequorea.workflows.open import opened

MOST_MEASURED = 2**40
"""Voxels above which a region's intensity range stands for the volume's, which would take days to read."""
COUNTED = 10**13
"""Voxels up to which the intensity range is that of the whole volume."""
OTHERS = (".tif", ".tiff", ".png", ".jpg", ".h5", ".hdf5", ".ims", ".nii", ".gz", ".npy", ".csv", ".html")
"""Endings that promise another kind of file than the store that is written."""
MOST_FINER = 64
"""Voxels that the network may see in place of one of the image's: of more an image holds nothing."""
COMPRESSED = 30
"""How many times smaller a result may become on the disk, at most."""


class PredictSpec(Spec):
    """Recipe of a prediction; what decides the result, and so whether an interrupted one may be taken up.

    Attributes
    ----------
    region
        ``z0:z1,y0:y1,x0:x1``; the result is that of the whole volume, cut.
    halo
        ``default``, ``full`` (exact) or voxels (z, y, x).
    tile
        Most voxels computed at once; default: what needs 1.5 GB, or 4 GB where the halo is wide.
    precision
        ``auto``, ``float32`` or ``bfloat16``.
    threshold
        In place of the calibrated one.
    scale
        How much larger voxels are made before the network sees them; default: what matches the model, where
        voxels (or objects) are off by more than 1.5. 1 leaves them as they are.
    object_size
        Diameter of the objects in µm, where it differs from that of the training objects.
    mirrored
        Whether the network also sees the image mirrored along y and x, and with y and x exchanged; the mean is taken,
        at eight times the work; of planes between planes along z too, at sixteen.
    """

    region: str | None = None
    halo: Literal["default", "full"] | Triple = "default"
    tile: int | None = Field(default=None, ge=1)
    precision: Precision = "auto"
    threshold: float | None = Field(default=None, gt=0, le=1)
    scale: float | None = Field(default=None, gt=0)
    object_size: float | None = Field(default=None, gt=0)
    mirrored: bool = False


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
    intensity: Intensity | None = None,
    overwrite: bool = False,
    part: tuple[int, int] = (1, 1),
    say: Callable[[str], None] = print,
    memory: int | None = None,
    tiles: Tiles | None = None,
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
    intensity
        Range to normalise by, e.g. of the volume that a crop was cut out of; measured where not given.
    overwrite
        Begin anew where ``out`` holds another result.
    part
        Which of how many processes that share the work this is, from 1 (:mod:`aequorea.crew`); all are given the
        same, and each returns when the whole result is there.
    say
        Receives lines for the user.
    memory
        Bytes of main memory that the process may hold; tiles, shards and threads follow from it. An interrupted
        prediction is taken up with the tiles that it was begun with.
    tiles
        In place of those that :func:`layout_of` chooses.

    Raises
    ------
    DataError
        If image, mask and model do not fit each other, or ``out`` holds something else or is being written.
    SpecError
        If ``memory`` is too little; says the smallest that works.
    """
    with capped(memory), held(Path(out)) if part[1] == 1 else nullcontext():
        return _predict(model, source, out, spec, mask, intensity, overwrite, part, say, memory, tiles)


def _predict(
    model: Model | str | Path,
    source: Any,
    out: str | Path,
    spec: PredictSpec | None,
    mask: Volume | None,
    intensity: Intensity | None,
    overwrite: bool,
    part: tuple[int, int],
    say: Callable[[str], None],
    memory: int | None,
    tiles: Tiles | None,
) -> Predicted:
    spec = spec or PredictSpec()
    named = model
    check_name(Path(out))
    if not isinstance(model, Model):
        model = load(model_file(model))
    print_of_model = model.digest
    volume = opened(source)
    if Path(volume.name).exists() and Path(out).resolve() in (p := Path(volume.name).resolve(), *p.parents):
        raise DataError(f"{out}: holds the image itself: write the result to another place")
    model.check_channels(volume)
    laid = layout_of(model, volume, spec)
    region, size, tiling, work = laid
    if mask is not None:
        _check_mask(mask, volume)
    check_size(tiling, volume)
    items = model.task.over == "items"
    if items and spec.region:
        raise DataError(
            "--region: this model answers for whole files; cut the part out and give it as a file"
        )
    if items and part[1] > 1:
        raise DataError("--part: this model answers for whole files; give each part other files")
    counts = is_counted(model.task)
    kind = counted_type(volume.dtype) if counts else np.dtype(model.task.dense_dtype)
    _check_room(volume, work, len(model.task.dense_channels), kind, Path(out))
    recipe = [
        print_of_model,
        volume.fingerprint,
        mask.contents if mask else "",
        spec.model_dump_json(),
        json.dumps(intensity.plain()) if intensity else "",
    ]
    identity = hashlib.sha256("\n".join(recipe).encode()).hexdigest()
    begun = Path(out) / OURS / "tiles.json"
    if tiles is None and begun.exists() and not overwrite:
        kept = json.loads(begun.read_text())
        tiles = Tiles((*kept["core"],), kept["budget"]) if kept["identity"] == identity else None
        if tiles is not None and memory is not None:
            check_tiles(tiles, tiling, stored_bytes(model), memory, spec.precision)
    core, budget = tiles = tiles or laid.tiles(model, spec, memory)
    shard = model.network.head.output_grid(Region.at((0, 0, 0), core), None)[0].size
    output = ZarrOutput(
        out,
        identity=identity,
        shard=shard,
        overwrite=overwrite,
        root="restored" if counts else "dense",
        origin=_origin(region, volume.spacing),
        facts={"version": __version__, "model": print_of_model, "image": volume.name},
        part=part,
    )
    if not begun.exists():
        write_json(begun, {"identity": identity, **tiles._asdict()})
    lines: list[str] = []

    def tell(line: str) -> None:
        lines.append(line)
        say(line)

    for path in output.damaged:
        tell(f"{path}: damaged since it was written; computed again")
    if output.finished:
        tell(f"{out}: finished before, nothing to do")
        return Predicted(Path(out), output.result, None, lines)
    if size != volume.size:
        tell(
            f"{volume.name}: computed at {size} voxels instead of {volume.size} (z, y, x), {_why(model, spec)}; "
            "results are on the image's grid"
        )
    elif volume.spacing is None and volume.size[0] > 1:
        tell(
            f"{volume.name}: voxel size unknown; assumed to be that of the training data (or give --spacing)"
        )
    if mask is not None and not any(block.any() for block in mask.crop(region).blocks()):
        tell(f"{mask.name}: is 0 everywhere in {region}: nothing is predicted")
    if intensity is None and volume.region.voxels > COUNTED:
        tell(f"{volume.name}: too large to count every voxel; the intensity range is that of sampled places")
        intensity = model.intensity_of(places(volume))
    measured = volume
    if intensity is None and volume.region.voxels > MOST_MEASURED and region != volume.region:
        measured = volume.crop(region)
        tell(f"{volume.name}: too large to be looked through; the intensity range is that of the region")
    timing = Timing()
    # On the image's own grid, what is restored is the result: nothing else is stored.
    restored = counts and size == volume.size

    def work_on() -> None:
        known = intensity or model.usual_intensity(measured) or _intensity(measured, output)
        output.remember(intensity=known.plain())
        dense = _dense(
            model, volume, known, tiling, work, core, budget, output, spec, mask, tell, timing, restored
        )
        point = model.point if spec.threshold is None else {**model.point, "threshold": spec.threshold}
        if size != volume.size:
            own = Tiling.of(model.network, volume.size, volume.spacing, (0, 0, 0))
            kept = own.output(body_region(region, volume.size, own))
            where = tiling.output(work)
            dense = resampled(placed(dense, where, tiling.output_size), own.output_size).crop(kept)
        if not restored:
            if counts:
                dense = in_counts(dense, known, volume.dtype)
            model.task.decode(
                dense, volume.crop(region) if dense.size == region.size else None, output, point
            )
        if output.sole():
            for line in explain(model, volume, known, dense, output.result, point):
                tell(line)
            output.remember(notes=lines[len(output.damaged) :])
            output.complete()

    try:
        with output.crew.alive():
            while True:
                with suppress(TakeOver):
                    work_on()
                    return Predicted(Path(out), output.result, timing, lines)
    except (AllDone, AequoreaError, OSError):
        if output.crew.alone or not output.finished_on_disk():
            raise
        # Another part has finished it and tidied up.
        return predict(named, volume, out, spec, mask=mask, intensity=intensity, part=part, say=say)


def _dense(
    model: Model,
    volume: Volume,
    intensity: Intensity,
    tiling: Tiling,
    work: Region,
    core: Triple,
    budget: int,
    output: ZarrOutput,
    spec: PredictSpec,
    mask: Volume | None,
    tell: Callable[[str], None],
    timing: Timing,
    restored: bool,
) -> Volume:
    """Return the network's stored output of a region of the body's grid; or what it restored, in the image's counts."""
    task = model.task
    dtype, store = np.dtype(task.dense_dtype), task.store
    if restored:
        dtype = counted_type(volume.dtype)
        store = counter(intensity, len(task.dense_channels), dtype)
    where = tiling.output(work)
    spacing = tiling.output_spacing if volume.spacing else None
    layer = output.layer(
        "restored" if restored else "dense",
        size=where.size,
        dtype=dtype,
        kind="image",
        channels=task.dense_channels,
        spacing=spacing,
        origin=_origin(where, spacing),
    )

    def wanted(part: Region) -> Array:
        assert mask is not None
        keep: Array = resampled(mask, tiling.output_size, "nearest").read(part.shift(where.start))[0] != 0
        return keep

    timing += predict_dense(
        tiling,
        resampled(normalised(volume, intensity), tiling.size),
        layer,
        store,
        core,
        region=work,
        empty=np.zeros(len(task.dense_channels), dtype),
        skip_constant=task.skips_constant,
        budget=budget,
        precision=spec.precision,
        wanted=wanted if mask is not None else None,
        on_shrink=lambda voxels: tell(f"memory did not suffice: going on with tiles of {voxels:,} voxels"),
    )
    return layer.finish()


class Laid(NamedTuple):
    """Where a prediction lies.

    Attributes
    ----------
    region
        Of the image.
    size
        Voxels (z, y, x) at which the network sees the image.
    tiling
        Network and geometry.
    work
        The region on the body's grid.
    """

    region: Region
    size: Triple
    tiling: Tiling
    work: Region

    def tiles(self, model: Model, spec: PredictSpec, memory: int | None = None) -> Tiles:
        """Return the tiles that it is computed in; see :func:`aequorea.engine.fit_tiles.choose_tiles`."""
        whole = model.task.over == "items"
        return choose_tiles(
            self.tiling, self.work.size, stored_bytes(model), spec.tile, memory, spec.precision, whole
        )


def layout_of(model: Model, volume: Volume, spec: PredictSpec) -> Laid:
    """Return where the prediction of a volume lies; :class:`DataError` if it would be seen far too finely."""
    region = Region.parse(spec.region, volume.size) if spec.region else volume.region
    size = working_size(model, volume, spec)
    if math.prod(size) > MOST_FINER * volume.region.voxels:
        raise DataError(
            f"{volume.name}: would be computed at {size} voxels in place of {volume.size} (z, y, x): are voxels of "
            f"{_text(volume.spacing)} µm right? Say it with --spacing Z,Y,X, or --scale 1 for voxels as they are"
        )
    network = model.mirrored if spec.mirrored else model.network
    tiling = Tiling.of(network, size, _spacing_at(volume, size) or model.spacing, spec.halo)
    return Laid(region, size, tiling, body_region(region, volume.size, tiling))


def stored_bytes(model: Model) -> int:
    """Return the bytes of a voxel of the stored output."""
    channels: int = len(model.task.dense_channels)
    return channels * int(np.dtype(model.task.dense_dtype).itemsize)


def working_size(model: Model, volume: Volume, spec: PredictSpec) -> Triple:
    """Return the voxels (z, y, x) at which the network sees a volume: its own, or what matches the model."""
    if spec.scale is not None:
        z, y, x = (max(1, round(n / spec.scale)) for n in volume.size)
        return (volume.size[0], y, x) if volume.size[0] == 1 else (z, y, x)
    target = model.spacing
    if spec.object_size is not None:
        trained = model.card.get("object_um")
        if not trained or target is None:
            raise DataError(
                "--object-size: the model does not know how large its training objects were: use --scale instead"
            )
        if volume.spacing is None:
            raise DataError(
                f"{volume.name}: --object-size is in µm: give --spacing Z,Y,X too, or use --scale"
            )
    if volume.spacing is None or target is None:
        return volume.size
    if spec.object_size is not None:
        factor = spec.object_size / float(model.card["object_um"])
        target = (target[0] * factor, target[1] * factor, target[2] * factor)
    return matched_size(volume, target)


def _why(model: Model, spec: PredictSpec) -> str:
    """Return why the network sees an image at another scale."""
    if spec.scale is not None:
        return "as --scale says"
    if spec.object_size is not None:
        return "so that objects look as large as the training's, as --object-size says"
    return f"to match the model's voxels of {_text(model.spacing)} µm (--scale 1 turns this off)"


def _spacing_at(volume: Volume, size: Triple) -> Spacing | None:
    if volume.spacing is None:
        return None
    z, y, x = (s * n / m for s, n, m in zip(volume.spacing, volume.size, size))
    return z, y, x


def body_region(region: Region, size: Triple, tiling: Tiling) -> Region:
    """Return the region of the body's grid that a region of an image of ``size`` voxels needs.

    Where the network sees the image at another scale there is a margin for interpolation.
    """
    domain, margin = tiling.domain.size, 0 if size == tiling.size else 2
    low = [a * m // n - margin for a, n, m in zip(region.start, size, domain)]
    high = [-(-b * m // n) + margin for b, n, m in zip(region.stop, size, domain)]
    grown = Region((low[0], low[1], low[2]), (high[0], high[1], high[2]))
    return grown.clip(tiling.domain)


def check_name(out: Path) -> None:
    """Raise :class:`DataError` where a result's name promises another kind of file."""
    if out.suffix.lower() in OTHERS:
        plain = out.with_name(out.stem.removesuffix(".ome"))
        raise DataError(f"{out}: results are OME-Zarr: name it {plain}.ome.zarr")


def _check_room(volume: Volume, work: Region, channels: int, dtype: np.dtype[Any], out: Path) -> None:
    """Refuse what the disk could not hold even if it compressed very well."""
    folder = next(p for p in (out.absolute(), *out.absolute().parents) if p.exists())
    free = shutil.disk_usage(folder).free
    needed = work.voxels * channels * dtype.itemsize
    if needed / COMPRESSED > free:
        raise DataError(
            f"{volume.name}: the result of {work.voxels:,} voxels takes up to {needed / 1e12:,.3g} TB, "
            f"{free / 1e12:.3g} TB are free on the disk: predict a part with --region, or choose another disk"
        )


def _check_mask(mask: Volume, volume: Volume) -> None:
    if mask.size != volume.size:
        raise DataError(f"{mask.name}: mask of {mask.size} voxels for an image of {volume.size} (z, y, x)")
    if mask.shape[0] != 1:
        raise DataError(f"{mask.name}: {mask.shape[0]} channels; a mask has one")


def _origin(region: Region, spacing: Spacing | None) -> Spacing:
    """Return where a region begins, µm (voxels where the spacing is not known)."""
    z, y, x = (a * s for a, s in zip(region.start, spacing or (1.0, 1.0, 1.0)))
    return z, y, x


def _text(spacing: Spacing | None) -> str:
    return " x ".join(f"{s:g}" for s in spacing) if spacing else "unknown size"


def _intensity(volume: Volume, output: ZarrOutput) -> Intensity:
    """Return the volume's intensity range, from an interrupted run where there was one."""
    folder = output.scratch("intensity")
    kept = folder / "intensity.json"
    if kept.exists():
        return Intensity.parse(json.loads(kept.read_text()))
    intensity = measure_together(volume, output.crew, folder)
    write_json(kept, intensity.plain())
    return intensity
