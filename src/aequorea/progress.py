"""One live line per stage, with a rate, the time left and a note; without a terminal, one line every 30 s.

Stages that end within two seconds print nothing. Everything goes to standard error. Whoever wants to know how long
stages took listens (:func:`listening`).
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Self, TypeVar

T = TypeVar("T")

QUIET_S = 2.0
PLAIN_EVERY_S = 30.0
LIVE_EVERY_S = 0.2


Listener = Callable[[str, float, float], None]
"""Told the name of a stage that ended, its seconds and the amount done."""
_listeners: list[Listener] = []


@contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Tell a listener of every stage that ends meanwhile."""
    _listeners.append(listener)
    try:
        yield
    finally:
        _listeners.remove(listener)


def report(stage: str, seconds: float, amount: float = 1) -> None:
    """Tell all listeners of a stage that ended; stages too short for a line of their own are told by this."""
    for listener in _listeners:
        listener(stage, seconds, amount)


class Progress:
    """A stage of known length.

    Parameters
    ----------
    stage
        What is being done, e.g. ``"predict"``.
    total
        Amount of work in ``unit``.
    unit
        What is counted: ``"step"``, ``"tile"``, ``"voxel"``, ...

    Examples
    --------
    >>> with Progress("decode", total=8, unit="block") as bar:
    ...     for _ in range(8):
    ...         bar.advance()
    """

    def __init__(self, stage: str, total: float, unit: str = "item") -> None:
        self.stage, self.total, self.unit = stage, float(total), unit
        self.done = 0.0
        self._live = sys.stderr.isatty()
        self._note = ""
        self._begin = self._last = time.monotonic()
        self._counted_from = 0.0
        self._shown = False

    def __enter__(self) -> Self:
        self._begin = self._last = time.monotonic()
        return self

    def skip(self, amount: float) -> None:
        """Count work that an earlier run did; it does not enter the rate."""
        self.done += amount
        self._counted_from += amount

    def advance(self, amount: float = 1, note: str | None = None) -> None:
        """Count work just done; ``note`` (the last score, say) replaces the one shown."""
        self.done += amount
        if note is not None:
            self._note = note
        now = time.monotonic()
        if now - self._begin >= QUIET_S and now - self._last >= (
            LIVE_EVERY_S if self._live else PLAIN_EVERY_S
        ):
            self._last = now
            self._show(now, end="")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        now = time.monotonic()
        report(self.stage, now - self._begin, self.done - self._counted_from)
        if self._shown or now - self._begin >= QUIET_S:
            self._show(now, end="\n" if self._live else "")

    def _show(self, now: float, end: str) -> None:
        self._shown = True
        elapsed = max(now - self._begin, 1e-9)
        rate = (self.done - self._counted_from) / elapsed
        left = (self.total - self.done) / rate if rate > 0 else float("inf")
        share = 100 * self.done / self.total if self.total else 100.0
        when = f"{clock(left)} left" if self.done < self.total else f"took {clock(elapsed)}"
        line = f"{self.stage}  {share:3.0f} %  {quantity(rate)} {self.unit}/s  {when}  {self._note}".rstrip()
        if self._live:
            sys.stderr.write(f"\r\x1b[2K{line}{end}")
        else:
            sys.stderr.write(line + "\n")
        sys.stderr.flush()


def track(items: Iterable[T], stage: str, total: int, unit: str = "item") -> Iterator[T]:
    """Yield the items while showing how far they are."""
    with Progress(stage, total, unit) as bar:
        for item in items:
            yield item
            bar.advance()


def quantity(value: float) -> str:
    """Return a number in three digits with k, M, G, T."""
    for step, letter in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= step:
            return f"{value / step:.3g} {letter}"
    return f"{value:.3g}"


def clock(seconds: float) -> str:
    """Return a duration as ``42 s``, ``3:07 min`` or ``5:12 h``."""
    if seconds == float("inf"):
        return "?"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60}:{whole % 60:02d} min"
    return f"{whole // 3600}:{whole % 3600 // 60:02d} h"
