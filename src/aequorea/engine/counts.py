"""From the units of a normalised image back to the counts of what was read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from aequorea.signal.intensity import Intensity
from aequorea.volume import Array, Region, Volume


def is_counted(task: Any) -> bool:
    """Whether a task answers in the counts of the image: it restores."""
    return bool(getattr(task, "in_counts", False))


def counted_type(dtype: Any) -> np.dtype[Any]:
    """Return the type of a restored image: the image's own if that is of whole numbers, else float32."""
    return np.dtype(dtype).newbyteorder("=") if np.dtype(dtype).kind in "iu" else np.dtype(np.float32)


def counter(intensity: Intensity, channels: int, dtype: Any) -> Callable[[Tensor], Tensor]:
    """Return the function that gives counts (float32) of output_BKZYX in the units of a normalised image.

    Parameters
    ----------
    intensity
        By which the image was normalised; further channels are in the units of its last one.
    channels
        Of the output.
    dtype
        Of the image: for whole numbers, counts are whole and within what the type holds.
    """
    kind = counted_type(dtype)
    known = intensity.channels
    about = [known[min(i, len(known) - 1)] for i in range(channels)]
    span = torch.tensor([one.high - one.low for one in about], dtype=torch.float64).view(1, -1, 1, 1, 1)
    low = torch.tensor([one.low for one in about], dtype=torch.float64).view(1, -1, 1, 1, 1)
    least, most = -np.inf, np.inf
    if kind.kind in "iu":
        limits = np.iinfo(kind)
        # The largest float32 that is no larger than a limit of 32 bits or more, which float32 has not.
        most = float(np.nextafter(np.float32(limits.max), np.float32(0))) if kind.itemsize > 2 else limits.max
        least = limits.min

    def counts(output: Tensor) -> Tensor:
        span_here, low_here = (t.to(output.device, torch.float32) for t in (span, low))
        out = output.to(torch.float32) * span_here + low_here
        if kind.kind == "f":
            return out
        return torch.nan_to_num(out).round_().clamp_(least, most)

    return counts


def in_counts(dense: Volume, intensity: Intensity, dtype: Any) -> Volume:
    """Return the lazy volume of a restored image in counts and type of what it was made of; see :func:`counter`.

    Parameters
    ----------
    dense
        In the units of a normalised image.
    intensity, dtype
        Of the image.
    """
    kind = counted_type(dtype)
    counts = counter(intensity, dense.shape[0], kind)

    def reader(region: Region) -> Array:
        block = torch.from_numpy(np.ascontiguousarray(dense.read(region), np.float32))
        out: Array = counts(block[None])[0].numpy().astype(kind)
        return out

    return replace(dense, reader=reader, dtype=kind, levels=())
