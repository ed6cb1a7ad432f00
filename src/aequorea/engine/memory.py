"""How much memory this process holds, what it may hold, and memory given back to the system.

The C library of Linux keeps what was freed, for each thread that ever asked, in case it asks again. With a dozen
threads that read and write that is a tenth of what a prediction holds, and it grows with the time it takes.
"""

from __future__ import annotations

import ctypes
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from aequorea.errors import SpecError

UNITS = {"kb": 1e3, "mb": 1e6, "gb": 1e9, "tb": 1e12, "kib": 2**10, "mib": 2**20, "gib": 2**30, "tib": 2**40}
SPARE = 40_000_000
"""Bytes that are left free under a cap: threads, what the system keeps of what was freed."""

LARGE = 1 << 21
"""Bytes from which what is freed goes back to the system at once, under a cap."""

_cap: int | None = None
_foreseen = 0.0
_trim: Any = None
_option: Any = None
with suppress(AttributeError, OSError, TypeError):  # of other C libraries
    _trim, _option = ctypes.CDLL(None).malloc_trim, ctypes.CDLL(None).mallopt


def give_back_memory() -> None:
    """Return to the system what was freed and kept; takes milliseconds, and does nothing on other systems."""
    if _trim is not None:
        _trim(0)


def machine_memory() -> int | None:
    """Return the bytes of main memory of this machine, if the system tells."""
    if sys.platform == "win32" or "SC_PHYS_PAGES" not in os.sysconf_names:
        return None
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def resident() -> int:
    """Return the bytes of main memory that this process holds (the most it ever held, if the system tells no more)."""
    with suppress(OSError):
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return most_resident()


def most_resident() -> int:
    """Return the most bytes of main memory that this process ever held; 0 where the system does not tell."""
    with suppress(OSError, AttributeError):
        words = Path("/proc/self/status").read_text()
        return int(words.split("VmHWM:")[1].split()[0]) * 1024
    with suppress(ImportError):
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return 0


def forget_most() -> None:
    """Begin :func:`most_resident` anew, where the system allows it."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


@contextmanager
def capped(memory: int | None) -> Iterator[None]:
    """Hold this process to so many bytes: :func:`workers` and :func:`require` go by it meanwhile."""
    global _cap, _foreseen
    before, _cap, _foreseen = _cap, memory, 0.0
    if memory is not None and _option is not None:
        _option(-3, LARGE)  # M_MMAP_THRESHOLD: or the heap is torn by tiles of many shapes, and held for good
    try:
        yield
    finally:
        _cap = before


def limited() -> bool:
    """Whether there is a cap."""
    return _cap is not None


def workers(most: int, each: float) -> int:
    """Return how many threads may work at a time, at least one, where each needs so many bytes."""
    if _cap is None:
        return most
    give_back_memory()
    return max(1, min(most, int((_cap - resident() - SPARE) / max(1.0, each))))


def foresee(count: float) -> None:
    """Take note that so many bytes more will be needed later: :func:`require` counts them among what must fit."""
    global _foreseen
    _foreseen = max(_foreseen, resident() + SPARE + count)


def require(count: float, why: str) -> None:
    """Raise :class:`SpecError` where so many bytes more are over the cap; says the smallest that works."""
    if _cap is not None:
        needed = max(resident() + SPARE + count, _foreseen)
        if needed > _cap:
            raise refuse(_cap, needed, why)


def fits(count: float) -> bool:
    """Whether so many bytes more are within the cap."""
    return _cap is None or resident() + SPARE + count <= _cap


def as_bytes(size: str | int | None, flag: str = "--memory") -> int | None:
    """Return the bytes that ``"4GB"``, ``"800MB"`` or ``"1.5 GiB"`` mean; whole numbers are bytes.

    Raises
    ------
    SpecError
        If it means nothing, or less than a million bytes; names the flag.
    """
    if size is None:
        return None
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-z]*)\s*", str(size), re.IGNORECASE)
    unit = match[2].lower() if match else ""
    unit = unit if unit.endswith("b") or not unit else f"{unit}b"
    if match is None or (unit and unit not in UNITS):
        raise SpecError(f"{flag} '{size}': expected a number and a unit, e.g. {flag} 4GB or 800MB")
    count = int(float(match[1]) * UNITS.get(unit, 1))
    if 0 < count < 10**6:
        raise SpecError(f"{flag} '{size}': less than a megabyte; did you mean {flag} {match[1]}GB?")
    return count


def size_text(count: float) -> str:
    """Return bytes as a user writes them after ``--memory``: ``1.23GB`` or ``810MB``."""
    return f"{count / 1e9:.3g}GB" if count >= 1e9 else f"{count / 1e6:.0f}MB"


def refuse(cap: int, needed: float, why: str) -> SpecError:
    """Return the error that says the smallest cap that works, in tens of megabytes, rounded up."""
    least = int(-(-needed // 1e7) * 10)
    words = f"{least / 1e3:.2f}GB" if least >= 1000 else f"{least}MB"
    return SpecError(
        f"--memory {size_text(cap)}: too little, {why}; the smallest that works: --memory {words}"
    )
