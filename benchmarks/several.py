"""What benchmark and tests of several processes share: a Dask cluster on this machine, and the equality of stores."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import zarr


def equal(one: Path, other: Path) -> bool:
    """Whether two stores have the same arrays and tables."""
    a, b = zarr.open_group(one, mode="r"), zarr.open_group(other, mode="r")
    names = [name for name, node in a.members(max_depth=None) if isinstance(node, zarr.Array)]
    tables = sorted(path.name for path in (one / "tables").glob("*.csv"))
    return (
        len(names) > 3
        and all(np.array_equal(a[name][...], b[name][...]) for name in names)
        and all((one / "tables" / n).read_bytes() == (other / "tables" / n).read_bytes() for n in tables)
    )


@contextmanager
def dask_cluster(folder: Path, preload: str) -> Iterator[tuple[str, list[subprocess.Popen[bytes]]]]:
    """Yield the address of a cluster and its two workers, processes of one thread that run ``preload`` first."""
    from distributed import Client

    (folder / "preload.py").write_text(preload)
    port = 20_000 + os.getpid() % 20_000
    address = f"tcp://127.0.0.1:{port}"

    def run(*words: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, "-m", *words, "--no-dashboard"],
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    scheduler = run("distributed.cli.dask_scheduler", "--port", str(port), "--host", "127.0.0.1")
    worker = ("distributed.cli.dask_worker", address, "--nthreads", "1", "--no-nanny")
    workers = [run(*worker, "--preload", str(folder / "preload.py")) for _ in range(2)]
    try:
        with Client(address, timeout="60s") as client:
            client.wait_for_workers(2, timeout=60)
        yield address, workers
    finally:
        for process in (*workers, scheduler):
            process.kill()
            process.wait()
