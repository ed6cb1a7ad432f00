"""The Gaussian fill: its formula, and widths that follow the anisotropy."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from aequorea.signal.fill import LITTLE, WIDTHS_XY, WIDTHS_Z, choose_widths, fill


@given(st.integers(0, 99), st.sampled_from(WIDTHS_Z), st.sampled_from(WIDTHS_XY))
def test_the_formula(seed: int, z: float, xy: float) -> None:
    """A voxel is the mean of the visible ones, weighted by a Gaussian: summed directly."""
    rng = np.random.default_rng(seed)
    image = rng.random((5, 7, 6)).astype(np.float32)
    hidden = rng.random(image.shape) < 0.6
    hidden[0, 0, 0] = False
    out = fill(image, hidden, (z, xy))
    assert np.array_equal(out[~hidden], image[~hidden])
    kernels = []
    for n, sigma in zip(image.shape, (z, xy, xy)):
        reach = int(3 * sigma + 0.5)
        line = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
        line /= line.sum()
        apart = np.subtract.outer(np.arange(n), np.arange(n))
        kernels.append(np.where(abs(apart) <= reach, line[np.clip(apart + reach, 0, 2 * reach)], 0))
    seen = ~hidden
    near = np.einsum("ai,bj,ck,ijk->abc", *kernels, seen.astype(float))
    total = np.einsum("ai,bj,ck,ijk->abc", *kernels, seen * image.astype(float))
    expected = (total + LITTLE * image[seen].mean()) / (near + LITTLE)
    assert np.allclose(out[hidden], expected[hidden], atol=1e-4)


def test_widths_follow_the_image() -> None:
    rng = np.random.default_rng(0)
    from scipy.ndimage import gaussian_filter

    field = gaussian_filter(rng.standard_normal((24, 48, 48)), (0.1, 4, 4))
    samples = [(field, rng.random(field.shape) < 0.6) for _ in range(2)]
    z, xy = choose_widths(samples)
    assert z <= 0.7 and xy >= 1.0
    turned = [(f.transpose(1, 0, 2), h.transpose(1, 0, 2)) for f, h in samples]
    assert choose_widths(turned) != (z, xy)


def test_a_plane_is_filled() -> None:
    image = np.arange(64, dtype=np.float32).reshape(1, 8, 8)
    hidden = np.zeros(image.shape, bool)
    hidden[0, 3:5, 3:5] = True
    assert abs(fill(image, hidden, (2.0, 1.0))[0, 3, 3] - image[0, 3, 3]) < 6
    assert choose_widths([(image, hidden)])[0] == WIDTHS_Z[0]
