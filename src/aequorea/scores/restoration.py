"""Scores of a restored volume against the truth: PSNR, SSIM, MS-SSIM, NRMSE, each defined once.

All voxels count that the truth knows (finite, and inside the mask where one is given), never chosen planes, and
the range of intensities comes from the truth alone. Either the found intensities are taken as they are, or first
fitted to the truth by least squares, truth ≈ a·found + b, as Weigert et al. (2018), Nature Methods 15, do where
absolute intensity was lost; say which with the numbers, since the fit never lowers the PSNR.

=============  ================================================================================================
range          99.9 minus 0.1 percentile of the truth's voxels; maximum minus minimum where those coincide
psnr           20 log10(range / RMSE), dB; infinite where nothing differs
nrmse          RMSE / range
correlation    Pearson's, of intensities; NaN where one side is constant
ssim           mean structural similarity of xy planes (:mod:`aequorea.scores.similarity`)
ssim_3d        the same with windows of three axes, where z has at least 11 planes
ms_ssim        multi-scale SSIM of xy planes, where y and x have at least 176 pixels
=============  ================================================================================================

A truth without contrast has no scores but the correlation's NaN and a perfect result's infinite PSNR. Sums are
merged over blocks by the formulas of Chan, Golub and LeVeque (1979), so volumes may be larger than memory.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from aequorea.errors import DataError
from aequorea.scores import similarity
from aequorea.volume import Array, Region, Triple, Volume, from_array

Span = Literal["percentiles", "extremes"]

PERCENTILES = (0.1, 99.9)
"""Of the truth's voxels: the ends of its range."""
BLOCK: Triple = (32, 256, 256)
KEPT_VOXELS = 1 << 26
"""Up to this size a volume is read once and kept; larger ones are read again for every pass."""
_DIGITS = 1 << 16
_SIGN = np.uint64(1 << 63)

Blocks = Callable[[], Iterator[tuple[Array, Array]]]


@dataclass(frozen=True)
class Fit:
    """The line that maps found intensities to those of the truth: ``gain * found + offset``."""

    gain: float = 1.0
    offset: float = 0.0

    def __call__(self, found: Array) -> Array:
        """Return intensities (float64) on the truth's scale."""
        return self.gain * np.asarray(found, np.float64) + self.offset


@dataclass(frozen=True)
class Moments:
    """Number of voxels, means, and sums of centred products of found (x) and true (t) intensities."""

    n: int = 0
    x: float = 0.0
    t: float = 0.0
    xx: float = 0.0
    xt: float = 0.0
    tt: float = 0.0
    low: float = math.inf
    high: float = -math.inf

    @classmethod
    def of(cls, x: Array, t: Array) -> Moments:
        """Return the moments of paired values, (N,) each."""
        if not x.size:
            return cls()
        dx, dt = x - x.mean(), t - t.mean()
        return cls(
            x.size, float(x.mean()), float(t.mean()),
            float(dx @ dx), float(dx @ dt), float(dt @ dt), float(t.min()), float(t.max()),
        )  # fmt: skip

    def __add__(self, other: Moments) -> Moments:
        n = self.n + other.n
        if not n:
            return self
        dx, dt, part = other.x - self.x, other.t - self.t, other.n / n
        weight = self.n * part
        return Moments(
            n,
            self.x + dx * part,
            self.t + dt * part,
            self.xx + other.xx + dx * dx * weight,
            self.xt + other.xt + dx * dt * weight,
            self.tt + other.tt + dt * dt * weight,
            min(self.low, other.low),
            max(self.high, other.high),
        )

    @property
    def fit(self) -> Fit:
        """The line of least squares; a constant image is mapped to the truth's mean."""
        gain = self.xt / self.xx if self.xx > 0 else 0.0
        return Fit(gain, self.t - gain * self.x)

    @property
    def correlation(self) -> float:
        """Pearson's; NaN where one side is constant."""
        if self.xx <= 0 or self.tt <= 0:
            return float("nan")
        return float(np.clip(self.xt / math.sqrt(self.xx) / math.sqrt(self.tt), -1, 1))


