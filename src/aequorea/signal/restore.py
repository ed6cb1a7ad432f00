"""The rivals of learned restoration: classical methods by name, with parameters chosen on training pairs.

Every table of restoration scores has them in it. Parameters come from a small grid, by the mean score over
training pairs; test images are never looked at. A chosen method is a small JSON file.
"""

from __future__ import annotations

import inspect
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from aequorea.errors import DataError, FormatError, nearest
from aequorea.signal.back_projection import back_projected
from aequorea.signal.deconvolve import lucy_by_gaussian, wiener_by_gaussian
from aequorea.signal.denoise import gaussian, non_local_means, total_variation
from aequorea.signal.interpolate import enlarged, isotropic
from aequorea.signal.project import maximum, smooth_surface
from aequorea.volume import Array, Spacing, Volume

Parameters = dict[str, Any]
Score = Callable[[Array, Array], float]
"""Of a found and a true array: larger is better."""


def identity(image: Array, spacing: Spacing | None = None) -> Array:
    """Return the image as it is: what doing nothing scores."""
    return np.array(image, np.float32)


@dataclass(frozen=True)
class Method:
    """A classical method: its function of a volume Z Y X and spacing, and the values tried of its parameters."""

    function: Callable[..., Array]
    grid: Mapping[str, Sequence[Any]] = field(default_factory=dict)

    @property
    def names(self) -> list[str]:
        """Parameters that the function takes."""
        return [
            p.name for p in inspect.signature(self.function).parameters.values() if p.kind == p.KEYWORD_ONLY
        ]

    @property
    def combinations(self) -> list[Parameters]:
        """Every point of the grid."""
        return [dict(zip(self.grid, values)) for values in product(*self.grid.values())]


METHODS: dict[str, Method] = {
    "identity": Method(identity),
    "gaussian": Method(gaussian, {"sigma": (0.5, 0.7, 1.0, 1.3, 1.6, 2.0, 2.5, 3.0, 4.0, 5.0, 7.0)}),
    "non_local_means": Method(non_local_means, {"strength": (0.6, 1.0, 1.5, 2.5, 4.0)}),
    "total_variation": Method(total_variation, {"strength": (0.3, 0.6, 1.0, 1.5, 2.5, 4.0, 6.0)}),
    "richardson_lucy": Method(
        lucy_by_gaussian, {"sigma": (1.0, 1.5, 2.0), "axial": (1.0, 3.0), "iterations": (5, 10, 20, 50)}
    ),
    "wiener": Method(
        wiener_by_gaussian, {"sigma": (1.0, 1.5, 2.0), "axial": (1.0, 3.0), "noise": (0.001, 0.01, 0.1)}
    ),
    "interpolation_z": Method(isotropic, {"order": (1, 3)}),
    "interpolation_yx": Method(enlarged, {"order": (1, 3)}),
    "maximum_projection": Method(maximum),
    "surface_projection": Method(
        smooth_surface, {"energy": (3.0, 5.0, 8.0), "median": (1, 21, 41), "around": (0, 1, 2)}
    ),
    "back_projection": Method(
        back_projected, {"step": (-0.2, -0.1, -0.05, -0.02, 0.02, 0.05, 0.1, 0.2), "iterations": (0, 5)}
    ),
}
"""Every classical method by name."""


@dataclass(frozen=True)
class Classical:
    """A classical method with its parameters.

    Attributes
    ----------
    name
        One of :data:`METHODS`.
    parameters
        Those that differ from the method's defaults.
    """

    name: str
    parameters: Parameters = field(default_factory=dict)

    def __post_init__(self) -> None:
        known = _method(self.name).names
        for parameter in self.parameters:
            if parameter not in known:
                raise DataError(f"{self.name} has no parameter '{parameter}'; {nearest(parameter, known)}")

    def predict(self, image: Array | Volume, spacing: Spacing | None = None) -> Array:
        """Return the restored image in the input's units, float32.

        Parameters
        ----------
        image
            Axes Y X, Z Y X or C Z Y X (each channel by itself), or a volume. Values that are no numbers are
            taken as the mean of the others.
        spacing
            Voxel size in µm; default: the volume's.

        Returns
        -------
        Array
            As many axes as the image has; of a volume, four.
        """
        if isinstance(image, Volume):
            return self.predict(image.read(), spacing or image.spacing)
        values = np.asarray(image, np.float32)
        if values.ndim not in (2, 3, 4):
            raise DataError(f"{values.ndim} axes where Y X, Z Y X or C Z Y X are expected")
        if values.ndim == 4:
            return np.stack([self.predict(channel, spacing) for channel in values])
        finite = np.isfinite(values)
        if not finite.all():
            values = np.where(finite, values, values[finite].mean() if finite.any() else 0)
        volume = values[None] if values.ndim == 2 else values
        restored = _method(self.name).function(volume, spacing, **self.parameters)
        return restored[0] if values.ndim == 2 and len(restored) == 1 else restored

    def save(self, path: str | Path) -> Path:
        """Write the method as JSON."""
        plain = {
            name: value.tolist() if isinstance(value, np.ndarray | np.generic) else value
            for name, value in self.parameters.items()
        }
        path = Path(path)
        path.write_text(json.dumps({"classical": self.name, "parameters": plain}, indent=1), encoding="utf-8")
        return path

    @classmethod
    def load(cls, path: str | Path) -> Classical:
        """Read a method that :meth:`save` wrote.

        Raises
        ------
        FormatError
            If the file is no such method.
        """
        try:
            data = json.loads(Path(path).read_text(encoding="utf-8"))
            name, parameters = data["classical"], dict(data["parameters"])
        except (ValueError, KeyError, TypeError):
            raise FormatError(f"{path}: no classical method; give a file that Classical.save wrote") from None
        return cls(name, parameters)


def choose(
    name: str,
    pairs: Sequence[tuple[Array, Array]],
    score: Score,
    *,
    spacing: Spacing | None = None,
    fixed: Mapping[str, Any] | None = None,
    grid: Mapping[str, Sequence[Any]] | None = None,
) -> Parameters:
    """Return the parameters with the highest mean score over training pairs; of equals, the first.

    Parameters
    ----------
    name
        One of :data:`METHODS`.
    pairs
        Input and truth of each training image, axes as in :meth:`Classical.predict`.
    score
        Of result and truth; larger is better. What is no number counts as the worst.
    spacing
        Voxel size in µm of all inputs.
    fixed
        Parameters that are not chosen, such as ``psf`` or ``factor``; they are part of what is returned.
    grid
        Values to try instead of the method's own, of some parameters.

    Raises
    ------
    DataError
        If there are no pairs, or the method or a parameter is not known.
    """
    if not pairs:
        raise DataError(f"{name}: parameters are chosen on training pairs; give at least one")
    fixed = dict(fixed or {})
    method = _method(name)
    values = {k: v for k, v in {**method.grid, **(grid or {})}.items() if k not in fixed}
    best: tuple[float, Parameters] | None = None
    for point in Method(method.function, values).combinations:
        candidate = Classical(name, {**fixed, **point})
        found = [float(score(candidate.predict(image, spacing), truth)) for image, truth in pairs]
        mean = -math.inf if any(map(math.isnan, found)) else sum(found) / len(found)
        if best is None or mean > best[0]:
            best = mean, candidate.parameters
    assert best is not None
    return best[1]


def _method(name: str) -> Method:
    if name not in METHODS:
        raise DataError(f"no classical method is called '{name}'; {nearest(name, METHODS)}")
    return METHODS[name]
