"""The conformance kit: what every plug must do, ours and those of others.

In a test of a plug, one line is most of it::

    from aequorea import checks

    def test_it_conforms():
        checks.task("my_task")

Each function raises :class:`AssertionError` with a sentence that says what was promised and not kept. The
promises are those of :mod:`aequorea.plugs`.
"""

from __future__ import annotations

from aequorea import registry
from aequorea.checks.adapters import adapter
from aequorea.checks.backbones import backbone
from aequorea.checks.formats import format
from aequorea.checks.models import model, shaken
from aequorea.checks.objectives import objective
from aequorea.checks.recipes import recipe
from aequorea.checks.tasks import task

__all__ = ["adapter", "backbone", "everything", "format", "model", "objective", "recipe", "shaken", "task"]


def everything() -> None:
    """Check everything that is registered, with the default recipes; raises at the first broken promise."""
    for kind, check in (
        ("backbones", backbone),
        ("tasks", task),
        ("adapters", adapter),
        ("objectives", objective),
        ("formats", format),
    ):
        for name in registry.names(kind):
            check(name)
