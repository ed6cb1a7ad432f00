"""Fitting a head on a body that does not change: features of labelled voxels once, then one small problem.

The head is a linear map per voxel, so its fit is a regression with the task's own loss. It is solved over all
sampled voxels at once by L-BFGS in double precision, on standardised and uncorrelated features from a start at
zero: nothing random, nothing to tune. Both are folded into the weights, so the model is the plain head again.

Read :func:`sample_features`, then :func:`fit_head`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain

import numpy as np
import torch
from torch import Tensor, nn

from aequorea.engine.sampler import Pair
from aequorea.engine.tiles import Tiling
from aequorea.errors import DataError
from aequorea.layers.network import Network
from aequorea.layers.upsample import at_full_resolution
from aequorea.volume import Array, Region, Triple

VOXELS = 50_000
"""Voxels that are sampled by default."""

PENALTY = 3.0
"""Weight of half the squared norm of the weights against the sum of the losses of all voxels."""

ITERATIONS = 300
BLOCK: Triple = (64, 256, 256)


def sample_features(
    network: Network,
    pairs: Sequence[Pair],
    strata: Callable[[Array], Array],
    limit: int = VOXELS,
    seed: int = 0,
) -> tuple[Tensor, Tensor]:
    """Return the body's features and the targets of labelled voxels, evenly over strata.

    Parameters
    ----------
    network
        Its stem and backbone are used, where their parameters are, as in evaluation and at full reach.
    pairs
        Images and targets.
    strata
        ``strata(target_TZYX) -> int8 ZYX``: the kind of each voxel, -1 where unlabelled.
    limit
        About how many voxels are taken at most. Strata with fewer than their share are taken whole.
    seed
        Of which voxels are taken.

    Returns
    -------
    tuple
        Features (N, F) and targets (N, T), float32, on the processor.

    Raises
    ------
    DataError
        If no voxel is labelled, or the output does not lie on the body's grid.
    """
    counts: dict[int, int] = {}
    for pair in pairs:
        if pair.tiling.output(pair.tiling.domain) != pair.tiling.domain:
            raise DataError("a head alone can be fitted only where the output lies on the image's own voxels")
        for _, _, kinds in _blocks(pair, strata):
            for kind in np.unique(kinds[kinds >= 0]):
                counts[int(kind)] = counts.get(int(kind), 0) + int((kinds == kind).sum())
    if not counts:
        raise DataError("no voxel is labelled: paint some of every class, background included")
    keep = {kind: share / counts[kind] for kind, share in shares(counts, limit).items()}
    features, targets = [], []
    for number, pair in enumerate(pairs):
        tiling = Tiling.of(network, pair.tiling.size, pair.tiling.spacing, "full")
        for index, (region, target, kinds) in enumerate(_blocks(pair, strata)):
            rate = np.zeros(kinds.shape)
            for kind, value in keep.items():
                rate[kinds == kind] = value
            rng = np.random.default_rng([seed, number, index])
            taken = np.argwhere(rng.random(kinds.shape) < rate)
            if len(taken):
                places = taken + np.array(region.start)
                features.append(_features(network, pair, tiling, places))
                targets.append(torch.from_numpy(target[(slice(None), *taken.T)].T.astype(np.float32)))
    return torch.cat(features), torch.cat(targets)


def shares(counts: dict[int, int], limit: int) -> dict[int, int]:
    """Return how many of each stratum to take: the same of all, and what small ones lack from the others."""
    taken: dict[int, int] = {}
    for position, (kind, count) in enumerate(sorted(counts.items(), key=lambda item: item[1])):
        taken[kind] = min(count, (limit - sum(taken.values())) // (len(counts) - position))
    return taken


def linear_map(head: nn.Module) -> nn.Conv3d | None:
    """Return the 1³ convolution that is all that a head learns, or ``None`` where a head learns more."""
    maps = [m for m in head.modules() if isinstance(m, nn.Conv3d) and m.kernel_size == (1, 1, 1)]
    if len(maps) != 1 or sum(p.numel() for p in head.parameters()) != sum(
        p.numel() for p in maps[0].parameters()
    ):
        return None
    return maps[0]


@contextmanager
def _one_thread() -> Iterator[None]:
    """Compute with one thread: so small a problem is done before several have agreed on who does what."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@_one_thread()
