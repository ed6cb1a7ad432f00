"""The same prediction on a running Dask cluster: one part of :mod:`aequorea.crew` per worker."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from aequorea.errors import DataError
from aequorea.signal.axes import spatial_axes
from aequorea.volume import Volume
from aequorea.workflows.open import open as open_volume
from aequorea.workflows.predict import Predicted, PredictSpec, predict

RETRIES = 100
"""Workers that may be lost under one part before it is given up; the others take over what it left."""


def predict_on(
    scheduler: str,
    model: str | Path,
    source: str | Path,
    out: str | Path,
    spec: PredictSpec,
    *,
    opening: dict[str, Any] | None = None,
    mask: str | Path | None = None,
    say: Callable[[str], None] = print,
) -> Predicted:
    """Predict a volume into an OME-Zarr with all workers of a cluster.

    Paths must be the same on all of them. What a lost worker leaves is taken over by the others, and workers that
    take its place join in.

    Parameters
    ----------
    scheduler
        Address, e.g. ``tcp://host:8786``.
    model, source, out, spec
        As for :func:`aequorea.workflows.predict.predict`.
    opening
        Words for :func:`aequorea.open`.
    mask
        Image on the same grid; nothing is predicted where it is 0.
    say
        Receives lines for the user.

    Raises
    ------
    DataError
        If Dask is not installed, nobody answers at the address, or the cluster has no workers.
    """
    try:
        from distributed import Client
    except ImportError:
        raise DataError("--scheduler needs Dask: pip install 'aequorea[dask]'") from None
    try:
        client = Client(scheduler, timeout="10s")
    except (OSError, ValueError) as error:
        raise DataError(
            f"--scheduler {scheduler}: no answer ({error}); start one with: dask scheduler"
        ) from error
    with client:
        parts = len(client.scheduler_info(n_workers=-1)["workers"])
        if not parts:
            raise DataError(f"--scheduler {scheduler}: the cluster has no workers: dask worker {scheduler}")
        say(f"{parts} workers at {scheduler}, their progress: {client.dashboard_link}")
        where = [str(Path(path).absolute()) for path in (model, source, out)]
        over = str(Path(mask).absolute()) if mask else None
        jobs = [
            client.submit(
                _part, *where, spec.plain(), opening or {}, over, (part, parts), retries=RETRIES, pure=False
            )
            for part in range(1, parts + 1)
        ]
        lines = client.gather(jobs)
    for line in dict.fromkeys(line for found in lines for line in found):
        say(line)
    return predict(
        model,
        open_volume(source, **(opening or {})),
        out,
        spec,
        mask=_mask(mask, opening),
        say=lambda line: None,
    )


def _part(
    model: str,
    source: str,
    out: str,
    spec: dict[str, Any],
    opening: dict[str, Any],
    mask: str | None,
    part: tuple[int, int],
) -> list[str]:
    """Do one part on a worker; returns what it had to say."""
    lines: list[str] = []
    predict(
        model,
        open_volume(source, **opening),
        out,
        PredictSpec.parse(spec),
        mask=_mask(mask, opening),
        part=part,
        say=lines.append,
    )
    return [line for line in lines if "nothing to do" not in line]


def _mask(path: str | Path | None, opening: dict[str, Any] | None) -> Volume | None:
    return open_volume(path, axes=spatial_axes((opening or {}).get("axes"))) if path else None
