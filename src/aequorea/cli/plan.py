"""``aequorea plan``: the word before a command that says what it would take."""

from __future__ import annotations

from importlib import import_module

import typer

VERBS = ("predict", "finetune", "pretrain")


def command(app: typer.Typer) -> None:
    """Register the command: a group that holds the commands themselves, which ask :func:`options.planning`."""
    plan = typer.Typer(no_args_is_help=True, rich_markup_mode=None)
    for name in VERBS:
        import_module(f"aequorea.cli.{name}").command(plan)

    @plan.callback()
    def about() -> None:
        """Say what predict, finetune or pretrain would take: time, memory, disk. Nothing is left behind."""

    app.add_typer(plan, name="plan")
