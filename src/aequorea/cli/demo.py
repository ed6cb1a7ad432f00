"""``aequorea demo``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

SHOWN = ("f1_50", "ap_50", "f1_75", "split_rate", "merge_rate", "dice")


def command(app: typer.Typer) -> None:
    """Register the command."""

    @app.command()
    def demo(
        data: Annotated[
            str | None, typer.Option(help="Folder or pattern of volumes with instance labels.")
        ] = None,
        out: Annotated[Path, typer.Option("--out", "-o", help="Folder to write.")] = Path("aequorea-demo"),
        steps: Annotated[
            int | None, typer.Option(help="Training steps; default: a few minutes of them.")
        ] = None,
    ) -> None:
        """Show the whole path: train on two labelled crops, predict an unseen volume, score and report."""
        import time

        from aequorea.progress import clock
        from aequorea.workflows.demo import STEPS
        from aequorea.workflows.demo import demo as run

        began = time.monotonic()
        done = run(out, data, steps=STEPS if steps is None else steps)
        names = [n for n in SHOWN if all(n in scores for _, scores in done.rows)]
        print("\n" + "method".ljust(20) + "".join(n.rjust(12) for n in names))
        for method, scores in done.rows:
            print(method.ljust(20) + "".join(_number(scores[n]).rjust(12) for n in names))
        print(f"\ntook {clock(time.monotonic() - began)}")
        print(f"report:  {out / 'report.html'}")
        print(f"objects: {out / 'objects.csv'}")
        print(f"volumes: {', '.join(str(p) for p in sorted(out.glob('*.ome.zarr')))}")


def _number(interval: dict[str, float | None]) -> str:
    value = interval["value"]
    return "-" if value is None else f"{value:.3f}"
