import xml.etree.ElementTree as ET

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aequorea.report.curves import HEIGHT, WIDTH, Line, chart, ticks

NUMBERS = st.floats(-1e6, 1e6, allow_nan=False)


@given(NUMBERS, st.floats(1e-3, 1e6))
def test_ticks_are_round_and_inside(low, width):
    high = low + width
    values = ticks(low, high)
    assert 2 <= len(values) <= 11
    slack = 1e-6 * max(abs(low), abs(high), 1)
    assert all(low - slack <= value <= high + slack for value in values)


def test_ticks_of_a_share():
    assert ticks(0, 1) == [0, 0.2, 0.4, 0.6, 0.8, 1]


@given(st.lists(st.tuples(st.floats(), st.floats()), max_size=8))
def test_charts_are_whole_and_stay_inside(points):
    points = [(x, y) for x, y in points if not (abs(x) > 1e9 or abs(y) > 1e9)]
    line = Line("a < b & c", [x for x, _ in points], [y for _, y in points])
    root = ET.fromstring(chart([line], "x <µm>", 'y "quoted"'))
    for polyline in root.iter("{http://www.w3.org/2000/svg}polyline"):
        places = np.array([[float(n) for n in place.split(",")] for place in polyline.get("points").split()])
        assert np.all((places >= -0.1) & (places <= [WIDTH + 0.1, HEIGHT + 0.1]))


def test_gaps_interrupt_a_line():
    svg = chart([Line("a", [0, 1, 2, 3, 4], [0, 1, float("nan"), 3, 4])], "x", "y")
    assert svg.count("<polyline") == 2


def test_ends_of_the_axes_can_be_given():
    svg = chart([Line("a", [0, 1], [0.25, 0.75])], "x", "y", x_range=(0, 2), y_range=(0, 1))
    points = ET.fromstring(svg).find("{http://www.w3.org/2000/svg}polyline").get("points").split()
    middle = [float(place.split(",")[1]) for place in points]
    assert np.mean(middle) == pytest.approx((16 + HEIGHT - 46) / 2, abs=0.1)
