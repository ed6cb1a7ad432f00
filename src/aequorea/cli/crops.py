"""``aequorea crops``: choose places worth labelling and write them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from aequorea.cli.options import Axes, Channel, Dataset, Level, Scene, Spacing, Time, numbers


def command(app: typer.Typer) -> None:
    """Register the command."""

    @app.command()
    def crops(
        volume: Annotated[Path, typer.Argument(help="The image to cut crops out of.")],
        n: Annotated[int, typer.Option("--n", help="How many crops.")] = 5,
        size: Annotated[str, typer.Option(help="Voxels per axis, or Z,Y,X.")] = "48",
        out: Annotated[Path | None, typer.Option("--out", "-o", help="Folder; default: STEM_crops.")] = None,
        model: Annotated[Path | None, typer.Option(help="Choose where this model is unsure.")] = None,
        strokes: Annotated[
            bool,
            typer.Option("--strokes", help="You will paint strokes: 0 unlabelled, 1 background, 2 … yours."),
        ] = False,
        seed: Annotated[int, typer.Option(help="Another seed, other places.")] = 0,
        spacing: Spacing = None,
        axes: Axes = None,
        channel: Channel = None,
        level: Level = None,
        time: Time = None,
        scene: Scene = None,
        dataset: Dataset = None,
    ) -> None:
        """Pick unlike, informative places of VOLUME; write each as OME-TIFF with an empty label to paint."""
        from aequorea.workflows.crops import crops as write
        from aequorea.workflows.dataset import stem_of
        from aequorea.workflows.open import open as open_volume

        wanted = numbers(size if "," in size else ",".join([size] * 3), "--size", int)
        image = open_volume(
            volume,
            axes=axes,
            spacing=numbers(spacing, "--spacing"),
            channel=channel,
            level=level,
            time=time,
            scene=scene,
            dataset=dataset,
        )
        picked = {"t": time, "s": scene}
        words = [
            f"{letter}{value}".replace("/", "-") for letter, value in picked.items() if value is not None
        ]
        name = "_".join([stem_of(volume) or volume.stem, *words])
        out = Path(f"{name}_crops") if out is None else out
        unsure = None
        if model is not None:
            from aequorea.model import load
            from aequorea.workflows.unsure import unsureness

            unsure = unsureness(load(model), image)
        made = write(image, out, name=name, n=n, size=wanted, seed=seed, strokes=strokes, unsureness=unsure)
        for crop in made:
            print(f"{crop.region}  {crop.image}")
        if len(made) < n:
            print(f"{len(made)} of {n}: the volume has no more places of {size} voxels with anything in them")
        meaning = (
            "0 unlabelled, 1 background, 2 … yours" if strokes else "0 background, 1 … yours; paint all of it"
        )
        print(f"paint the files *_label.ome.tif in napari or Fiji and save them in place: {meaning}")
        print(f"next:  aequorea check {out}")
