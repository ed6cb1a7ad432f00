"""Memory given back to the system.

The C library of Linux keeps what was freed, for each thread that ever asked, in case it asks again. With a dozen
threads that read and write that is a tenth of what a prediction holds, and it grows with the time it takes.
"""

from __future__ import annotations

import ctypes
from contextlib import suppress
from typing import Any

_trim: Any = None
with suppress(AttributeError, OSError, TypeError):  # of other C libraries
    _trim = ctypes.CDLL(None).malloc_trim


def give_back_memory() -> None:
    """Return to the system what was freed and kept; takes milliseconds, and does nothing on other systems."""
    if _trim is not None:
        _trim(0)
