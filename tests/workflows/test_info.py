from __future__ import annotations

import json

import numpy as np
import pytest
import tifffile
import zarr

from aequorea.volume import Volume
from aequorea.workflows.info import info


def test_what_is_not_a_number_is_counted_apart():
    values = np.linspace(-5, 5, 10 * 20 * 30).reshape(10, 20, 30)
    values[0], values[1], values[2] = np.nan, np.inf, 0
    found = info(values, spacing=(2, 1, 1)).facts["intensity"][0]
    finite = values[np.isfinite(values)]
    assert found["low"] == finite.min()
    assert found["high"] == finite.max()
    assert found["median"] == pytest.approx(np.median(finite))
    assert found["nonfinite"] == pytest.approx(0.2)
    assert found["zero"] == pytest.approx(0.1)
    assert sum(found["counts"]) == finite.size


@pytest.mark.parametrize("fill", [0, 7, np.nan, np.inf])
def test_constant_and_empty_of_numbers(fill):
    found = info(np.full((3, 4, 5), fill))
    assert "intensity" in found.text
    json.dumps(found.facts, allow_nan=False)


def test_bool_and_negative():
    assert info(np.eye(8, dtype=bool)).facts["intensity"][0]["high"] == 1
    assert info(np.full((4, 5), -3, "i1")).facts["intensity"][0]["low"] == -3


def test_one_outlier_does_not_hide_the_rest():
    values = np.random.default_rng(0).integers(0, 100, (10, 50, 50)).astype("u2")
    values[0, 0, 0] = 60000
    found = info(values).facts["intensity"][0]
    assert found["high"] == 60000
    assert min(found["counts"]) > 0
    assert sum(found["counts"]) == values.size


def test_large_volumes_are_sampled(tmp_path):
    zarr.create_array(tmp_path / "a.zarr", shape=(10**5,) * 3, chunks=(64,) * 3, dtype="u2", fill_value=7)
    reads = []
    found = info(tmp_path / "a.zarr")
    assert found.facts["intensity"][0]["low"] == 7
    assert 0 < found.facts["read"] < 1e-6
    assert "spread over the volume" in found.text
    volume = Volume(
        lambda r: reads.append(r) or np.zeros((1, *r.size), "u1"), (1, 500, 1000, 1000), np.dtype("u1")
    )
    info(volume)
    assert sum(r.voxels for r in reads) <= 2**24


def test_time_points_and_scenes_are_counted(tmp_path):
    with tifffile.TiffWriter(tmp_path / "a.ome.tif", ome=True) as file:
        file.write(np.zeros((2, 5, 6, 7), "u1"), metadata={"axes": "TZYX", "Name": "first"})
        file.write(np.ones((4, 8, 9), "u1"), metadata={"axes": "ZYX", "Name": "second"})
    found = info(tmp_path / "a.ome.tif")
    assert found.facts["shape"] == [1, 5, 6, 7]
    assert "2: pick one with --time 0 to --time 1" in found.text
    assert "2: 0, 1; pick one with --scene" in found.text
    assert info(tmp_path / "a.ome.tif", scene=1).facts["shape"] == [1, 4, 8, 9]
