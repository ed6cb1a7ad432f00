"""Several processes as one: ``torchrun --nproc-per-node N -m aequorea finetune ...``."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch
import torch.distributed as dist


@contextmanager
def together() -> Iterator[bool]:
    """Join the processes that ``torchrun`` started, if it did; yields whether this is the first one."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield True
        return
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    try:
        yield dist.get_rank() == 0
    finally:
        dist.destroy_process_group()


def first_alone(work: Callable[[], object]) -> None:
    """Let the first process do something, for hours if need be, while the others wait for its end."""
    several = dist.is_available() and dist.is_initialized()
    if not several or dist.get_rank() == 0:
        work()
    if several:
        # A group of its own: the usual one gives up after minutes.
        dist.barrier(dist.new_group(backend="gloo", timeout=timedelta(days=365)))
