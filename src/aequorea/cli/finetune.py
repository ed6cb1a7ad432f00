"""``aequorea finetune``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from aequorea.cli.options import (
    Axes,
    Channel,
    Memory,
    Spacing,
    Unlabelled,
    numbers,
    planning,
    set_fields,
    show_plan,
)


def command(app: typer.Typer) -> None:
    """Register the command."""

    @app.command()
    def finetune(
        context: typer.Context,
        data: Annotated[
            Path, typer.Argument(help="Folder or CSV of images with labels or targets, or crops.")
        ],
        out: Annotated[Path, typer.Option("--out", "-o", help="Run folder.")] = Path("run"),
        task: Annotated[
            str | None,
            typer.Option(
                help="semantic, instances (the default); denoise, deblur, super_resolve, isotropic, project, "
                "light_field. With --model that model's."
            ),
        ] = None,
        backbone: Annotated[
            str, typer.Option(help="filters, unet, hiera, or auto: the first two, the better is kept.")
        ] = "auto",
        start: Annotated[Path | None, typer.Option("--model", help="Model to start from.")] = None,
        adapter: Annotated[
            str | None, typer.Option(help="lora or linear; default: everything trains.")
        ] = None,
        steps: Annotated[int, typer.Option(help="Training steps.")] = 300,
        learning_rate: Annotated[float, typer.Option(help="Peak learning rate.")] = 2e-3,
        seed: Annotated[int, typer.Option(help="Of everything that is drawn.")] = 0,
        held_out: Annotated[float, typer.Option(help="Share of the specimens kept for scores.")] = 0.25,
        unlabelled: Unlabelled = None,
        set_: Annotated[
            list[str] | None,
            typer.Option(
                "--set",
                help="A field of the task, or of backbone, adapter, train: backbone.size=small; patch or brightness.",
            ),
        ] = None,
        head: Annotated[str, typer.Option(help="On fixed filters: logistic or forest.")] = "logistic",
        memory: Memory = None,
        spacing: Spacing = None,
        axes: Axes = None,
        channel: Channel = None,
    ) -> None:
        """Train a model on a few labelled crops or volumes; run again to take up an interrupted run."""
        from aequorea.engine.memory import as_bytes
        from aequorea.engine.processes import together
        from aequorea.workflows.finetune import FinetuneSpec, finetune, task_of

        recipes: dict[str, dict[str, Any]] = {
            "task": {"name": task or "instances"},
            "backbone": {"name": backbone},
            "train": {"steps": steps, "learning_rate": learning_rate, "seed": seed},
        }
        if start is not None and task is None:
            recipes["task"] = task_of(start) or recipes["task"]
        if adapter:
            recipes["adapter"] = {"name": adapter}
        words = {"start": str(start) if start else None, "held_out": held_out, "head": head}
        set_fields(recipes, set_ or [], default="task", own=(words, ("patch", "brightness")))
        spec = FinetuneSpec.parse({**recipes, **words})
        told = {
            "unlabelled": unlabelled,
            "spacing": numbers(spacing, "--spacing"),
            "axes": axes,
            "channel": channel,
        }
        if planning(context):
            from aequorea.workflows.plan import plan_finetune

            show_plan(plan_finetune(data, out, spec, memory=as_bytes(memory), **told))
            return
        with together() as first:
            done = finetune(data, out, spec, memory=as_bytes(memory), **told)
        if first:
            for line in done.lines:
                print(line)
            for name, score in done.scores.items():
                print(f"held-out {done.model.task.better}  {name:10s} {score:.3f}")
            print(f"model: {done.path}")
            print(f"next:  aequorea predict {done.path} IMAGE OUT.ome.zarr")
