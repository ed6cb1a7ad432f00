"""Run a program under torchrun on this machine; the port is any free one."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

LOCAL = ("--standalone", "--local-addr", "127.0.0.1")


def crowd(world: int, *words: str | Path, env: Mapping[str, str]) -> None:
    """Run so many processes of a program and wait; shows what they printed where one of them fails."""
    run = subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", *LOCAL),
            *("--nproc-per-node", str(world), *map(str, words)),
        ],
        capture_output=True,
        text=True,
        timeout=240,
        env={**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo", **env},
    )
    if run.returncode:
        pytest.fail(f"status {run.returncode}\n{run.stdout[-4000:]}\n{run.stderr[-8000:]}")
