"""Where tiles lie, what each reads and what each keeps.

A core is a box of the body's grid whose output is kept; cores tile the grid from the volume's origin. Each is
computed with a halo, and what the halo gave is thrown away. With a halo of the network's reach the output is that
of one pass over the whole volume, to rounding: origins lie on multiples of the network's grid and borders of the
volume are borders of the tile, so every layer pads where it would have padded.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import product
from typing import Any, Literal

import numpy as np

from aequorea.layers.network import Network
from aequorea.volume import Array, Region, Spacing, Triple, Volume

CUT = 32
"""Multiple at which an axis is cut, for the chunks of the output."""


@dataclass(frozen=True)
class Tiling:
    """The geometry of one network on one image.

    Attributes
    ----------
    network
        Gives stem and head their say.
    size, spacing
        Of the image, in voxels and µm (z, y, x).
    halo
        Voxels of the body's grid that are computed beyond a core, on each side.
    """

    network: Network
    size: Triple
    spacing: Spacing | None
    halo: Triple

    @classmethod
    def of(
        cls,
        network: Network,
        size: Triple,
        spacing: Spacing | None,
        halo: Literal["default", "full"] | Triple = "default",
    ) -> Tiling:
        """Return the tiling with the default halo, that of the full reach, or a given one (voxels z, y, x)."""
        bare = cls(network, size, spacing, (0, 0, 0))
        reach, usual = network.sight(bare.body_spacing)
        if not isinstance(halo, str):
            margin: Any = halo
        elif reach is None:
            margin = bare.domain.size
        else:
            margin = reach if halo == "full" else usual
        return cls(network, size, spacing, (int(margin[0]), int(margin[1]), int(margin[2])))

    @property
    def domain(self) -> Region:
        """The body's grid."""
        size, _ = self.network.stem.domain(self.size, self.spacing)
        return Region.whole(size)

    @property
    def body_spacing(self) -> Spacing | None:
        """Spacing of the body's grid in µm."""
        spacing: Spacing | None = self.network.stem.domain(self.size, self.spacing)[1]
        return spacing

    @property
    def grid(self) -> Triple:
        """Multiples at which tiles may begin."""
        grid: Triple = self.network.backbone.layout(self.body_spacing).grid
        return grid

    @property
    def flat(self) -> int:
        """Planes that a tile weighs beside its own; none where it is one plane."""
        flat: int = self.network.backbone.layout(self.body_spacing).flat
        return flat if self.domain.size[0] > 1 else 0

    def computed(self, core: Region) -> Region:
        """Return the body region that is computed for a core."""
        return core.grow(self.halo).snap(self.grid).clip(self.domain)

    def reads(self, computed: Region) -> Region:
        """Return the region of the image that is read for a body region."""
        region: Region = self.network.stem.reads(computed, self.size)
        return region

    def read(self, image: Volume, computed: Region) -> Array:
        """Return what the stem is given for a body region: normalised voxels C Z Y X, NaN outside of the image."""
        wanted = self.reads(computed)
        inside = wanted.clip(image.region)
        block = image.read(inside)
        if inside == wanted:
            return block
        around = [(a.start - b.start, b.stop - a.stop) for a, b in zip(inside.slices, wanted.slices)]
        return np.pad(block, [(0, 0), *around], constant_values=np.nan)

    def output(self, region: Region) -> Region:
        """Return where the output of a body region lies."""
        out: Region = self.network.head.output_grid(region, self.body_spacing)[0]
        return out

    @property
    def output_size(self) -> Triple:
        """Voxels (z, y, x) of the whole output."""
        return self.output(self.domain).size

    @property
    def output_spacing(self) -> Spacing | None:
        """Spacing of the output in µm."""
        spacing: Spacing | None = self.network.head.output_grid(self.domain, self.body_spacing)[1]
        return spacing


def parts_of(core: Region, tiling: Tiling, budget: int) -> list[Region]:
    """Return the tiles that a core is computed in: itself, or parts that compute at most ``budget`` voxels."""
    if tiling.computed(core).voxels <= budget:
        return [core]
    size = choose_core(core.size, tiling.grid, tiling.halo, budget, step=1)
    return [part.shift(core.start) for part in Region.whole(core.size).split(size)]


