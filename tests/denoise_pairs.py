"""The real denoising pairs, as the rows of ``baselines_denoise.csv`` name them."""

import csv

import numpy as np
import tifffile
from skimage.io import imread

SIGMAS = (0.5, 0.7, 1, 1.3, 1.6, 2, 2.5, 3, 4, 5, 7)


def rows(folder, every=1):
    with (folder / "baselines_denoise.csv").open() as file:
        return list(csv.DictReader(file))[::every]


def pair(folder, row):
    """The noisy (float64) and the clean image, Y X."""
    place, name = folder / "bench_only" / row["source"], row["pair"]
    if row["source"] == "w2s":
        field, channel = name.split("_c")
        noisy, clean = (tifffile.imread(place / f"{field}_{n}.tif")[int(channel)] for n in ("avg1", "avg400"))
        return noisy.astype(np.float64), clean
    if row["source"] == "fmd":
        frames = tifffile.imread(place / f"{name}_noisy.tif")[: int(row["level"].removeprefix("avg"))]
        return frames.astype(np.float64).mean(axis=0), imread(place / f"{name}_clean.png")
    return imread(place / f"{name}_noisy.png").astype(np.float64), imread(place / f"{name}_clean.png")
