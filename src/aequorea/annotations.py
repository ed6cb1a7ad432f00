"""What is known of a volume: labels, a target image, points, a class.

An annotation travels with its volume through splits and crops. It is positioned in µm by its own spacing, so that
a super-resolution target (finer grid) or cell centres need nothing special.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol, Self

import numpy as np

from aequorea.errors import DataError
from aequorea.volume import Array, Region, Spacing, Triple, Volume


class Annotation(Protocol):
    """Knowledge about a volume that can be cut with it."""

    @property
    def spacing(self) -> Spacing | None:
        """Voxel size in µm of the annotation's own grid; ``None`` where not known."""

    def crop(self, region: Region, size: Triple) -> Self:
        """Return what is known of ``region`` of the image, whose whole extent is ``size`` voxels."""

    def steps(self, size: Triple) -> Triple:
        """Return the voxels (z, y, x) of an image of ``size`` at whose multiples this can be cut.

        A step as long as the axis says that it cannot be cut along it.
        """


@dataclass(frozen=True)
class LabelImage:
    """A label of every voxel: class numbers or object numbers, on the image's grid or a multiple of it.

    Attributes
    ----------
    volume
        One channel of integers; 0 is background.
    unlabelled
        The value of voxels that nobody looked at; ``None`` where every voxel is labelled.
    """

    volume: Volume
    unlabelled: int | None = None

    @property
    def spacing(self) -> Spacing | None:
        """Voxel size in µm."""
        return self.volume.spacing

    def crop(self, region: Region, size: Triple) -> LabelImage:
        """Return the labels of a region of the image."""
        return replace(self, volume=self.volume.crop(scaled_region(region, size, self.volume.size)))

    def steps(self, size: Triple) -> Triple:
        """Return the voxels of the image that one voxel of the labels covers."""
        return _steps(size, self.volume.size)


@dataclass(frozen=True)
class TargetImage:
    """The image that a restoration should give, on its own grid (finer for super-resolution, Z = 1 for projection)."""

    volume: Volume

    @property
    def spacing(self) -> Spacing | None:
        """Voxel size in µm."""
        return self.volume.spacing

    def crop(self, region: Region, size: Triple) -> TargetImage:
        """Return the target of a region of the image."""
        return TargetImage(self.volume.crop(scaled_region(region, size, self.volume.size)))

    def steps(self, size: Triple) -> Triple:
        """Return the voxels of the image that one voxel of the target covers; all of a projected axis."""
        return _steps(size, self.volume.size)


@dataclass(frozen=True)
class Points:
    """Places, e.g. cell centres.

    Attributes
    ----------
    zyx
        (N, 3) array of z, y, x in voxels of the image (fractional, 0-based).
    size
        Voxels (z, y, x) of the image in which they were looked for.
    spacing
        Of the image in µm.
    """

    zyx: Array
    size: Triple
    spacing: Spacing | None = None

    def crop(self, region: Region, size: Triple) -> Points:
        """Return the points inside a region, in its coordinates."""
        low, high = np.asarray(region.start), np.asarray(region.stop)
        inside = np.all((self.zyx >= low - 0.5) & (self.zyx < high - 0.5), axis=1)
        return replace(self, zyx=self.zyx[inside] - low, size=region.size)

    def steps(self, size: Triple) -> Triple:
        """Return 1 along each axis."""
        return 1, 1, 1


@dataclass(frozen=True)
class ItemClass:
    """The class of a whole file or object."""

    name: str
    spacing: Spacing | None = None

    def crop(self, region: Region, size: Triple) -> ItemClass:
        """Return itself: a part is of the class of the whole."""
        return self

    def steps(self, size: Triple) -> Triple:
        """Return the whole: two parts of it are no two examples."""
        return size


def scaled_region(region: Region, size: Triple, own: Triple) -> Region:
    """Return the region on a grid of ``own`` voxels that covers ``region`` of a grid of ``size`` voxels.

    An axis that is covered as a whole, or has length 1 on the own grid (projection), is kept whole.

    Raises
    ------
    DataError
        If one grid is no whole multiple of the other along an axis.
    """
    start, stop = [], []
    for a, b, n, m in zip(region.start, region.stop, size, own):
        if m == 1 or (a, b) == (0, n):
            a, b = 0, m
        elif m % n == 0:
            a, b = a * (m // n), b * (m // n)
        elif n % m == 0 and a % (n // m) == 0 and b % (n // m) == 0:
            a, b = a // (n // m), b // (n // m)
        else:
            raise DataError(f"grids of {size} and {own} voxels (z, y, x) do not fit each other")
        start.append(a)
        stop.append(b)
    return Region((start[0], start[1], start[2]), (stop[0], stop[1], stop[2]))


def _steps(size: Triple, own: Triple) -> Triple:
    # Where a voxel of neither grid is a whole number of the other's, only the whole axis can be had of both.
    z, y, x = (n if m == 1 or (m % n and n % m) else max(1, n // m) for n, m in zip(size, own))
    return z, y, x
