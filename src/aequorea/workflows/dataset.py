"""Annotated data: which image goes with which label, and to which specimen it belongs.

A dataset is one of

- a folder with ``images/`` and ``labels/`` (or ``targets/``, ``points/``) holding files of equal stems,
- a folder (or one image, or a pattern like ``DIR/*_nuclei.tif``) with ``STEM.ext`` and ``STEM_label.ext``,
- the folder that ``aequorea crops`` made, known by its ``crops.csv``,
- a CSV with the columns ``image,label,group,split`` (paths relative to it; all but ``image`` may be left out)
  and, where wanted, ``unlabelled``, ``region`` (``z0:z1,y0:y1,x0:x1``) and ``spacing`` (``2 0.5 0.5``: µm
  along z, y, x).

:func:`entries` finds the pairs and opens nothing; :func:`read` opens one; :func:`dataset` does both.
"""

from __future__ import annotations

import csv
import json
import re
import warnings
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np

from aequorea import registry
from aequorea.annotations import Annotation, ItemClass, LabelImage, Points, TargetImage, scaled_region
from aequorea.errors import AequoreaWarning, DataError, nearest
from aequorea.signal.axes import spatial_axes
from aequorea.signal.intensity import Intensity, measure
from aequorea.signal.published_intensity import published_intensity
from aequorea.volume import Array, Region, Spacing, Triple, Volume

Kind = Literal["label", "image", "points", "class"]

INDEX = "crops.csv"
"""The table that ``aequorea crops`` writes beside its crops."""
RANGES = "intensity.json"
"""The intensity ranges of the volumes that crops were cut out of, beside their table."""
FOLDERS: dict[str, str] = {"label": "labels", "image": "targets", "points": "points"}
ENDINGS: dict[str, str] = {"label": "_label", "image": "_target", "points": "_points"}
COLUMNS = ("image", "label", "group", "split", "unlabelled", "region", "spacing", "z", "y", "x")
SPLITS = ("train", "val", "test")
_CROP = re.compile(r"_z\d+_y\d+_x\d+$")


@dataclass(frozen=True)
class Entry:
    """An image and what is known of it, as found on disk and not opened yet.

    Attributes
    ----------
    name
        Stem of the image, for messages and reports.
    image
        Path.
    label
        Path of the annotation, or the name of a class; ``None`` where there is none.
    group
        The specimen: never on both sides of a split.
    split
        ``"train"``, ``"val"``, ``"test"`` or ``None``.
    unlabelled
        Label value of voxels that nobody looked at.
    region
        The part of the image that counts, ``"z0:z1,y0:y1,x0:x1"``.
    spacing
        Voxel size in µm, where the table says it.
    offset
        Where a crop was cut out of its group's volume, in voxels.
    """

    name: str
    image: Path
    label: Path | str | None
    group: str
    split: str | None = None
    unlabelled: int | None = None
    region: str | None = None
    spacing: Spacing | None = None
    offset: Triple | None = None


@dataclass(frozen=True)
class Item:
    """An opened image with its annotation; fields as in :class:`Entry`."""

    name: str
    image: Volume
    annotation: Annotation
    group: str
    split: str | None = None
    offset: Triple | None = None
    intensity: Intensity | None = None
    """The range of the volume that a crop was cut out of, where ``aequorea crops`` kept it."""
    source: Volume | None = None
    """The volume that a ``region`` is part of: its range is that by which a prediction will normalise."""


def told_apart(items: Sequence[Item]) -> list[Item]:
    """Return the items with names of their own: the second of a name gets `` (2)``, and so on."""
    seen: Counter[str] = Counter()
    out = []
    for item in items:
        seen[item.name] += 1
        again = seen[item.name] > 1
        out.append(replace(item, name=f"{item.name} ({seen[item.name]})") if again else item)
    return out


def ranges(items: Sequence[Item], published: str | None = None) -> dict[str, Intensity]:
    """Return the intensity range of each item by name: that of the whole volume that it is part of.

    Parameters
    ----------
    items
        Of names of their own.
    published
        How a published network's images are scaled
        (:func:`aequorea.signal.published_intensity.published_intensity`); default: as this package does.
    """
    known: dict[str, Intensity] = {}
    found = {}
    for item in items:
        whole = item.source or item.image
        kept = None if published else item.intensity
        if kept is None and whole.fingerprint not in known:
            known[whole.fingerprint] = published_intensity(whole, published) if published else measure(whole)
        found[item.name] = kept or known[whole.fingerprint]
    return found


