"""``aequorea evaluate``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from aequorea.cli.options import Axes, Channel, Spacing, Unlabelled, numbers


def command(app: typer.Typer) -> None:
    """Register the command."""

    @app.command()
    def evaluate(
        model: Annotated[Path, typer.Argument(help="Model file; with --folds the run folder of a recipe.")],
        data: Annotated[Path, typer.Argument(help="Folder or CSV of images with labels.")],
        out: Annotated[Path, typer.Option("--out", "-o", help="Folder for scores and report.")] = Path(
            "evaluation"
        ),
        halo: Annotated[
            str, typer.Option(help="Context of a tile: default, full (exact), or Z,Y,X voxels.")
        ] = "default",
        folds: Annotated[
            int, typer.Option(help="Train the recipe anew for each of so many folds, tested on the rest.")
        ] = 0,
        compare: Annotated[
            bool,
            typer.Option("--compare", help="With --folds: also from scratch, and as pretrained."),
        ] = False,
        overwrite: Annotated[
            bool, typer.Option("--overwrite", help="Replace the predictions of another model in OUT.")
        ] = False,
        unlabelled: Unlabelled = None,
        spacing: Spacing = None,
        axes: Axes = None,
        channel: Channel = None,
    ) -> None:
        """Predict annotated images, score them, and write scores.json, scores.csv and report.html."""
        from aequorea.errors import SpecError
        from aequorea.workflows.evaluate_model import evaluate_model
        from aequorea.workflows.folds import cross_validate
        from aequorea.workflows.predict import PredictSpec

        if compare and not folds:
            raise SpecError("--compare: say how many --folds too")
        if overwrite and folds:
            raise SpecError("--overwrite: folds are trained into a new folder; give another --out")
        spec = PredictSpec.parse(
            {"halo": halo if halo in ("default", "full") else numbers(halo, "--halo", int)}
        )
        told = {
            "unlabelled": unlabelled,
            "spacing": numbers(spacing, "--spacing"),
            "axes": axes,
            "channel": channel,
        }
        if folds:
            scores = cross_validate(model, data, out, folds, spec, compare=compare, **told)
        else:
            scores = evaluate_model(model, data, out, spec, overwrite=overwrite, **told)
        for method, pooled in scores["pooled"].items():
            if len(scores["pooled"]) > 1:
                print(method)
            for name, interval in pooled.items():
                if interval["value"] is not None:
                    print(f"{name:24s} {interval['value']:.3f}  ({interval['n']} images)")
        print(f"report: {out / 'report.html'}")