def fit_head(
    head: nn.Module,
    features: Tensor,
    target: Tensor,
    loss: Callable[[Tensor, Tensor], Tensor],
    penalty: float = PENALTY,
) -> None:
    """Fit the linear map of a head, in place.

    Minimises ``loss + penalty / (2 N) * |W|²``, where W maps standardised features. With a mean cross-entropy
    that is the logistic regression of C = 1 / penalty.

    Parameters
    ----------
    head
        Learns one 1³ convolution with bias: see :func:`linear_map`.
    features
        (N, F).
    target
        (N, T).
    loss
        ``loss(output_1K11N, target_1T11N)``: a mean over voxels.
    penalty
        Stronger is smoother.

    Raises
    ------
    DataError
        If features or loss are not finite.
    """
    conv = linear_map(head)
    if conv is None or conv.bias is None:
        raise TypeError(f"{type(head).__name__} is no single 1³ convolution with bias")
    if not bool(torch.isfinite(features).all()):
        raise DataError(
            "the features of some labelled voxels are not finite: look at the image's intensities there"
        )
    x = features.detach().cpu().double()
    mean = x.mean(0)
    spread = x.std(0, correction=0)
    steady = spread <= 1e-6 * x.abs().amax(0)
    gain = torch.where(steady, 0.0, 1 / spread.clamp(min=1e-300))
    x = ((x - mean) * gain).T.contiguous()
    apart = _apart(x, penalty)
    truth = target.detach().cpu().T.contiguous()[None, :, None, None, :]
    weight = torch.zeros(conv.out_channels, len(x), dtype=torch.float64, requires_grad=True)
    bias = torch.zeros(conv.out_channels, dtype=torch.float64, requires_grad=True)
    solver = torch.optim.LBFGS(
        [weight, bias],
        max_iter=ITERATIONS,
        tolerance_grad=1e-7,
        tolerance_change=1e-10,
        line_search_fn="strong_wolfe",
    )

    def objective() -> Tensor:
        solver.zero_grad()
        own = weight @ apart
        output = torch.addmm(bias[:, None], own, x)[None, :, None, None, :]
        value = loss(output, truth) + penalty / (2 * x.shape[1]) * own.square().sum()
        value.backward()  # type: ignore[no-untyped-call]
        return value

    with torch.enable_grad():
        solver.step(objective)  # type: ignore[no-untyped-call]
    if not bool(torch.isfinite(weight).all() and torch.isfinite(bias).all()):
        raise DataError("the loss is not finite on the labelled voxels: look at labels and intensities")
    with torch.no_grad():
        folded = weight @ apart * gain
        conv.weight.copy_(folded.view_as(conv.weight))
        conv.bias.copy_(bias - folded @ mean)


def _apart(x: Tensor, penalty: float) -> Tensor:
    """Return the matrix (F, F) that makes weights of features x_FN from weights of uncorrelated ones.

    Features of neighbouring scales are much alike; of uncorrelated ones the solver needs half of the evaluations or
    fewer, and comes nearer to the optimum, which is the same: the penalty stays on the weights of the features.
    """
    least = max(penalty / x.shape[1], 1e-9)
    alike = x @ x.T / x.shape[1] + least * torch.eye(len(x), dtype=x.dtype)
    inverse: Tensor = torch.linalg.inv(torch.linalg.cholesky(alike))
    return inverse


def _blocks(pair: Pair, strata: Callable[[Array], Array]) -> Iterator[tuple[Region, Array, Array]]:
    """Yield (region, target_TZYX, kinds_ZYX) over a target."""
    for region in pair.target.region.split(BLOCK):
        target = pair.target.read(region)
        yield region, target, strata(target)


@torch.no_grad()
def _features(network: Network, pair: Pair, tiling: Tiling, places: Array) -> Tensor:
    """Return the finest level's features (N, F) at voxels (N, 3), upsampled where that level is coarser."""
    low, high = places.min(0), places.max(0) + 1
    computed = tiling.computed(Region.at(low, high - low))
    tensor = next(chain(network.parameters(), network.buffers()))  # a forest on filters has no parameters
    image = torch.from_numpy(tiling.read(pair.image, computed))[None].to(tensor.device, torch.float32)
    training = network.training
    levels, given = network.eval().levels(image, tiling.body_spacing, computed.start)
    network.train(training)
    stride = network.backbone.layout(tiling.body_spacing).strides[0]
    level = at_full_resolution(levels[0], stride, given)
    z, y, x = torch.from_numpy(places - np.array(computed.start)).to(level.device).T
    return level[0, :, z, y, x].T.float().cpu()