def dataset(
    path: str | Path,
    *,
    kind: Kind = "label",
    unlabelled: int | None = None,
    spacing: Spacing | None = None,
    axes: str | None = None,
    channel: str | None = None,
) -> list[Item]:
    """Open a dataset.

    Parameters
    ----------
    path
        A folder, image, pattern or CSV as the module's text says.
    kind
        What the annotations are.
    unlabelled
        Label value of voxels that nobody looked at, where the table does not say it.
    spacing
        Voxel size in µm (z, y, x) of every image, overriding tables and files.
    axes, channel
        Passed on when images are opened.

    Raises
    ------
    DataError
        If there is nothing annotated, or an annotation does not fit its image; the message names the files.
    FormatError
        If a file cannot be read.
    """
    found = entries(path, kind=kind)
    bare = [entry for entry in found if entry.label is None]
    if len(bare) == len(found):
        raise DataError(f"{path}: none of {len(found)} images has {_wanted(kind)}")
    if bare:
        warnings.warn(
            f"{path}: {len(bare)} of {len(found)} images have no {kind}: left out, e.g. {bare[0].name}",
            AequoreaWarning,
            stacklevel=2,
        )
    items = [
        read(entry, kind=kind, unlabelled=unlabelled, spacing=spacing, axes=axes, channel=channel)
        for entry in found
        if entry.label is not None
    ]
    # A crop that is still as it was written would otherwise teach that all of it is background.
    painted = [item for item in items if item.offset is None or not _untouched(item)]
    if not painted:
        raise DataError(
            f"{path}: none of {len(items)} crops is painted yet; open image and label, paint and save"
        )
    if len(painted) < len(items):
        bare_crop = next(item.name for item in items if item not in painted)
        warnings.warn(
            f"{path}: {len(items) - len(painted)} of {len(items)} crops are not painted: left out, "
            f"e.g. {bare_crop}",
            AequoreaWarning,
            stacklevel=2,
        )
    return told_apart(painted)


def _untouched(item: Item) -> bool:
    return isinstance(item.annotation, LabelImage) and not item.annotation.volume.read().any()


def entries(path: str | Path, *, kind: Kind = "label") -> list[Entry]:
    """Return the images of a dataset in the order of their names (of a CSV: of its lines), opening none.

    Raises
    ------
    DataError
        If the path is no dataset, or the CSV is malformed; the message says what is expected.
    """
    path = Path(path)
    if path.suffix.lower() == ".csv":
        return _from_table(path, kind)
    if (path / INDEX).is_file():
        return _from_table(path / INDEX, kind)
    if kind == "class":
        raise DataError(
            f"{path}: classes of whole files come from a CSV with the columns image,label,group,split"
        )
    if (path / "images").is_dir():
        return _from_folders(path, kind)
    if path.is_dir() and stem_of(path) is None:
        return _from_stems(path, "*", kind)
    if path.parent.is_dir() and (path.exists() or set(path.name) & set("*?[")):
        return _from_stems(path.parent, path.name, kind)
    raise DataError(f"{path}: no such file or folder; a dataset is {_expected(kind)}")


def read(
    entry: Entry,
    *,
    kind: Kind = "label",
    unlabelled: int | None = None,
    spacing: Spacing | None = None,
    axes: str | None = None,
    channel: str | None = None,
) -> Item:
    """Open one entry lazily; parameters and errors as in :func:`dataset`."""
    from aequorea.workflows.open import open as open_volume

    spacing = entry.spacing if spacing is None else spacing
    image = open_volume(entry.image, axes=axes, spacing=spacing, channel=channel)
    size = image.size
    region = image.region if entry.region is None else Region.parse(entry.region, size)
    whole = image
    image = image if entry.region is None else image.crop(region)
    item = Item(
        entry.name,
        image,
        ItemClass(str(entry.label)),
        entry.group,
        entry.split,
        entry.offset,
        _source_intensity(entry),
        None if entry.region is None else whole,
    )
    if kind == "class":
        return item
    source = Path(str(entry.label))
    if kind == "points":
        points = Points(read_points(source), size, image.spacing)
        return replace(item, annotation=points.crop(region, size) if entry.region else points)
    label_axes = None if kind == "image" else spatial_axes(axes)
    label = open_volume(source, axes=label_axes, spacing=spacing)
    if kind == "image":
        if entry.region is not None and label.size != region.size:
            label = TargetImage(label).crop(region, size).volume
        return replace(item, annotation=TargetImage(label))
    if label.shape[0] == image.size[0] and label.size[0] == 1:
        label = _channels_as_planes(label)
    if label.shape[0] != 1:
        raise DataError(f"{source}: {label.shape[0]} channels; a label image has one")
    if label.dtype.kind not in "biu":
        raise DataError(
            f"{source}: values of type {label.dtype}; a label image holds whole numbers (save as uint16)"
        )
    if entry.region is not None and label.size != region.size:
        label = label.crop(scaled_region(region, size, label.size))
    if any(n % m for n, m in zip(label.size, image.size)):
        raise DataError(
            f"{source}: {label.size} voxels (z, y, x), but its image {entry.image.name} has {image.size}; "
            "give the label of the same image, or a 'region' column"
        )
    if label.spacing is None and label.size == image.size:
        label = replace(label, spacing=image.spacing)
    if entry.unlabelled is not None:
        unlabelled = entry.unlabelled
    return replace(item, annotation=LabelImage(label, unlabelled))


