"""Laws of random fields: as wide as asked for, and distances that are distances."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.random import default_rng

from aequorea.signal.random_fields import beyond_level, random_field

SPACING = (0.3, 0.1, 0.1)


@settings(max_examples=20)
@given(st.tuples(*[st.integers(1, 20)] * 3), st.floats(0.1, 2), st.floats(0.05, 0.95), st.integers(0, 999))
def test_a_share_of_a_field_is_below_its_level(
    size: tuple[int, int, int], wave: float, share: float, seed: int
) -> None:
    """Whatever its size, along axes of one voxel too; and equal generators give equal fields."""
    field = random_field(size, SPACING, wave, default_rng(seed))
    assert field.shape == size and np.array_equal(field, random_field(size, SPACING, wave, default_rng(seed)))
    beyond = beyond_level(field, share, SPACING, wave)
    assert np.isfinite(beyond).all()
    assert np.mean(beyond < 0) == pytest.approx(share, abs=1 / field.size + 1e-6)


def test_the_distance_from_a_level_is_in_micrometres() -> None:
    """A field that rises along z passes its middle level in a plane."""
    z = np.arange(21, dtype=np.float32)[:, None, None] * 0.3 * np.ones((1, 8, 8), np.float32)
    beyond = beyond_level(50 * z, 0.5, SPACING, 1.0)  # so steep that the least slope does not matter
    assert np.allclose(beyond, z - z[10], atol=1e-3)


@pytest.mark.parametrize("wave", [0.4, 1.2])
def test_a_field_forgets_itself_over_its_wave(wave: float) -> None:
    """White noise smoothed by s falls to exp(-1/4) of its correlation over s."""
    field = random_field((3, 600, 600), SPACING, wave, default_rng(0))
    away = round(wave / 2 / 0.1)
    found = float(np.mean(field[:, away:] * field[:, :-away]) / np.mean(field**2))
    assert found == pytest.approx(np.exp(-0.25), abs=0.05)