def count_tiles(tiling: Tiling, covered: Region, core: Triple, budget: int) -> tuple[int, int]:
    """Return how many tiles cover a region, and the voxels that are computed for them, borders and halos included.

    Cores that lie alike are counted together, so that a volume without end takes no time.

    Parameters
    ----------
    tiling
        Network and geometry.
    covered
        Region of the body's grid.
    core
        Voxels (z, y, x) of a core; cores lie on a grid from the corner of ``covered``.
    budget
        Most voxels computed at once.
    """
    alike = []
    for a, b, step, halo, grid, n in zip(
        covered.start, covered.stop, core, tiling.halo, tiling.grid, tiling.domain.size
    ):
        far = halo + grid
        kinds: dict[tuple[int, ...], list[int]] = {}
        for start in range(a, b, step):
            stop = min(start + step, b)
            kind = (stop - start, min(start, far), min(n - stop, far), start % grid)
            kinds.setdefault(kind, [start, stop, 0])[2] += 1
        alike.append(list(kinds.values()))
    tiles = computed = 0
    for (za, zb, zn), (ya, yb, yn), (xa, xb, xn) in product(*alike):
        parts = parts_of(Region((za, ya, xa), (zb, yb, xb)), tiling, budget)
        tiles += zn * yn * xn * len(parts)
        computed += zn * yn * xn * sum(tiling.computed(part).voxels for part in parts)
    return tiles, computed


def choose_core(
    domain: Triple,
    grid: Triple,
    halo: Triple,
    budget: int,
    step: int = CUT,
    most: int | None = None,
    flat: int = 0,
) -> Triple:
    """Return the core (z, y, x) that computes fewest voxels per voxel kept.

    Parameters
    ----------
    domain
        Voxels of the body's grid.
    grid
        Cores are multiples of it.
    halo
        Voxels computed on each side.
    budget
        Most voxels that one tile may compute, halo included.
    step
        Cores are multiples of this too, for the chunks of the output; or span the whole axis.
    most
        Voxels that a core may have: what is written and decoded at once.
    flat
        Planes of the tile that count as computed beside; see :class:`aequorea.plugs.Layout`.
    """
    options = []
    for n, g in zip(domain, grid):
        unit = step * g // _gcd(step, g)
        whole = -(-n // g) * g
        options.append([*range(unit, min(whole, 1024), unit), whole])

    def cost(core: tuple[int, ...]) -> tuple[bool, float, int]:
        block: Triple = (core[0], core[1], core[2])
        computed, kept = worst_tile(block, domain, grid, halo)
        beside = flat * worst_plane(block, domain, grid, halo)
        over = computed + beside > budget or (most is not None and kept > most)
        return (over, computed if over else computed / kept, -kept)

    z, y, x = min(product(*options), key=cost)
    return z, y, x


def worst_tile(core: Triple, domain: Triple, grid: Triple, halo: Triple) -> tuple[int, int]:
    """Return how many voxels are computed and kept of a core that lies as far inside as the domain allows."""
    computed = kept = 1
    for c, h, g, n in zip(core, halo, grid, domain):
        margin = -(-h // g) * g
        computed *= min(c + 2 * margin, -(-n // g) * g)
        kept *= min(c, n)
    return computed, kept


def worst_plane(core: Triple, domain: Triple, grid: Triple, halo: Triple) -> int:
    """Return how many voxels each plane of that tile has."""
    return worst_tile((1, *core[1:]), (1, *domain[1:]), (1, *grid[1:]), (0, *halo[1:]))[0]


def part_of(shard: Triple, size: Triple, most: int) -> Triple:
    """Return a shard cut to a volume, or a part that tiles it and has at most so many voxels.

    Where the shard spans an axis any cut will do; elsewhere parts end where shards end.
    """
    block = [min(a, n) for a, n in zip(shard, size)]
    while math.prod(block) > most:
        axis = max(range(3), key=lambda i: block[i])
        n = block[axis]
        if shard[axis] >= size[axis]:
            unit = CUT if n > CUT else 1
            block[axis] = -(-n // (2 * unit)) * unit
        else:
            block[axis] = n // next(d for d in range(2, n + 1) if n % d == 0)
    return block[0], block[1], block[2]


def _gcd(a: int, b: int) -> int:
    while b:
        a, b = b, a % b
    return a