def _channels_as_planes(label: Volume) -> Volume:
    """Return the volume whose planes were saved as channels, as napari does under the name ``.ome.tif``."""

    def reader(region: Region) -> Array:
        (z0, y0, x0), (z1, y1, x1) = region.start, region.stop
        return label.read(Region((0, y0, x0), (1, y1, x1)))[None, z0:z1, 0]

    planes, _, height, width = label.shape
    return replace(
        label, reader=reader, shape=(1, planes, height, width), channels=(), spacing=None, levels=()
    )


def _source_intensity(entry: Entry) -> Intensity | None:
    """Return the intensity range of the volume that a crop was cut out of."""
    kept = entry.image.parent / RANGES
    if entry.offset is None or not kept.is_file():
        return None
    found = json.loads(kept.read_text(encoding="utf-8")).get(entry.group)
    return None if found is None else Intensity.parse(found, where=str(kept))


def read_points(path: Path) -> Array:
    """Return the (N, 3) array of a CSV whose header has ``z``, ``y`` and ``x`` (voxels, 0-based).

    Raises
    ------
    DataError
        If columns are missing or a value is no number.
    """
    rows = _rows(path)
    try:
        return np.array([[float(row[axis]) for axis in "zyx"] for _, row in rows], float).reshape(-1, 3)
    except KeyError as missing:
        raise DataError(f"{path}: no column {missing}; points need a header with z,y,x") from None
    except (TypeError, ValueError):
        raise DataError(f"{path}: a coordinate is no number; points need three numbers in z, y, x") from None


def stem_of(path: Path, suffixes: Iterable[str] | None = None) -> str | None:
    """Return a name without its image suffix (``"a.ome.tif"`` gives ``"a"``); ``None`` where it has none.

    Whoever asks very often hands over the suffixes, those of :func:`image_suffixes`.
    """
    lower = path.name.lower()
    known = image_suffixes() if suffixes is None else suffixes
    ending = max((s for s in known if lower.endswith(s)), key=len, default=None)
    if ending is None or len(ending) == len(lower):
        return None
    stem = path.name[: -len(ending)]
    return stem[:-4] if stem.lower().endswith(".ome") else stem


def image_suffixes() -> set[str]:
    """Return the suffixes of all formats."""
    found: set[str] = set()
    for name in registry.names("formats"):
        found.update(registry.find("formats", name).suffixes)
    return found


def _expected(kind: Kind) -> str:
    if kind == "class":
        return "a CSV with the columns image,label,group,split"
    return (
        f"a folder with images/ and {FOLDERS[kind]}/, a folder with STEM.tif and STEM{ENDINGS[kind]}.tif, "
        "or a CSV with the columns image,label,group,split"
    )


def an(kind: Kind) -> str:
    """Return a kind of annotations with its article."""
    return f"an {kind}" if kind == "image" else f"a {kind}"


def _wanted(kind: Kind) -> str:
    return f"{an(kind)}; a dataset is {_expected(kind)}"


def _images(folder: Path, pattern: str = "*") -> dict[str, Path]:
    """Return the images of a folder by stem, in the order of their names."""
    found: dict[str, Path] = {}
    for path in sorted(folder.glob(pattern)):
        stem = None if path.name.startswith(".") else stem_of(path)
        if stem is None:
            continue
        if stem in found:
            raise DataError(f"{path}: has the same stem as {found[stem].name}; keep one of them")
        found[stem] = path
    return found


def _annotations(folder: Path, kind: Kind) -> dict[str, Path]:
    if kind == "points":
        return {path.stem: path for path in sorted(folder.glob("*.csv"))}
    return _images(folder)