def restoration_scores(
    found: Volume,
    truth: Volume,
    *,
    fit: bool = False,
    span: Span = "percentiles",
    counts: Volume | None = None,
) -> dict[str, float]:
    """Score a restored volume, read block by block.

    Parameters
    ----------
    found, truth
        Of one shape (channels, z, y, x). Voxels of the truth that are no numbers do not count.
    fit
        Whether found intensities are first fitted to the truth by least squares.
    span
        Range of the truth: between its percentiles, or between its extremes.
    counts
        One channel on the same grid: voxels where it is not 0 count; default: all.

    Returns
    -------
    dict
        ``psnr``, ``nrmse``, ``correlation``, ``ssim``, ``ssim_3d``, ``ms_ssim`` (those that the size allows) and
        what they rest on: ``range``, ``gain``, ``offset``, ``voxels``. With several channels each name is followed
        by ``.channel``, and the plain name is the mean over channels.

    Raises
    ------
    DataError
        If shapes differ, no voxel counts, or the result holds values that are no numbers where the truth is known.
    """
    if found.shape != truth.shape:
        raise DataError(
            f"{found.name}: a result of {found.shape} voxels (c, z, y, x) cannot be compared with a truth of "
            f"{truth.shape}; give the truth that belongs to this image"
        )
    if counts is not None and counts.size != truth.size:
        raise DataError(f"{counts.name}: a mask of {counts.size} voxels does not fit a truth of {truth.size}")
    found, truth = _kept(found), _kept(truth)
    names = truth.channels
    per_channel = [
        _Channel(found.pick([i]), truth.pick([i]), counts).scores(fit, span) for i in range(len(names))
    ]
    if len(names) == 1:
        return per_channel[0]
    scores = {name: float(np.mean([one[name] for one in per_channel])) for name in per_channel[0]}
    for channel, one in zip(names, per_channel):
        scores |= {f"{name}.{channel}": value for name, value in one.items()}
    return scores


def psnr(found: Array, truth: Array, *, fit: bool = False, span: Span = "percentiles") -> float:
    """Return the peak signal-to-noise ratio (dB) of arrays Y X or Z Y X; see :func:`restoration_scores`."""
    channel = _of_arrays(found, truth)
    moments = channel.moments()
    return _psnr(channel.rmse(moments.fit if fit else Fit()), channel.range(moments, span))


def nrmse(found: Array, truth: Array, *, fit: bool = False, span: Span = "percentiles") -> float:
    """Return RMSE / range of arrays Y X or Z Y X; see :func:`restoration_scores`."""
    channel = _of_arrays(found, truth)
    moments = channel.moments()
    return _ratio(channel.rmse(moments.fit if fit else Fit()), channel.range(moments, span))


def fitted(found: Array, truth: Array) -> Fit:
    """Return the line of least squares that maps found intensities to the truth's; arrays Y X or Z Y X."""
    return _of_arrays(found, truth).moments().fit


def intensity_range(truth: Array, span: Span = "percentiles") -> float:
    """Return the range of a truth, Y X or Z Y X: between its percentiles or extremes."""
    channel = _of_arrays(truth, truth)
    return channel.range(channel.moments(), span)


@dataclass(frozen=True)
class _Channel:
    """One channel of a result and its truth; every number is a pass over blocks."""

    found: Volume
    truth: Volume
    counts: Volume | None = None

    def read(self, region: Region) -> tuple[Array, Array, Array]:
        """Return found and true intensities (float64) and what counts (bool), axes Z Y X; 0 where nothing does."""
        t = self.truth.read(region)[0].astype(np.float64)
        x = self.found.read(region)[0].astype(np.float64)
        known = np.isfinite(t)
        if self.counts is not None:
            known &= self.counts.read(region)[0] != 0
        wrong = np.count_nonzero(known & ~np.isfinite(x))
        if wrong:
            raise DataError(
                f"{self.found.name}: {wrong} voxels of {region} are NaN or infinite where the truth is known; "
                "mend the result, or give a mask of what counts"
            )
        return np.where(known, x, 0.0), np.where(known, t, 0.0), known

    def pairs(self) -> Iterator[tuple[Array, Array]]:
        """Yield found and true intensities of the voxels that count, (N,) each."""
        for region in self.truth.region.split(BLOCK):
            x, t, known = self.read(region)
            yield x[known], t[known]

    def moments(self) -> Moments:
        total = Moments()
        for x, t in self.pairs():
            total += Moments.of(x, t)
        if not total.n:
            raise DataError(
                f"{self.truth.name}: no voxel of the truth counts; look at its values and the mask"
            )
        return total

    def range(self, moments: Moments, span: Span) -> float:
        if span == "percentiles":
            low, high = percentiles(self.pairs, PERCENTILES, moments.n)
            if high > low:
                return high - low
        elif span != "extremes":
            raise DataError(f"span '{span}' is not known; say 'percentiles' or 'extremes'")
        return moments.high - moments.low

    def rmse(self, fit: Fit) -> float:
        # The residual itself, and not from moments, of which a good fit would leave only rounding errors.
        total, n = 0.0, 0
        for x, t in self.pairs():
            residual = fit(x) - t
            total, n = total + float(residual @ residual), n + x.size
        return math.sqrt(total / n)

    def scores(self, fit: bool, span: Span) -> dict[str, float]:
        moments = self.moments()
        line = moments.fit if fit else Fit()
        data_range = self.range(moments, span)
        rmse = self.rmse(line)

        def read(region: Region) -> tuple[Array, Array, Array]:
            x, t, known = self.read(region)
            return np.where(known, line(x), 0.0), t, known

        return {
            "psnr": _psnr(rmse, data_range),
            "nrmse": _ratio(rmse, data_range),
            "correlation": moments.correlation,
            **similarity.similarities(read, self.truth.size, data_range),
            "range": data_range,
            "gain": line.gain,
            "offset": line.offset,
            "voxels": float(moments.n),
        }


