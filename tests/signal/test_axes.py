from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aequorea.errors import FormatError
from aequorea.signal.axes import (
    channel_names,
    micrometres,
    picked_channels,
    plain_axes,
    told_axes,
    voxel_spacing,
)


@pytest.mark.parametrize(
    ("unit", "expected"),
    [
        ("nm", 1e-3),
        ("nanometers", 1e-3),
        ("Nanometre", 1e-3),
        ("µm", 1.0),
        ("μm", 1.0),
        ("um", 1.0),
        ("\\u00B5m", 1.0),
        ("micron", 1.0),
        ("microns", 1.0),
        ("micrometer", 1.0),
        (b"um", 1.0),
        ("mm", 1e3),
        ("cm", 1e4),
        ("meter", 1e6),
        ("angstrom", 1e-4),
        ("Å", 1e-4),
        ("inch", 25400.0),
        ("pixel", None),
        ("", None),
        ("second", None),
        (None, None),
        (7, None),
    ],
)
def test_units(unit, expected):
    assert micrometres(unit) == expected


@given(st.tuples(*[st.none() | st.floats()] * 3), st.integers(1, 3))
def test_a_spacing_is_whole_or_unknown(sizes, depth):
    spacing = voxel_spacing(*sizes, depth=depth)
    good = [s is not None and math.isfinite(s) and s > 0 for s in sizes]
    assert (spacing is not None) == (all(good[1:]) and (good[0] or depth == 1))
    if spacing is not None:
        assert spacing[1:] == sizes[1:]
        assert spacing[0] == (sizes[0] if good[0] else sizes[1])


def test_letters():
    assert told_axes("zyx", (5, 6, 7), "a") == "ZYX"
    assert told_axes("ZYX", (1, 5, 1, 6, 7), "a") == "-Z-YX"
    assert plain_axes((5, 6, 7), np.dtype("u1"), "a") == "ZYX"
    assert plain_axes((1, 1, 5, 6, 7), np.dtype("u1"), "a") == "--ZYX"
    with pytest.raises(FormatError, match="--axes CZYX"):
        plain_axes((2, 5, 6, 7), np.dtype("u1"), "a")


def test_names_of_channels():
    assert channel_names((), 2, 1) == ("channel 0", "channel 1")
    assert channel_names(("a", "b"), 2, 1) == ("a", "b")
    assert channel_names(("a", "a"), 2, 1) == ("channel 0", "channel 1")
    assert channel_names(("a", ""), 2, 1) == ("channel 0", "channel 1")
    assert channel_names((), 1, 3) == ("red", "green", "blue")
    assert channel_names(("a", "b"), 2, 2) == ("a grey", "a alpha", "b grey", "b alpha")


def test_picking_channels():
    names = ("membrane, old", "nuclei", "2")
    assert picked_channels(None, names, "a") == [0, 1, 2]
    assert picked_channels("membrane, old", names, "a") == [0]
    assert picked_channels("nuclei,0", names, "a") == [1, 0]
    assert picked_channels(1, names, "a") == [1]
    with pytest.raises(FormatError, match="no channel 'x'; --channel takes 0 'membrane, old', 1 'nuclei'"):
        picked_channels("x", names, "a")
