"""``aequorea doctor``: what this machine offers and what is missing."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def command(app: typer.Typer) -> None:
    """Register the command."""

    @app.command()
    def doctor(
        folder: Annotated[
            Path, typer.Option(help="Where results will be written: its disk is tried.")
        ] = Path(),
    ) -> None:
        """Say what this machine offers: versions, device, threads, memory, disk, missing extras."""
        from aequorea.workflows.doctor import doctor as look

        lines = look(folder)
        for line in lines:
            print(line)
        if not all(line.fine for line in lines):
            raise typer.Exit(2)
