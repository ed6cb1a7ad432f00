"""``aequorea predict``."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from aequorea.cli.options import (
    Axes,
    Channel,
    Dataset,
    Level,
    Memory,
    Scene,
    Sequence,
    Spacing,
    Time,
    numbers,
    planning,
    refuse,
    show_plan,
)


def command(app: typer.Typer) -> None:
    """Register the command."""

    @app.command()
    def predict(
        context: typer.Context,
        model: Annotated[Path, typer.Argument(help="Model file.")],
        source: Annotated[
            Path, typer.Argument(metavar="IN", help="Image, or a folder of images with --each.")
        ],
        out: Annotated[Path, typer.Argument(help="OME-Zarr to write (a folder of them with --each).")],
        region: Annotated[str | None, typer.Option(help="z0:z1,y0:y1,x0:x1: only this part.")] = None,
        mask: Annotated[Path | None, typer.Option(help="Nothing is predicted where this image is 0.")] = None,
        halo: Annotated[
            str, typer.Option(help="Context of a tile: default, full (exact), or Z,Y,X voxels.")
        ] = "default",
        threshold: Annotated[float | None, typer.Option(help="In place of the calibrated one.")] = None,
        precision: Annotated[str, typer.Option(help="auto, float32 or bfloat16.")] = "auto",
        scale: Annotated[
            float | None, typer.Option(help="Make voxels so much larger first; 1: as they are.")
        ] = None,
        object_size: Annotated[
            float | None, typer.Option(help="Diameter of the objects in µm, if unlike the training's.")
        ] = None,
        mirrored: Annotated[
            bool,
            typer.Option(
                "--mirrored", help="Also look at mirror images, and take the mean: 8 x the time or more."
            ),
        ] = False,
        tile: Annotated[int | None, typer.Option(help="Most voxels computed at once.")] = None,
        each: Annotated[
            bool, typer.Option("--each", help="IN is a folder of images, or a file of several: predict each.")
        ] = False,
        sequence: Sequence = False,
        preview: Annotated[
            bool, typer.Option("--preview", help="Three informative blocks only, as a page OUT (HTML).")
        ] = False,
        overwrite: Annotated[
            bool, typer.Option("--overwrite", help="Replace a result that is there.")
        ] = False,
        part: Annotated[
            str | None,
            typer.Option(
                help="Share the work with other processes: which of how many this is.", metavar="I/N"
            ),
        ] = None,
        scheduler: Annotated[
            str | None, typer.Option(help="Address of a running Dask cluster that does the work.")
        ] = None,
        memory: Memory = None,
        level: Level = None,
        time: Time = None,
        scene: Scene = None,
        dataset: Dataset = None,
        spacing: Spacing = None,
        axes: Axes = None,
        channel: Channel = None,
    ) -> None:
        """Predict a volume of any size into an OME-Zarr; run again to take up an interrupted run."""
        from aequorea.crew import parse_part
        from aequorea.engine.memory import as_bytes
        from aequorea.errors import AequoreaError, DataError, SpecError
        from aequorea.signal.axes import spatial_axes
        from aequorea.volume import Volume
        from aequorea.workflows.open import open as open_volume
        from aequorea.workflows.open import open_many
        from aequorea.workflows.predict import PredictSpec, predict

        most = as_bytes(memory)
        words = {
            "region": region,
            "halo": halo if halo in ("default", "full") else numbers(halo, "--halo", int),
            "precision": precision,
            "threshold": threshold,
            "scale": scale,
            "object_size": object_size,
            "mirrored": mirrored,
        }
        spec = PredictSpec.parse(words if tile is None else {**words, "tile": tile})
        over = open_volume(mask, axes=spatial_axes(axes)) if mask else None
        told = {
            "axes": axes,
            "spacing": numbers(spacing, "--spacing"),
            "channel": channel,
            "level": level,
            "time": time,
            "scene": scene,
            "dataset": dataset,
        }
        if each and sequence:
            raise SpecError(
                "--each and --sequence: the images of a folder are one volume, or they are several"
            )
        if each and out.resolve() == source.resolve():
            raise SpecError(
                f"{out}: holds the images, which results there would be taken for: name another OUT"
            )
        if not each:
            volume = open_volume(source, many="sequence" if sequence else None, **told)
        if planning(context):
            from aequorea.workflows.plan import plan_predict

            refuse(
                "plan looks at the whole of one image, on this machine",
                {
                    "--each": each,
                    "--preview": preview,
                    "--part": part,
                    "--scheduler": scheduler,
                },
            )
            show_plan(plan_predict(model, volume, out, spec, mask=over, memory=most))
            return
        if preview:
            from aequorea.model import load
            from aequorea.workflows.preview import preview as show

            refuse(
                "--preview looks at one image, at places of its own",
                {
                    "--each": each,
                    "--mask": mask,
                    "--region": region,
                    "--part": part,
                    "--scheduler": scheduler,
                    "--memory": memory,
                    "--overwrite": overwrite,
                },
            )
            place = out if out.suffix == ".html" else out.with_name(f"{out.name}.preview.html")
            show(load(model), volume, place, spec)
            print(f"preview: {place}")
            return
        if scheduler is not None:
            from aequorea.workflows.cluster import predict_on

            refuse(
                "--scheduler: one image at a time, a part for each worker",
                {
                    "--each": each,
                    "--part": part,
                    "--overwrite": overwrite,
                    "--memory": memory,
                },
            )
            done = predict_on(
                scheduler,
                model,
                source,
                out,
                spec,
                opening={**told, "many": "sequence" if sequence else None},
                mask=mask,
            )
            print(f"result: {done.path}")
            return
        failed: list[AequoreaError] = []
        number = 0

        def skip(error: AequoreaError) -> None:
            failed.append(error)
            typer.echo(f"not predicted: {error}", err=True)

        def several() -> Iterator[tuple[Volume, Path]]:
            found = open_many(
                source,
                failed=skip,
                many="each" if source.is_dir() else None,
                **told,
            )
            files = {path.name.split(".")[0] for path in source.iterdir()} if source.is_dir() else set()
            for name, one in found:
                if name.endswith("_label") and (image := name.removesuffix("_label")) in files:
                    print(f"{name}: labels of {image}, left out")
                else:
                    yield one, out / f"{name}.ome.zarr"

        for one, place in several() if each else [(volume, out)]:
            try:
                done = predict(
                    model,
                    one,
                    place,
                    spec,
                    mask=over,
                    overwrite=overwrite,
                    part=parse_part(part) if part else (1, 1),
                    memory=most,
                )
            except AequoreaError as error:
                if not each:
                    raise
                skip(error)
                continue
            for name, table in done.result.tables.items():
                rows = len(next(iter(table.values()))) if table else 0
                print(f"{name}: {rows:,} rows in {place / 'tables' / name}.csv")
            if done.timing is not None:
                t = done.timing
                print(
                    f"{t.kept:,} voxels in {t.total:.0f} s, network {t.network:.0f} s, "
                    f"{t.computed / max(1, t.kept):.2f} voxels computed per voxel kept"
                )
            print(f"result: {place}")
            number += 1
        if failed:
            raise DataError(f"images that could not be predicted: {len(failed)} (above); that were: {number}")
