"""Line charts as SVG text: small, sharp in print, in the page's own font."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import numpy as np

WIDTH, HEIGHT = 560, 320
_LEFT, _RIGHT, _TOP, _BOTTOM = 58, 16, 16, 46
# Okabe and Ito's colours in the order in which they are told apart best on white.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#666666")
_DASHES = ("", "6 3", "2 3", "8 3 2 3")


@dataclass(frozen=True)
class Line:
    """One line of a chart.

    Attributes
    ----------
    name
        In the legend.
    x, y
        Points; those that are not finite interrupt the line.
    """

    name: str
    x: Sequence[float]
    y: Sequence[float]


def chart(
    lines: Sequence[Line],
    x_label: str,
    y_label: str,
    *,
    x_range: tuple[float, float] | None = None,
    y_range: tuple[float, float] | None = None,
) -> str:
    """Draw lines into one chart.

    Parameters
    ----------
    lines
        What to draw; colours and dashes follow their order.
    x_label, y_label
        Names of the axes, with units.
    x_range, y_range
        Ends of the axes; default: those of the data.

    Returns
    -------
    str
        An ``svg`` element.
    """
    x_low, x_high = x_range or _range([line.x for line in lines])
    y_low, y_high = y_range or _range([line.y for line in lines])

    def place(x: float, y: float) -> tuple[float, float]:
        across = _LEFT + (x - x_low) / (x_high - x_low) * (WIDTH - _LEFT - _RIGHT)
        down = HEIGHT - _BOTTOM - (y - y_low) / (y_high - y_low) * (HEIGHT - _TOP - _BOTTOM)
        return across, down

    parts = [
        f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'aria-label="{escape(y_label)} against {escape(x_label)}" xmlns="http://www.w3.org/2000/svg">'
    ]
    for value in ticks(y_low, y_high):
        _, down = place(x_low, value)
        parts.append(
            f'<line x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{down:.1f}" y2="{down:.1f}" stroke="#e4e6ea"/>'
        )
        parts.append(_text(_LEFT - 8, down + 4, f"{value:g}", "end"))
    for value in ticks(x_low, x_high):
        across, _ = place(value, y_low)
        bottom = HEIGHT - _BOTTOM
        parts.append(
            f'<line x1="{across:.1f}" x2="{across:.1f}" y1="{bottom}" y2="{bottom + 5}" stroke="#8a9099"/>'
        )
        parts.append(_text(across, bottom + 19, f"{value:g}", "middle"))
    floor = f'y1="{HEIGHT - _BOTTOM}" y2="{HEIGHT - _BOTTOM}"'
    parts.append(f'<line x1="{_LEFT}" x2="{WIDTH - _RIGHT}" {floor} stroke="#8a9099"/>')
    parts.append(_text((_LEFT + WIDTH - _RIGHT) / 2, HEIGHT - 8, x_label, "middle"))
    middle = (_TOP + HEIGHT - _BOTTOM) / 2
    parts.append(_text(16, middle, y_label, "middle", f' transform="rotate(-90 16 {middle:.1f})"'))
    for index, line in enumerate(lines):
        colour = COLOURS[index % len(COLOURS)]
        dash = _DASHES[index // len(COLOURS) % len(_DASHES)]
        for run in _runs(line):
            points = " ".join("{:.1f},{:.1f}".format(*place(x, y)) for x, y in run)
            parts.append(
                f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2" '
                f'stroke-linejoin="round" stroke-linecap="round" stroke-dasharray="{dash}"/>'
            )
    parts.append("</svg>")
    return "".join(parts)


def ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Return round values between two ends, about ``about`` of them."""
    rough = (high - low) / about
    decade = 10.0 ** np.floor(np.log10(rough))
    step = min((1, 2, 2.5, 5, 10), key=lambda n: abs(n * decade - rough)) * decade
    first, last = int(np.ceil(low / step - 1e-9)), int(np.floor(high / step + 1e-9))
    return [float(f"{n * step:.10g}") for n in range(first, last + 1)]


def _range(columns: Sequence[Sequence[float]]) -> tuple[float, float]:
    values = np.concatenate([np.asarray(column, np.float64) for column in columns] or [np.zeros(0)])
    values = values[np.isfinite(values)]
    if not values.size:
        return 0.0, 1.0
    low, high = float(values.min()), float(values.max())
    return (low, high) if high > low else (low - 0.5, high + 0.5)


def _runs(line: Line) -> list[list[tuple[float, float]]]:
    """Return the stretches of a line without gaps."""
    runs: list[list[tuple[float, float]]] = [[]]
    for x, y in zip(line.x, line.y):
        if np.isfinite(x) and np.isfinite(y):
            runs[-1].append((x, y))
        elif runs[-1]:
            runs.append([])
    return [run for run in runs if run]


def _text(x: float, y: float, text: str, anchor: str, more: str = "") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{more}>{escape(text)}</text>'
