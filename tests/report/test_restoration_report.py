from io import BytesIO

import numpy as np
import pytest
from PIL import Image

import denoise_pairs
from aequorea.report.pictures import cut
from aequorea.report.restoration import residual_picture
from aequorea.scores.restoration import restoration_scores
from aequorea.signal.restore import Classical
from aequorea.volume import from_array


def opened(png):
    return np.asarray(Image.open(BytesIO(png)).convert("RGB")).astype(int)


def coloured(picture):
    return np.ptp(picture, axis=2) > 40


@pytest.mark.parametrize("size", [(1, 40, 60), (9, 40, 60), (5, 80, 20)])
@pytest.mark.parametrize("spacing", [None, (0.9, 0.3, 0.3)])
def test_residuals_are_coloured_where_they_are(rng, size, spacing):
    truth = rng.random(size) * 100
    found = truth.copy()
    found[:, : size[1] // 2] += 40
    given = truth[:, ::2, ::2]
    scores = restoration_scores(from_array(found), from_array(truth))
    at, other = tuple(n // 2 for n in size), tuple(n // 2 for n in given.shape)
    planes = [cut(from_array(x), at) for x in (found, truth)]
    png = residual_picture(cut(from_array(given), other), *planes, spacing, scores, width=800)
    picture = opened(png)
    assert picture.shape[1] == 800
    # The last column of planes alone has colours, but for the scale beside it.
    assert not coloured(picture[:, : int(800 * 0.69)]).any()
    assert coloured(picture[:, int(800 * 0.72) : 720]).mean() > 0.05


def test_constant_and_perfect_images_are_drawn():
    image = from_array(np.full((3, 12, 12), 5.0))
    scores = restoration_scores(image, image)
    planes = cut(image, (1, 6, 6))
    assert opened(residual_picture(planes, planes, planes, None, scores)).shape[1] == 1280


def test_real_pair_is_drawn(real_data):
    row = denoise_pairs.rows(real_data)[12]
    noisy, clean = denoise_pairs.pair(real_data, row)
    found = Classical("gaussian", {"sigma": 1.3}).predict(noisy)
    scores = restoration_scores(from_array(found), from_array(clean), fit=True)
    png = residual_picture(*(cut(from_array(x), (0, 9, 9)) for x in (noisy, found, clean)), None, scores)
    assert opened(png).shape[0] > 300
