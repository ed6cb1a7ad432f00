"""What the backward pass needs, kept on disk: the same bits in less memory.

A batch that some layer takes statistics over cannot be computed in parts. What fills the memory is what each layer
keeps for its gradient, and that is not wanted until the way back: it is written to a file without a name, which
disappears with the process, and read again when its turn comes. On the machine's page cache that costs little.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from aequorea.engine.durable import explained

SMALLEST = 1 << 16
"""Bytes below which a tensor stays in memory."""


class Weight(NamedTuple):
    """What a pass weighs: bytes that are kept for the way back, and those of the largest tensor."""

    kept: int
    largest: int


class _Place(NamedTuple):
    at: int
    nbytes: int
    dtype: torch.dtype
    size: tuple[int, ...]
    stride: tuple[int, ...]


@contextmanager
def on_disk(folder: Path) -> Iterator[Callable[[], None]]:
    """Keep what backward passes need in a file in ``folder``; yields a function that begins the file anew.

    That is to be called when nothing of the file is needed any more, after a step.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder, buffering=0) as opened:
        file: Any = opened
        end = 0

        def pack(tensor: Tensor) -> Tensor | _Place:
            nonlocal end
            learnt = tensor.is_leaf and tensor.requires_grad
            if learnt or tensor.nbytes < SMALLEST or tensor.device.type != "cpu":
                return tensor
            stride = tensor.stride()
            span = 1 + sum((n - 1) * step for n, step in zip(tensor.shape, stride))
            flat = torch.as_strided(tensor.detach(), (span,), (1,), tensor.storage_offset())
            data: Any = memoryview(flat.view(torch.uint8).numpy())  # type: ignore[arg-type]
            place = _Place(end, len(data), tensor.dtype, tuple(tensor.shape), stride)
            file.seek(end)
            end += len(data)
            with explained(folder):
                while len(data):
                    data = data[file.write(data) :]
            return place

        def unpack(kept: Tensor | _Place) -> Tensor:
            if isinstance(kept, Tensor):
                return kept
            flat = torch.empty(kept.nbytes, dtype=torch.uint8)
            data: Any = memoryview(flat.numpy())  # type: ignore[arg-type]
            file.seek(kept.at)
            while len(data):
                data = data[file.readinto(data) :]
            return flat.view(kept.dtype).as_strided(kept.size, kept.stride)

        def anew() -> None:
            nonlocal end
            end = 0

        with torch.autograd.graph.saved_tensors_hooks(pack, unpack):
            yield anew


def weigh(forward: Callable[[], object]) -> Weight:
    """Return what a forward pass would keep, without keeping it."""
    kept = largest = 0

    def pack(tensor: Tensor) -> int:
        nonlocal kept, largest
        if not (tensor.is_leaf and tensor.requires_grad):
            kept += tensor.nbytes
            largest = max(largest, tensor.nbytes)
        return 0

    def unpack(token: int) -> Tensor:
        raise RuntimeError("a pass that is weighed has no way back")

    with torch.autograd.graph.saved_tensors_hooks(pack, unpack):
        forward()
    return Weight(kept, largest)
