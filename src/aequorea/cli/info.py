"""``aequorea info FILE``: what was understood of a file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from aequorea.cli.options import Axes, Channel, Dataset, Level, Scene, Sequence, Spacing, Time, numbers
from aequorea.errors import FormatError


def command(app: typer.Typer) -> None:
    """Register the command."""
    app.command("info")(info)


def info(
    file: Annotated[Path, typer.Argument(help="A file, or a folder that is one (OME-Zarr, planes).")],
    axes: Axes = None,
    spacing: Spacing = None,
    channel: Channel = None,
    time: Time = None,
    scene: Scene = None,
    level: Level = None,
    dataset: Dataset = None,
    sequence: Sequence = False,
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
        "spacing": numbers(spacing, "--spacing"),
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
