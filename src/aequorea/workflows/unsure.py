"""Where a model is unsure: the places whose labels would teach it most."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from aequorea.engine.predict import normalised, predict_whole
from aequorea.errors import DataError
from aequorea.model import Model
from aequorea.signal.intensity import measure
from aequorea.volume import Region, Volume


def unsureness(model: Model, volume: Volume) -> Callable[[Region], float]:
    """Return a function from a region to the mean variance of its predicted probabilities, 0 to 1.

    Parameters
    ----------
    model
        Of a task that stores probabilities in 8 bits.
    volume
        Not normalised; its intensity range is measured once, here.

    Raises
    ------
    DataError
        If the task stores no probabilities.
    """
    if model.task.dense_dtype != "uint8":
        raise DataError("this model gives no probabilities, so it cannot say where it is unsure")
    image = normalised(volume, measure(volume))

    def unsure(region: Region) -> float:
        dense = predict_whole(model.network, model.task, image.crop(region), model.spacing)
        p = dense.read()[0] / 255.0
        return float(np.mean(4 * p * (1 - p)))

    return unsure
