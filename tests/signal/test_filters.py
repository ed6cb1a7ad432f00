"""The filter bank against SciPy and NumPy, and its laws."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from aequorea.signal import filters

SCALES = (0.7, 1.6, 3.5, 6.0)


def respond(image, multiples=SCALES, spacing=None):
    out = filters.respond(
        torch.as_tensor(np.ascontiguousarray(image), dtype=torch.float32), multiples, spacing
    )
    return dict(zip(filters.names(multiples), out.numpy()))


def oracle(image, sigma, spacing, truncate=filters.TRUNCATE):
    """The filters of one scale (µm) from SciPy's Gaussian, differences of a padded array, and LAPACK."""

    def smooth(x, length):
        voxels = [length / d for d in spacing]
        voxels = [s if s >= filters.SMALLEST else 0 for s in voxels]
        return ndimage.gaussian_filter(x, voxels, mode="nearest", truncate=truncate)

    def slope(x, axis):
        padded = np.pad(x, [(1, 1) if a == axis else (0, 0) for a in range(3)], mode="edge")
        return (
            ndimage.convolve1d(padded, [0.5, 0, -0.5], axis)[
                tuple(slice(1, -1) if a == axis else slice(None) for a in range(3))
            ]
            / spacing[axis]
        )

    def bend(x, i, j):
        if i != j:
            return slope(slope(x, i), j)
        padded = np.pad(x, [(1, 1) if a == i else (0, 0) for a in range(3)], mode="edge")
        return np.diff(padded, 2, axis=i) / spacing[i] ** 2

    image = image.astype(np.float64)
    blurred = smooth(image, sigma)
    hessian = (
        np.stack([np.stack([bend(blurred, i, j) for j in range(3)], -1) for i in range(3)], -1) * sigma**2
    )
    inner = smooth(image, filters.INNER * sigma)
    slopes = [filters.INNER * sigma * slope(inner, i) for i in range(3)]
    outer = np.sqrt(1 - filters.INNER**2) * sigma
    tensor = np.stack([np.stack([smooth(a * b, outer) for a in slopes], -1) for b in slopes], -1)
    return {
        "gaussian": blurred,
        "laplacian": np.trace(hessian, axis1=-2, axis2=-1),
        "gradient": sigma * np.sqrt(sum(slope(blurred, i) ** 2 for i in range(3))),
        **{f"hessian_{3 - k}": v for k, v in enumerate(np.moveaxis(np.linalg.eigvalsh(hessian), -1, 0))},
        **{f"structure_{3 - k}": v for k, v in enumerate(np.moveaxis(np.linalg.eigvalsh(tensor), -1, 0))},
    }


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (0.5, 0.2, 0.2), (3.0, 0.3, 0.3)])
@pytest.mark.parametrize("multiple", [0.7, 1.6])
def test_fine_scales_equal_an_independent_computation(rng, spacing, multiple):
    image = rng.random((9, 14, 11))
    found = respond(image, (multiple,), spacing)
    for name, wanted in oracle(image, multiple * min(spacing), spacing).items():
        assert np.allclose(found[f"{name} @ {multiple}"], wanted, atol=2e-6), name


def test_coarse_scales_are_near_the_filters_that_they_stand_for(rng):
    image = ndimage.gaussian_filter(rng.standard_normal((48, 52, 50)), 3)
    found, inside = respond(image), (slice(12, -12),) * 3
    for multiple, enough in ((3.5, 0.98), (6.0, 0.95)):
        for name, wanted in oracle(image, multiple, (1, 1, 1), truncate=6).items():
            pair = found[f"{name} @ {multiple:g}"][inside], wanted[inside]
            assert np.corrcoef(pair[0].ravel(), pair[1].ravel())[0, 1] > enough, name


