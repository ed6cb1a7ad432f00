"""``kill -9`` in the middle of what writes; ``benchmarks/kills.py`` does it sixty times for each verb."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.skipif(not hasattr(os, "fork"), reason="children are forked, which this system cannot")
def test_runs_that_were_killed_end_in_the_same_bits() -> None:
    """Three kills each at uniform times; also a second run, a damaged checkpoint and a damaged shard."""
    script = Path(__file__).parents[2] / "benchmarks" / "kills.py"
    done = subprocess.run([sys.executable, str(script), "--quick"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "a second run changes nothing" in done.stdout
    assert "a damaged checkpoint is passed over" in done.stdout
    assert "a damaged shard is computed again" in done.stdout
    assert done.stdout.splitlines()[-1].endswith("met")
