"""What a step of masked reconstruction costs, beside MONAI's networks.

Two samples of 64³ voxels, forward and backward, the optimizer left out, in float32 on one thread (a single one would
meet PyTorch's slow convolutions for small batches); figures are for one: ``mae`` on ``hiera``
(units of 16 voxels, 75 % hidden and not computed; the decoder that is shipped) and on ``unet``, and a masked-voxel L1
loss through MONAI's SwinUNETR (feature size 24) and its residual UNet (32-512), which compute everything. Rounds are
interleaved; the median of each is compared. FLOPs are counted by PyTorch, and set against the machine's own product of
2048² matrices in the same run.

    python benchmarks/pretrain_speed.py            # medians of 5; SwinUNETR of 3
    python benchmarks/pretrain_speed.py --quick    # without SwinUNETR, medians of 3
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from aequorea.backbones.hiera import Hiera, HieraSpec
from aequorea.backbones.unet import UNet, UNetSpec
from aequorea.objectives.mae import MAE, MAESpec

SIDE, BATCH = 64, 2
BARS = {
    ("hiera small, patch 4", "SwinUNETR 24"): 30.0,
    ("hiera small, patch 2", "SwinUNETR 24"): 8.0,
    ("hiera small, patch 4", "residual UNet 32-512"): 3.0,
}
"""How many times cheaper than what."""


def ours(body: nn.Module) -> Callable[[], None]:
    """Return a step of masked reconstruction."""
    rng = np.random.default_rng(0)
    patch = rng.random((1, SIDE, SIDE, SIDE), np.float32)
    objective = MAE(MAESpec(unit=16, hidden=0.75, optics=0))
    facts = objective.survey(lambda rng: patch[:, :32, :32, :32], body, None, rng)
    made = [objective.prepare(patch, rng, facts) for _ in range(BATCH)]
    batch = {name: torch.from_numpy(np.stack([one[name] for one in made])) for name in made[0]}

    def step() -> None:
        torch.autograd.backward(objective(body, batch, None)["hidden"])

    with torch.no_grad():
        objective(body, batch, None)  # gives the lazy head its size
    return step


def theirs(network: nn.Module) -> Callable[[], None]:
    """Return a step of a masked L1 loss."""
    image = torch.randn(BATCH, 1, SIDE, SIDE, SIDE)
    hidden = torch.rand(image.shape) < 0.75

    def step() -> None:
        out: Tensor = network(image * ~hidden)
        torch.autograd.backward((out - image).abs()[hidden].mean())

    return step


def steps(quick: bool) -> dict[str, Callable[[], None]]:
    """Return every arm."""
    from monai.networks.nets import SwinUNETR
    from monai.networks.nets import UNet as Residual

    torch.manual_seed(0)
    arms = {
        "hiera tiny, patch 4": partial(Hiera, HieraSpec(size="tiny")),
        "hiera small, patch 4": partial(Hiera, HieraSpec(size="small")),
        "hiera small, patch 2": partial(Hiera, HieraSpec(size="small", patch=2)),
        "unet tiny": partial(UNet, UNetSpec()),
    }
    made = {name: ours(build()) for name, build in arms.items()}
    channels = (32, 64, 128, 256, 512)
    made["residual UNet 32-512"] = theirs(Residual(3, 1, 1, channels, (2,) * 4, num_res_units=2))
    if not quick:
        made["SwinUNETR 24"] = theirs(SwinUNETR(in_channels=1, out_channels=1, feature_size=24))
    return made


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="without SwinUNETR, under a minute")
    quick: bool = parser.parse_args().quick
    torch.set_num_threads(1)
    arms = steps(quick)
    flops = {}
    for name, step in arms.items():
        with FlopCounterMode(display=False) as counter:
            step()
        flops[name] = counter.get_total_flops() / BATCH
    seconds: dict[str, list[float]] = {name: [] for name in arms}
    for turn in range(3 if quick else 5):
        for name, step in arms.items():
            if name.startswith("Swin") and turn >= 3:
                continue
            began = time.perf_counter()
            step()
            seconds[name].append((time.perf_counter() - began) / BATCH)
    square = torch.randn(2048, 2048)
    square @ square
    began = time.perf_counter()
    for _ in range(3):
        square @ square
    rate = 3 * 2 * 2048**3 / (time.perf_counter() - began)
    median = {name: float(np.median(times)) for name, times in seconds.items()}
    print(f"product of 2048² matrices: {rate / 1e9:.0f} GFLOP/s\n")
    print("| a sample of 64³ voxels | ms | GFLOP | of the product's rate |\n|---|---|---|---|")
    for name, time_ in median.items():
        share = flops[name] / time_ / rate
        print(f"| {name} | {1000 * time_:.0f} | {flops[name] / 1e9:.1f} | {share:.2f} |")
    missed, told = [], []
    for (name, rival), bar in BARS.items():
        if rival in median:
            cheaper = median[rival] / median[name]
            told.append(f"{name} {cheaper:.1f} x cheaper than {rival} (bar {bar:g})")
            missed += [told[-1]] if cheaper < bar else []
    print("\n" + "; ".join(told) + f": {'MISSED' if missed else 'met'}")
    return int(bool(missed))


if __name__ == "__main__":
    sys.exit(main())