@given(st.integers(0, 2**32 - 1), st.sampled_from([0.0, 1e-6, 1e-3, 1.0]), st.sampled_from([1e-9, 1.0, 1e6]))
@settings(max_examples=40, deadline=None)
def test_eigenvalues_equal_lapack_where_they_meet_too(seed, apart, size):
    rng = np.random.default_rng(seed)
    values = rng.standard_normal((64, 3)) * np.array([1, apart, apart]) + rng.integers(-1, 2, (64, 1))
    turn, _ = np.linalg.qr(rng.standard_normal((64, 3, 3)))
    matrix = (size * turn @ (values[:, :, None] * turn.transpose(0, 2, 1))).astype(np.float32)
    elements = [matrix[:, i, j] for i, j in ((0, 0), (1, 1), (2, 2), (0, 1), (0, 2), (1, 2))]
    out = torch.empty(3, 64)
    filters.eigenvalues([torch.from_numpy(np.ascontiguousarray(e)) for e in elements], out)
    wanted = np.linalg.eigvalsh(matrix.astype(np.float64))[:, ::-1].T
    assert np.abs(out.numpy() - wanted).max() < 3e-6 * size * max(1, np.abs(values).max())


def test_signs_tell_blob_tube_and_sheet():
    z, y, x = np.mgrid[-12:13, -12:13, -12:13]
    for shape, flat in ((z**2 + y**2 + x**2, 0), (y**2 + x**2, 1), (x**2, 2)):
        found = respond(np.exp(-shape / (2 * 2.0**2)), (1.6,))
        curved = [found[f"hessian_{i} @ 1.6"][12, 12, 12] for i in (1, 2, 3)]
        assert sum(v < -0.1 for v in curved) == 3 - flat
        assert sum(abs(v) < 0.01 for v in curved) == flat


def test_scales_are_lengths_in_micrometres():
    def ball(spacing):
        half = [int(20 / d) for d in spacing]
        z, y, x = (d * np.arange(-n, n + 1) for d, n in zip(spacing, half))
        image = np.exp(-(z[:, None, None] ** 2 + y[:, None] ** 2 + x**2) / (2 * 4.0**2))
        found = respond(image, spacing=spacing)
        return {name: found[name][tuple(half)] for name in found}

    fine, coarse = ball((1.0, 1.0, 1.0)), ball((2.0, 1.0, 1.0))
    for name in fine:
        assert coarse[name] == pytest.approx(fine[name], rel=0.15, abs=0.02), name
    in_voxels = ball((1.0, 1.0, 1.0))["hessian_3 @ 3.5"]
    assert in_voxels < -0.1


def test_units_of_length_do_not_matter(rng):
    image = rng.random((6, 20, 20))
    fine, coarse = respond(image, spacing=(0.4, 0.2, 0.2)), respond(image, spacing=(400.0, 200.0, 200.0))
    assert all(np.allclose(fine[name], coarse[name], atol=1e-5) for name in fine)


def test_axes_are_treated_alike(rng):
    image = rng.random((13, 18, 22))
    found, turned = respond(image), respond(image.transpose(2, 0, 1))
    assert all(np.allclose(found[n].transpose(2, 0, 1), turned[n], atol=1e-5) for n in found)


def test_a_plane_is_filtered_like_a_stack_of_itself(rng):
    plane = rng.random((1, 21, 30))
    alone, stack = respond(plane), respond(np.repeat(plane, 9, 0))
    assert all(np.allclose(alone[n][0], stack[n][4], atol=1e-5) for n in alone)
    assert max(np.abs(alone[n]).max() for n in alone if n.startswith("structure_3")) < 1e-6


@pytest.mark.parametrize("size", [(1, 1, 1), (1, 1, 5), (2, 3, 4), (5, 1, 2)])
def test_tiny_and_constant_images_are_finite(size):
    found = respond(np.full(size, 3.0))
    for name, response in found.items():
        assert response.shape == size
        level = 3.0 if name.startswith(("intensity", "gaussian")) else 0.0
        assert np.allclose(response, level, atol=1e-4), name


def test_blocks_of_long_lines_join(rng):
    line = rng.random((1, 1, 400))
    wanted = ndimage.gaussian_filter1d(line, 1.6, mode="nearest", truncate=filters.TRUNCATE)
    assert np.allclose(respond(line, (1.6,))["gaussian @ 1.6"], wanted, atol=1e-6)
