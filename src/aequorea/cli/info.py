"""``aequorea info FILE``: what was understood of a file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from aequorea.errors import FormatError


def command(app: typer.Typer) -> None:
    """Register the command."""
    app.command("info")(info)


def info(
    file: Annotated[Path, typer.Argument(help="A file, or a folder that is one (OME-Zarr, planes).")],
    axes: Annotated[str | None, typer.Option(help="One letter per stored axis, of T C Z Y X S.")] = None,
    spacing: Annotated[str | None, typer.Option(help="Voxel size in µm: Z,Y,X.")] = None,
    channel: Annotated[
        str | None, typer.Option(help="Channels by number or name, separated by commas.")
    ] = None,
    time: Annotated[int | None, typer.Option(help="Time point, from 0.")] = None,
    scene: Annotated[
        str | None, typer.Option(help="Image in a file that holds several, e.g. A/1/0 of a plate.")
    ] = None,
    level: Annotated[int | None, typer.Option(help="Level of a pyramid; 0 is the finest.")] = None,
    dataset: Annotated[
        str | None, typer.Option(help="Array inside an HDF5 or Zarr file, e.g. labels/nuclei.")
    ] = None,
    sequence: Annotated[
        bool, typer.Option("--sequence", help="The folder's images are the planes of one volume.")
    ] = False,
    each: Annotated[
        bool, typer.Option("--each", help="The folder's images are separate: describe each.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Print what is understood of FILE: format, axes, shape, spacing, channels, levels, intensities."""
    import json as json_text

    from aequorea.workflows.info import info as describe
    from aequorea.workflows.open import open_many

    options: dict[str, Any] = {
        "axes": axes,
        "spacing": parse_spacing(spacing),
        "channel": channel,
        "time": time,
        "scene": scene,
        "level": level,
        "dataset": dataset,
    }
    if sequence and each:
        raise FormatError(f"{file}: --sequence and --each exclude each other")
    if each:
        found = [describe(volume) for _, volume in open_many(file, many="each", **options)]
    else:
        found = [describe(file, many="sequence" if sequence else None, **options)]
    if json:
        facts = [one.facts for one in found]
        typer.echo(json_text.dumps(facts if each else facts[0], ensure_ascii=False, indent=2))
    else:
        typer.echo("\n\n".join(one.text for one in found))


def parse_spacing(text: str | None) -> tuple[float, float, float] | None:
    """Return the three numbers of ``"Z,Y,X"``; raises :class:`FormatError` for anything else."""
    if text is None:
        return None
    try:
        z, y, x = (float(part) for part in text.split(","))
    except ValueError:
        raise FormatError(
            f"--spacing {text} is not three numbers in µm: --spacing Z,Y,X, e.g. 2,0.5,0.5"
        ) from None
    return z, y, x
