"""Tables as CSV text (RFC 4180): nine significant digits, ``true`` and ``false``, lines ended by a line feed.

Encoded a few thousand rows at a time: there may be 10⁸ objects.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from itertools import islice

import numpy as np

from aequorea.results import Table
from aequorea.volume import Array

ROWS = 1 << 16


def encode(columns: Table) -> Iterator[bytes]:
    """Yield the text in pieces, the line of names first.

    Raises
    ------
    ValueError
        If columns are not of one length, or not one-dimensional.
    """
    shapes = {np.shape(column) for column in columns.values()}
    if len(shapes) > 1 or any(len(shape) != 1 for shape in shapes):
        raise ValueError(f"columns of shapes {sorted(shapes)} make no table")
    yield _lines([tuple(columns)])
    rows = zip(*(_words(np.asarray(column)) for column in columns.values()))
    while batch := list(islice(rows, ROWS)):
        yield _lines(batch)


def _lines(rows: list[tuple[str, ...]]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue().encode()


def _words(column: Array) -> Iterator[str]:
    for start in range(0, len(column), ROWS):
        values = column[start : start + ROWS].tolist()
        if column.dtype.kind == "f":
            yield from (f"{value:.9g}" for value in values)
        elif column.dtype.kind == "b":
            yield from (str(value).lower() for value in values)
        else:
            yield from map(str, values)