def percentiles(blocks: Blocks, shares: Sequence[float], n: int) -> list[float]:
    """Return exact percentiles (interpolated linearly) of true intensities that come in blocks.

    Selection by digits: the bits of a float, put in ascending order, are counted 16 at a time, so that four
    passes find any rank with counts alone, however the values are spread.

    Parameters
    ----------
    blocks
        Called for each pass; yields found and true intensities, (N,) each.
    shares
        Percentiles, 0 to 100.
    n
        Number of values.
    """
    place = [share / 100 * (n - 1) for share in shares]
    ranks = {rank for p in place for rank in (math.floor(p), min(math.floor(p) + 1, n - 1))}
    prefix, rest = dict.fromkeys(ranks, 0), {rank: rank for rank in ranks}
    for shift in (48, 32, 16, 0):
        digits = {begun: np.zeros(_DIGITS, np.int64) for begun in set(prefix.values())}
        for _, t in blocks():
            key = _ascending(t)
            for begun, number in digits.items():
                own = key if shift == 48 else key[key >> np.uint64(shift + 16) == begun]
                digit = (own >> np.uint64(shift)) % np.uint64(_DIGITS)
                number += np.bincount(digit.astype(np.int64), minlength=_DIGITS)
        for rank in ranks:
            number = digits[prefix[rank]]
            below = np.cumsum(number)
            digit = int(np.searchsorted(below, rest[rank], side="right"))
            rest[rank] -= int(below[digit] - number[digit])
            prefix[rank] = prefix[rank] * _DIGITS + digit
    values = {rank: _value(key) for rank, key in prefix.items()}
    found = []
    for p in place:
        low, high = values[math.floor(p)], values[min(math.floor(p) + 1, n - 1)]
        found.append(low + (p - math.floor(p)) * (high - low))
    return found


def _ascending(values: Array) -> Array:
    """Return float64 values as uint64 of the same order."""
    bits = (values + 0.0).view(np.uint64)  # adding 0 makes -0.0 and 0.0 one value
    return np.where(bits >> np.uint64(63) == 1, ~bits, bits | _SIGN)


def _value(key: int) -> float:
    """Return the value of a number of :func:`_ascending`."""
    bits = np.uint64(key)
    return float((bits ^ _SIGN if bits & _SIGN else ~bits).view(np.float64))


def _of_arrays(found: Array, truth: Array) -> _Channel:
    if np.shape(found) != np.shape(truth):
        raise DataError(
            f"images of different shapes cannot be compared: {np.shape(found)}, {np.shape(truth)}"
        )
    if np.ndim(truth) not in (2, 3):
        raise DataError(f"{np.ndim(truth)} axes where Y X or Z Y X are expected")
    return _Channel(from_array(np.asarray(found), name="found"), from_array(np.asarray(truth), name="truth"))


def _kept(volume: Volume) -> Volume:
    if int(np.prod(volume.shape)) > KEPT_VOXELS:
        return volume
    whole: Any = volume.read()
    return from_array(whole, volume.spacing, volume.channels, volume.name)


def _ratio(rmse: float, data_range: float) -> float:
    return rmse / data_range if data_range > 0 else float("nan")


def _psnr(rmse: float, data_range: float) -> float:
    if rmse == 0:
        return math.inf
    return 20 * math.log10(data_range / rmse) if data_range > 0 else float("nan")
