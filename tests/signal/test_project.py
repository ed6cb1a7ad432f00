import numpy as np
import pytest
import tifffile
from scipy import ndimage

from aequorea.signal.project import at_surface, maximum, smooth_surface, surface_height


def membrane(rng):
    """A structured bent sheet of known height, 24 planes, with a bright haze off the surface."""
    y, x = np.mgrid[:120, :130]
    height = 8 + 5 * np.exp(-((y - 60) ** 2 + (x - 60) ** 2) / 2000)
    texture = np.clip(ndimage.gaussian_filter(rng.normal(size=y.shape), 1.5) * 8, 0, None)
    stack = texture * np.exp(-((np.arange(24)[:, None, None] - height) ** 2) / 1.5)
    haze = ndimage.gaussian_filter(rng.random(stack.shape), (1, 9, 9)) * 4
    haze[:16] = 0
    return height, texture, stack + haze


def test_surface_is_found_and_haze_left_out(rng):
    height, texture, hazy = membrane(rng)
    noisy = hazy + rng.normal(size=hazy.shape) * 0.05
    assert np.abs(surface_height(noisy, median=21, smooth=4) - height).mean() < 0.5
    found, plain = smooth_surface(noisy, median=21, smooth=4), maximum(noisy)
    assert found.shape == plain.shape == (1, 120, 130)
    one, other = (np.corrcoef(image.ravel(), texture.ravel())[0, 1] for image in (found, plain))
    assert one > 0.95 > other + 0.02


def test_planes_around_the_height(rng):
    stack = rng.random((5, 6, 7))
    assert at_surface(stack, np.full((6, 7), 2.2))[0] == pytest.approx(stack[1:4].max(axis=0))
    assert at_surface(stack, np.zeros((6, 7)), around=0)[0] == pytest.approx(stack[0])
    assert smooth_surface(stack[:1])[0] == pytest.approx(stack[0])


def test_reference_of_the_epithelium(real_data):
    folder = real_data / "bench_only" / "projection_epithelium"
    stack, height, projection = (
        tifffile.imread(folder / f"{name}.tif")
        for name in ("stack", "reference_height", "reference_projection")
    )
    assert np.abs(surface_height(stack) - height / 100).mean() < 0.1
    assert np.corrcoef(smooth_surface(stack).ravel(), projection.ravel())[0, 1] > 0.99
