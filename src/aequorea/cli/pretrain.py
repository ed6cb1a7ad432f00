"""``aequorea pretrain``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from aequorea.cli.options import Memory, numbers, planning, set_fields, show_plan


def command(app: typer.Typer) -> None:
    """Register the command."""

    @app.command()
    def pretrain(
        context: typer.Context,
        data: Annotated[
            list[Path], typer.Argument(help="Images, or folders that are searched for them; no labels.")
        ],
        out: Annotated[Path, typer.Option("--out", "-o", help="Run folder.")] = Path("pretrained"),
        backbone: Annotated[str, typer.Option(help="hiera or unet.")] = "hiera",
        objective: Annotated[str, typer.Option(help="What is learnt: mae or restore_many.")] = "mae",
        steps: Annotated[int, typer.Option(help="Training steps.")] = 1000,
        batch: Annotated[int, typer.Option(help="Patches of a step.")] = 8,
        learning_rate: Annotated[float, typer.Option(help="Peak learning rate.")] = 2e-3,
        seed: Annotated[int, typer.Option(help="Of everything that is drawn.")] = 0,
        patch: Annotated[
            str | None,
            typer.Option(help="Voxels of a patch; default: 64,64,64 (unet: 32,32,32).", metavar="Z,Y,X"),
        ] = None,
        held: Annotated[
            list[Path] | None,
            typer.Option(
                "--held",
                help="Images to judge by, not trained on; default: specimens of the data. May be repeated.",
            ),
        ] = None,
        probe: Annotated[
            Path | None,
            typer.Option(help="Labelled images to try the features on, as for finetune; default: simulated."),
        ] = None,
        sequence: Annotated[
            bool, typer.Option("--sequence", help="The images of a folder are the planes of one volume.")
        ] = False,
        cache: Annotated[
            Path | None,
            typer.Option(
                help="Folder for slow volumes, converted once; runs may share it. Default: one in the run folder.",
            ),
        ] = None,
        cache_size: Annotated[
            str | None,
            typer.Option(
                help="Most it may take, e.g. 50GB; default: 100GB, or half of the free disk.", metavar="SIZE"
            ),
        ] = None,
        held_out: Annotated[float, typer.Option(help="Share of the specimens kept to judge by.")] = 0.15,
        set_: Annotated[
            list[str] | None,
            typer.Option("--set", help="A field of objective, backbone or train: objective.unit=16"),
        ] = None,
        memory: Memory = None,
    ) -> None:
        """Learn from volumes without labels; run again to take up an interrupted run."""
        from aequorea.engine.memory import as_bytes
        from aequorea.engine.processes import together
        from aequorea.workflows.dataset import dataset
        from aequorea.workflows.pretrain import PretrainSpec, pretrain
        from aequorea.workflows.unlabelled import find_volumes

        recipes: dict[str, dict[str, Any]] = {
            "objective": {"name": objective},
            "backbone": {"name": backbone},
            "train": {
                "steps": steps,
                "batch": batch,
                "learning_rate": learning_rate,
                "seed": seed,
                "checkpoint_every": 50,
            },
        }
        set_fields(recipes, set_ or [])
        spec = PretrainSpec.parse(
            {
                "objectives": [{"objective": recipes["objective"]}],
                "backbone": recipes["backbone"],
                "train": recipes["train"],
                "patch": numbers(patch, "--patch", int),
                "held_out": held_out,
            }
        )
        volumes = find_volumes(data, sequence)
        kept = [path for path, _ in find_volumes(held, sequence)] if held else []
        words: dict[str, Any] = {
            "groups": [group for _, group in volumes],
            "held": kept,
            "probe": dataset(probe) if probe else (),
            "many": "sequence" if sequence else None,
            "memory": as_bytes(memory),
        }
        images = [path for path, _ in volumes]
        if planning(context):
            from aequorea.workflows.plan import plan_pretrain

            show_plan(plan_pretrain(images, out, spec, **words))
            return
        with together() as first:
            done = pretrain(
                images,
                out,
                spec,
                cache=cache,
                cache_size=as_bytes(cache_size, "--cache-size"),
                say=print if first else lambda line: None,
                **words,
            )
        if first:
            print(f"body:  {done.path}, report: {done.path.with_name('report.html')}")
            print(f"next:  aequorea finetune LABELLED --model {done.path}")
