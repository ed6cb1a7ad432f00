"""``aequorea check``: look through annotated data before learning from it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from aequorea.cli.options import Axes, Channel, Spacing, Unlabelled, numbers


def command(app: typer.Typer) -> None:
    """Register the command."""

    @app.command()
    def check(
        data: Annotated[Path, typer.Argument(help="Folder, pattern or CSV of images with labels, or crops.")],
        kind: Annotated[
            str, typer.Option(help="What the annotations are: label, image, points, class.")
        ] = "label",
        unlabelled: Unlabelled = None,
        spacing: Spacing = None,
        axes: Axes = None,
        channel: Channel = None,
    ) -> None:
        """Look through DATA and say what is wrong, a line each; status 2 if anything would ruin training."""
        from typing import cast, get_args

        from aequorea.errors import SpecError, nearest
        from aequorea.workflows.check import check as look
        from aequorea.workflows.dataset import Kind

        if kind not in get_args(Kind):
            raise SpecError(f"--kind {kind}: {nearest(kind, get_args(Kind))}")
        findings, images = look(
            data,
            kind=cast(Kind, kind),
            unlabelled=unlabelled,
            spacing=numbers(spacing, "--spacing"),
            axes=axes,
            channel=channel,
        )
        for finding in findings:
            print(finding)
        errors = sum(finding.level == "error" for finding in findings)
        print(f"{images} images: {errors} errors, {len(findings) - errors} warnings")
        if errors:
            raise typer.Exit(2)