def _from_folders(path: Path, kind: Kind) -> list[Entry]:
    folder = path / FOLDERS[kind]
    if not folder.is_dir():
        other = next((k for k, name in FOLDERS.items() if (path / name).is_dir()), None)
        hint = f"; it has {FOLDERS[other]}/: a task for these, or check --kind {other}" if other else ""
        raise DataError(f"{path}: has images/ but no {FOLDERS[kind]}/{hint}")
    images, labels = _images(path / "images"), _annotations(folder, kind)
    return _paired(images, labels, folder)


def _from_stems(folder: Path, pattern: str, kind: Kind) -> list[Entry]:
    ending = ENDINGS[kind]
    labels = {
        stem.removesuffix(ending): path
        for stem, path in _annotations(folder, kind).items()
        if stem.endswith(ending)
    }
    images = {
        stem: path
        for stem, path in _images(folder, pattern).items()
        if not stem.endswith(tuple(ENDINGS.values()))
    }
    if not images:
        raise DataError(f"{folder / pattern}: no images there; a dataset is {_expected(kind)}")
    if pattern != "*":
        labels = {stem: label for stem, label in labels.items() if stem in images}
    return _paired(images, labels, folder)


def _paired(images: dict[str, Path], labels: dict[str, Path], folder: Path) -> list[Entry]:
    for stem, label in labels.items():
        if stem not in images:
            raise DataError(f"{label}: no image is called '{stem}'; {nearest(stem, images)}")
    if not images:
        raise DataError(f"{folder.parent / 'images'}: no images there")
    return [Entry(stem, image, labels.get(stem), _CROP.sub("", stem)) for stem, image in images.items()]


def _rows(path: Path) -> list[tuple[int, dict[str, str]]]:
    """Return the lines of a CSV below its header with their numbers, leaving out empty ones."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({(error.strerror or str(error)).lower()})") from None
    except UnicodeDecodeError:
        raise DataError(f"{path}: no text; save it as CSV (UTF-8)") from None
    reader = csv.DictReader(text.splitlines())
    rows = []
    for row in reader:
        if None in row or None in row.values():
            raise DataError(
                f"{path}, line {reader.line_num}: not as many fields as the header; quote fields with commas"
            )
        fields = {key.strip().lower(): value.strip() for key, value in row.items()}
        if any(fields.values()):
            rows.append((reader.line_num, fields))
    return rows


def _from_table(path: Path, kind: Kind) -> list[Entry]:
    rows = _rows(path)
    if not rows:
        raise DataError(f"{path}: no lines below a header; expected the columns image,label,group,split")
    if "image" not in rows[0][1]:
        apart = " separated by commas, not ';'" if any(";" in column for column in rows[0][1]) else ""
        raise DataError(f"{path}: no column 'image'; expected the columns image,label,group,split{apart}")
    for column in rows[0][1]:
        if column not in COLUMNS:
            raise DataError(f"{path}: unknown column '{column}'; {nearest(column, COLUMNS)}")
    return [_from_row(path, f"{path}, line {number}", row, kind) for number, row in rows]


def _from_row(path: Path, where: str, row: dict[str, str], kind: Kind) -> Entry:
    image = path.parent / row["image"]
    if not row["image"] or not image.exists():
        raise DataError(f"{where}: image '{row['image']}' is not there; paths are relative to the CSV")
    label: Path | str | None = row.get("label") or None
    if label is not None and kind != "class":
        label = path.parent / label
        if not label.exists():
            raise DataError(f"{where}: label '{row['label']}' is not there; paths are relative to the CSV")
    split = row.get("split", "").lower() or None
    if split is not None and split not in SPLITS:
        raise DataError(f"{where}: split '{split}'; {nearest(split, SPLITS)}")
    stem = stem_of(image) or image.stem
    try:
        unlabelled = int(row["unlabelled"]) if row.get("unlabelled") else None
        sizes = (
            [float(word) for word in re.split(r"[\s,;x×]+", row["spacing"])] if row.get("spacing") else None
        )
        places = [int(row[axis]) for axis in "zyx"] if all(row.get(axis) for axis in "zyx") else None
    except ValueError as error:
        raise DataError(f"{where}: {error}") from None
    if sizes is not None and (len(sizes) != 3 or min(sizes) <= 0):
        raise DataError(f"{where}: spacing '{row['spacing']}' is not three positive numbers in µm: z y x")
    return Entry(
        name=stem,
        image=image,
        label=label,
        group=row.get("group") or _CROP.sub("", stem),
        split=split,
        unlabelled=unlabelled,
        region=row.get("region") or None,
        spacing=None if sizes is None else (sizes[0], sizes[1], sizes[2]),
        offset=None if places is None else (places[0], places[1], places[2]),
    )
