"""Self-contained HTML pages: no scripts, nothing fetched, pictures inside, readable in print.

A page is a title and a list of sections, each a small dataclass; the template is ``page.html.j2`` beside this
file.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files

from jinja2 import Environment, StrictUndefined, Template
from markupsafe import Markup

from aequorea.report.curves import COLOURS, Line, chart


@dataclass(frozen=True)
class Figure:
    """One number of a :class:`Headline`: what it is, its value as text, and a line below it."""

    name: str
    value: str
    note: str = ""


@dataclass(frozen=True)
class Headline:
    """The few numbers that matter, large."""

    figures: Sequence[Figure]
    kind: str = field(default="headline", init=False)


@dataclass(frozen=True)
class Text:
    """Paragraphs under a heading (empty: none)."""

    heading: str
    paragraphs: Sequence[str]
    kind: str = field(default="text", init=False)


@dataclass(frozen=True)
class Table:
    """Rows of text under a heading; the first column is left-aligned, the others are numbers.

    Attributes
    ----------
    heading
        Empty: none.
    columns
        Names of the columns.
    rows
        Cells as text, as many as columns.
    note
        A line below.
    strong
        Number of rows at the end that are summaries and set apart.
    """

    heading: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""
    strong: int = 0
    kind: str = field(default="table", init=False)


@dataclass(frozen=True)
class Picture:
    """Pictures side by side under a heading.

    Attributes
    ----------
    heading
        Empty: none.
    pictures
        PNG bytes and caption of each.
    note
        A line above them.
    colours
        Text and colour (red, green, blue) of each colour that needs a word.
    """

    heading: str
    pictures: Sequence[tuple[bytes, str]]
    note: str = ""
    colours: Sequence[tuple[str, tuple[int, int, int]]] = ()
    kind: str = field(default="picture", init=False)

    @property
    def sources(self) -> list[tuple[str, str]]:
        """Data URI and caption of each picture."""
        return [
            ("data:image/png;base64," + base64.b64encode(png).decode(), caption)
            for png, caption in self.pictures
        ]


@dataclass(frozen=True)
class Curve:
    """A line chart under a heading; see :func:`aequorea.report.curves.chart`."""

    heading: str
    lines: Sequence[Line]
    x_label: str
    y_label: str
    note: str = ""
    x_range: tuple[float, float] | None = None
    y_range: tuple[float, float] | None = None
    kind: str = field(default="curve", init=False)

    @property
    def svg(self) -> Markup:
        """The chart as an ``svg`` element."""
        drawn = chart(self.lines, self.x_label, self.y_label, x_range=self.x_range, y_range=self.y_range)
        return Markup(drawn)

    @property
    def legend(self) -> list[tuple[str, str]]:
        """Name and colour of each line."""
        return [(line.name, COLOURS[index % len(COLOURS)]) for index, line in enumerate(self.lines)]


Section = Headline | Text | Table | Picture | Curve


def page(title: str, sections: Sequence[Section], subtitle: str = "") -> str:
    """Return an HTML page.

    Parameters
    ----------
    title, subtitle
        At the top; all text is escaped.
    sections
        In the order in which they are shown.
    """
    return _template().render(title=title, subtitle=subtitle, sections=sections)


@cache
def _template() -> Template:
    text = files("aequorea.report").joinpath("page.html.j2").read_text(encoding="utf-8")
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.from_string(text)
