"""Every real volume reads as its manifest says."""

from __future__ import annotations

import csv

import numpy as np
import tifffile

from aequorea.volume import Region
from aequorea.workflows.open import open


def test_manifest(real_data):
    with (real_data / "manifest_3d.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["path"].endswith(".tif")]
    assert len(rows) > 50
    for row in rows:
        volume = open(real_data / row["path"])
        shape = tuple(int(n) for n in row["shape"].split("x"))
        assert volume.shape == (shape if len(shape) == 4 else (1, *shape)), row["path"]
        assert str(volume.dtype) == row["dtype"], row["path"]
        told = [row[column] for column in ("spacing_um_z", "y", "x")]
        if all(told):
            np.testing.assert_allclose(
                volume.spacing, [float(s) for s in told], rtol=1e-4, err_msg=row["path"]
            )
        else:
            assert volume.spacing is None, row["path"]
        whole = tifffile.imread(real_data / row["path"]).reshape(volume.shape)
        middle = Region.at([n // 3 for n in volume.size], [max(1, n // 3) for n in volume.size])
        np.testing.assert_array_equal(volume.read(middle), whole[:, *middle.slices], err_msg=row["path"])
        np.testing.assert_array_equal(volume.read(), whole, err_msg=row["path"])
