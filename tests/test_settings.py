"""What the command line asks of PyTorch and zarr before they are imported."""

from __future__ import annotations

import subprocess
import sys

import pytest

LOOK = """
from aequorea.settings import settle
settle()
import zarr
print(zarr.config.get("codec_pipeline.batch_size"), zarr.config.get("threading.max_workers"))
"""


def test_zarr_is_told_unless_the_user_told_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ZARR_CODEC_PIPELINE__BATCH_SIZE", raising=False)
    monkeypatch.setenv("ZARR_THREADING__MAX_WORKERS", "3")
    shown = subprocess.run([sys.executable, "-c", LOOK], capture_output=True, text=True, check=True)
    assert shown.stdout.split() == ["16", "3"]
