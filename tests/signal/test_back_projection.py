import numpy as np
import pytest
import tifffile
from scipy import ndimage

from aequorea.errors import DataError
from aequorea.signal.back_projection import Rays, back_projected
from aequorea.signal.light_field import views
from aequorea.signal.restore import Classical


def test_views_are_pixels_under_the_lenslets(rng):
    field = rng.random((12, 20))
    found = views(field, 4)
    assert found.shape == (16, 3, 5)
    assert np.array_equal(found[4 * 2 + 3], field[2::4, 3::4])
    with pytest.raises(DataError, match="cut it to multiples"):
        views(field, 5)


def test_whole_shifts_are_rolls():
    volume = np.zeros((3, 17, 19), np.float32)
    volume[2, 8, 9] = 30
    seen = Rays.of((9, 17, 19), 3, 2.0).forward(volume)
    assert np.unravel_index(seen[0].argmax(), (17, 19)) == (6, 7)
    assert np.unravel_index(seen[5].argmax(), (17, 19)) == (8, 11)
    assert seen.max(axis=(1, 2)) == pytest.approx(np.full(9, 10.0), rel=1e-4)


@pytest.mark.parametrize("iterations", [0, 10])
def test_points_are_focused_where_they_are(iterations):
    volume = np.zeros((7, 31, 33), np.float32)
    volume[1, 10, 12], volume[5, 20, 22] = 100, 100
    volume = ndimage.gaussian_filter(volume, (0, 1, 1))
    seen = Rays.of((25, 31, 33), 7, 0.8).forward(volume)
    found = back_projected(seen, planes=7, step=0.8, iterations=iterations)
    near = found[:, :15, :17]
    assert np.unravel_index(near.argmax(), near.shape) == (1, 10, 12)
    assert np.unravel_index(found[:, 16:, 17:].argmax(), found[:, 16:, 17:].shape) == (5, 4, 5)


def test_steps_sharpen(rng):
    volume = ndimage.gaussian_filter((rng.random((7, 30, 30)) > 0.995).astype(np.float32), (0, 1, 1))
    seen = Rays.of((25, 30, 30), 7, 0.8).forward(volume)
    plain, steps = (
        np.corrcoef(back_projected(seen, planes=7, step=0.8, iterations=n).ravel(), volume.ravel())[0, 1]
        for n in (0, 20)
    )
    assert steps > plain + 0.1


def test_constants_stay_and_factors_enlarge():
    found = back_projected(np.full((9, 8, 10), 4.0), planes=5, step=0.5, factor=2, iterations=2)
    assert found == pytest.approx(np.full((5, 16, 20), 4.0), rel=1e-3)


def test_views_must_be_a_square():
    with pytest.raises(DataError, match="no square"):
        back_projected(np.zeros((8, 5, 5)))


def test_real_vessels_are_seen_in_their_planes(real_data):
    folder = real_data / "bench_only" / "light_field"
    field = tifffile.imread(folder / "mouse_lightfield.tif").astype(np.float32)
    # The publishers' volume is a square root of their wave-optics deconvolution of this light field.
    wave_optics = tifffile.imread(folder / "mouse_deconvolved.tif").astype(np.float32) ** 2
    reference = ndimage.zoom(
        wave_optics, (21 / 63, 39 / 111, 39 / 114), order=1, mode="nearest", grid_mode=True
    )
    some = views(field, 33).reshape(33, 33, 39, 39)[4:29:3, 4:29:3].reshape(81, 39, 39)
    like = {}
    for step, iterations in ((-0.2, 0), (-0.2, 5), (0.2, 5)):
        found = back_projected(some, planes=21, step=step, iterations=iterations)
        like[step, iterations] = np.corrcoef(found.ravel(), reference.ravel())[0, 1]
    assert like[-0.2, 5] > like[-0.2, 0] + 0.1 > like[0.2, 5] + 0.2


def test_light_fields_need_not_be_cut_before(rng):
    field = rng.random((12, 20))
    method = Classical("back_projection", {"planes": 3, "side": 4})
    expected = Classical("back_projection", {"planes": 3}).predict(views(field, 4))
    assert np.array_equal(method.predict(field), expected)
