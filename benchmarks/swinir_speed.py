"""How close the window transformer comes to the machine's rate, at the size that was published.

One plane, batch 1, float32, inference, one thread, 18 blocks of 90 channels. FLOPs are two for each multiply-add of
linear maps, convolutions and attention products, nothing else and nothing that is computed beside; the rate is that of
a product of 2048² matrices. Passes and products take turns; medians of the processor's time are compared, since others
may use the machine. The parts of a block are timed one by one on as many tokens as it computes at a time.

    python benchmarks/swinir_speed.py            # 256² pixels, 7 rounds, about two minutes
    python benchmarks/swinir_speed.py --quick    # 128² pixels, 3 rounds
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F

from aequorea.backbones.swinir import SwinIR, SwinIRSpec
from aequorea.layers.swin import TOKENS_AT_ONCE

BAR = 0.30
SQUARE = 2048


def seconds(work: Callable[[], object]) -> float:
    began = time.process_time()
    work()
    return time.process_time() - began


def flops(spec: SwinIRSpec, pixels: int) -> int:
    """Return what a pass needs."""
    c, blocks = spec.width, sum(spec.depths)
    linear = 4 * c * c + 2 * c * round(spec.mlp_ratio * c)
    attention = 2 * spec.window**2 * c
    convolutions = 9 * c * (spec.channels + c * (len(spec.depths) + 1))
    return 2 * pixels * (blocks * (linear + attention) + convolutions)


def parts(body: SwinIR) -> dict[str, tuple[Callable[[], object], int]]:
    """Return the parts of a block, and the FLOPs of each, for the tokens that are computed at a time."""
    block = body.groups[0].blocks[1]
    n, c, w = TOKENS_AT_ONCE["cpu"], body.spec.width, body.spec.window**2
    heads = body.spec.heads
    weight, bias, out, out_bias = block._weights()
    each = len(bias) // 3 // heads
    x, many = torch.randn(n, c), torch.randn(16 * n, c)
    q, scores = torch.randn(n // w, heads, w, each), torch.randn(n // w, heads, w, w)
    logits, mixed, wide = torch.randn(heads, w, w), torch.randn(n, heads * each), torch.randn(n, 2 * c)
    places, qkv = torch.randperm(len(many))[:n], torch.randn(n // w, w, 3, heads, each)
    hidden = block.up.out_features
    attention = 2 * n * w * c
    return {
        "gather": (lambda: many.index_select(0, places), 0),
        "norm, twice": (lambda: (block.before(x), block.between(x)), 0),
        "qkv": (lambda: F.linear(x, weight, bias), 2 * n * c * 3 * c),
        "heads apart": (lambda: qkv.permute(2, 0, 3, 1, 4).contiguous(), 0),
        "queries x keys": (lambda: q @ q.transpose(-2, -1), attention),
        "bias and mask": (lambda: scores.add_(logits), 0),
        "softmax": (lambda: scores.softmax(-1), 0),
        "x values": (lambda: scores @ q, attention),
        "out": (lambda: F.linear(mixed, out, out_bias), 2 * n * c * c),
        "up": (lambda: block.up(x), 2 * n * c * hidden),
        "GELU": (lambda: F.gelu(wide), 0),
        "down": (lambda: block.down(wide), 2 * n * c * hidden),
    }


@torch.inference_mode()
def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a quarter of the pixels, fewer rounds")
    quick: bool = parser.parse_args().quick
    torch.set_num_threads(1)
    torch.manual_seed(0)
    side, rounds = (128, 3) if quick else (256, 7)
    body = SwinIR(SwinIRSpec()).eval()
    x, square = torch.randn(1, 1, 1, side, side), torch.randn(SQUARE, SQUARE)
    body(x, None)
    square @ square
    passes, products = [], []
    for _ in range(rounds):
        products.append(seconds(lambda: square @ square))
        passes.append(seconds(lambda: body(x, None)))
    rate = 2 * SQUARE**3 / float(np.median(products))
    took, needed = float(np.median(passes)), flops(body.spec, side * side)
    print("| part of a block, 2048 tokens | ms | of the product's rate |\n|---|---|---|")
    for name, (work, cost) in parts(body).items():
        work()
        part = float(np.median([seconds(work) for _ in range(15)]))
        print(f"| {name} | {1000 * part:.2f} | {f'{cost / part / rate:.2f}' if cost else ''} |")
    image = torch.randn(1, 90, side, side).to(memory_format=torch.channels_last)
    conv = float(np.median([seconds(lambda: body.last(image)) for _ in range(5)]))
    print(f"| convolution, whole plane | {1000 * conv:.0f} | {side**2 * 18 * 8100 / conv / rate:.2f} |")
    print(f"\nproduct of {SQUARE}² matrices: {rate / 1e9:.0f} GFLOP/s")
    print(
        f"a pass over {side}² pixels: {took:.2f} s, {needed / 1e9:.0f} GFLOP, {needed / took / 1e9:.0f} GFLOP/s"
    )
    share = needed / took / rate
    print(f"{share:.0%} of the product's rate (bar {BAR:.0%}): {'met' if share >= BAR else 'MISSED'}")
    return int(share < BAR)


if __name__ == "__main__":
    sys.exit(main())
