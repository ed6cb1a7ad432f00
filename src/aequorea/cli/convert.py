"""``aequorea convert``: published weights to model files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def command(app: typer.Typer) -> None:
    """Register the command."""

    @app.command()
    def convert(
        file: Annotated[Path, typer.Argument(help="A .pt file of the UniFMIR foundation model.")],
        out: Annotated[
            Path, typer.Option("--out", "-o", help="Model file; of several tasks, a folder of them.")
        ],
        task: Annotated[
            str | None,
            typer.Option(help="super_resolve, denoise, isotropic, project or light_field: that alone."),
        ] = None,
        partial: Annotated[
            bool, typer.Option("--partial", help="Weights may be missing or unknown; says which.")
        ] = False,
        unshifted: Annotated[
            bool, typer.Option("--unshifted", help="Trained on images no larger than a window.")
        ] = False,
    ) -> None:
        """Turn published restoration weights into model files, and say what became of each of them."""
        from aequorea.workflows.convert import convert as write

        done = write(file, out, task, partial, not unshifted)
        for line in done.lines:
            print(line)
        for name, path in done.paths.items():
            print(f"model: {path}  ({name})")
