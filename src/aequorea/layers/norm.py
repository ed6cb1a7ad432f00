"""Batch normalisation whose statistics are those of the global batch, whatever the number of processes.

Normalisation with spatial statistics (instance, group) would make a voxel depend on the tile it lies in. Batch
normalisation in evaluation is a per-channel affine map: it has no reach and folds into the convolution before it.
PyTorch's own synchronised version exists for GPUs alone; this one works with any backend.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.distributed as dist
from torch import Tensor, nn


class _SumOverProcesses(torch.autograd.Function):
    """Sum over processes, forward and backward."""

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, x: Tensor) -> Tensor:
        out = x.clone()
        dist.all_reduce(out)
        return out

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, *grads: Tensor) -> Tensor:
        out = grads[0].clone()
        dist.all_reduce(out)
        return out


class BatchNorm(nn.BatchNorm3d):
    """Per-channel normalisation over the batch and all voxels of all processes; x_BCZYX to x_BCZYX."""

    def forward(self, x: Tensor) -> Tensor:
        """Normalise with batch statistics in training, running statistics in evaluation."""
        together = (
            self.training and dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
        )
        if not together:
            return super().forward(x)
        wide = x.double()  # as the sums over one process are: so that two give what one gives
        dims = (0, 2, 3, 4)
        count = torch.full((1,), float(wide.numel() // wide.shape[1]), device=x.device, dtype=wide.dtype)
        total: Tensor = _SumOverProcesses.apply(torch.cat([wide.sum(dims), count]))  # type: ignore[no-untyped-call]
        n = total[-1]
        mean = total[:-1] / n
        centred = wide - mean.view(1, -1, 1, 1, 1)
        square: Tensor = _SumOverProcesses.apply(centred.square().sum(dims))  # type: ignore[no-untyped-call]
        var = square / n
        with torch.no_grad():
            assert self.running_mean is not None and self.running_var is not None
            momentum = 0.1 if self.momentum is None else self.momentum
            self.running_mean.lerp_(mean.to(self.running_mean), momentum)
            self.running_var.lerp_((var * (n / (n - 1).clamp(min=1))).to(self.running_var), momentum)
            if self.num_batches_tracked is not None:
                self.num_batches_tracked.add_(1)
        scale = self.weight * (var + self.eps).rsqrt()
        out = centred * scale.view(1, -1, 1, 1, 1) + self.bias.view(1, -1, 1, 1, 1)
        return out.to(x.dtype)


@torch.no_grad()
def settle(module: nn.Module, passes: Sequence[Callable[[], object]]) -> None:
    """Give normalisations the statistics of some inputs, in place of those of training.

    Parameters
    ----------
    module
        Left in evaluation.
    passes
        Each sends something through the module.
    """
    norms = [m for m in module.modules() if isinstance(m, nn.BatchNorm3d)]
    momenta = [norm.momentum for norm in norms]
    module.train()
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the mean over all passes
    for run in passes:
        run()
    for norm, momentum in zip(norms, momenta):
        norm.momentum = momentum
    module.eval()
