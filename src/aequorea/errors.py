"""What goes wrong, in words that the user can act on.

Every error that a user can cause is an :class:`AequoreaError`: one line that says what is wrong, in which file,
and what to type instead. The command line prints that line and leaves with status 2. Anything else is a fault of
the package and keeps its traceback (status 1).
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class AequoreaError(Exception):
    """A mistake that the user can mend; its text says how."""


class FormatError(AequoreaError):
    """A file that cannot be read as what it claims to be, or whose meaning is ambiguous."""


class SpecError(AequoreaError):
    """A recipe with a wrong word or value."""


class DataError(AequoreaError):
    """Images and annotations that do not fit each other or the task."""


class ModelError(AequoreaError):
    """A model file that cannot be used."""


class AequoreaWarning(UserWarning):
    """Something was assumed; the text says what, and which option says otherwise."""


def nearest(word: str, known: Iterable[str]) -> str:
    """Return a clause that names the known word nearest to ``word``, e.g. ``"did you mean 'size'?"``."""
    options = sorted(known)
    close = difflib.get_close_matches(word, options, n=1, cutoff=0.5)
    if close:
        return f"did you mean '{close[0]}'?"
    return "known: " + ", ".join(options) if options else "nothing is known here"
