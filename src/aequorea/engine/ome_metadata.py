"""What OME-Zarr 0.5 says about an image: axes, levels, units, channels, labels; built from yaozarrs' models.

https://ngff.openmicroscopy.org/0.5/
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
from yaozarrs import v05

from aequorea.signal.pyramid import Reduction
from aequorea.volume import Spacing, Triple

COLOURS = ("FFFFFF", "00FF00", "FF00FF", "00FFFF", "FFFF00", "FF0000", "0000FF")


def image(
    name: str,
    paths: Sequence[str],
    factors: Sequence[Triple],
    spacing: Spacing | None,
    *,
    how: Reduction,
    channels: tuple[str, ...] | None,
    dtype: np.dtype[Any],
    label: bool,
    origin: Spacing = (0.0, 0.0, 0.0),
) -> dict[str, Any]:
    """Return the ``ome`` attributes of a group that holds one image or label image.

    Parameters
    ----------
    name
        Shown by viewers.
    paths
        Arrays of the levels, relative to the group.
    factors
        By how much each level divides the finest, (z, y, x).
    spacing
        Voxel size in µm (z, y, x) of the finest level; where ``None``, scales count voxels and have no unit.
    how
        How levels were made. The centre of a mean lies further than that of the first voxel of its cell; this
        is written as a translation, so that levels overlay.
    channels
        Names; ``None`` for an image without a channel axis.
    dtype
        Of the voxels; decides the range that viewers show.
    label
        Whether the values are names of objects.
    origin
        Where the first voxel lies in the image that this is a part of, in the unit of the scales.
    """
    space = [{"name": n, "type": "space", **({"unit": "micrometer"} if spacing else {})} for n in "zyx"]
    front = [] if channels is None else [{"name": "c", "type": "channel"}]
    voxel = np.array(spacing or (1.0, 1.0, 1.0))
    datasets = []
    for path, factor in zip(paths, factors):
        moves: list[dict[str, Any]] = [
            {"type": "scale", "scale": [1.0] * len(front) + (voxel * factor).tolist()}
        ]
        offset = np.array(origin)
        if how != "nearest":
            offset = offset + voxel * (np.array(factor) - 1) / 2
        if offset.any():
            moves.append({"type": "translation", "translation": [0.0] * len(front) + offset.tolist()})
        datasets.append({"path": path, "coordinateTransformations": moves})
    words: dict[str, Any] = {
        "version": "0.5",
        "multiscales": [{"name": name, "axes": front + space, "datasets": datasets, "type": how}],
    }
    if label:
        words["image-label"] = {"version": "0.5", "source": {"image": "../../"}}
        return _checked(v05.LabelImage, words)
    if channels is not None:
        words["omero"] = {"channels": [_shown(i, name, dtype) for i, name in enumerate(channels)]}
    return _checked(v05.Image, words)


def labels(names: Sequence[str]) -> dict[str, Any]:
    """Return the ``ome`` attributes of the group that lists the label images."""
    return _checked(v05.LabelsGroup, {"version": "0.5", "labels": list(names)})


def group(**attributes: Any) -> bytes:
    """Return the ``zarr.json`` of a group with some attributes."""
    words = {"zarr_format": 3, "node_type": "group", "attributes": attributes}
    return (json.dumps(words, indent=1) + "\n").encode()


def _shown(index: int, name: str, dtype: np.dtype[Any]) -> dict[str, Any]:
    top = float(np.iinfo(dtype).max) if dtype.kind in "iu" else 1.0
    return {
        "label": name or f"channel {index}",
        "color": COLOURS[index % len(COLOURS)],
        "active": True,
        "window": {"min": 0.0, "start": 0.0, "end": top, "max": top},
    }


def _checked(model: Any, words: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = model.model_validate(words).model_dump(
        mode="json", by_alias=True, exclude_none=True
    )
    return found
