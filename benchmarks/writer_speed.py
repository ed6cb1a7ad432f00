"""CPU time of everything in ``predict`` that is not the network, per gigavoxel.

Reads a zstd-compressed uint16 volume shard by shard, counts its intensities, scales it, writes one uint8
channel with pyramid and fsync. ``--quick`` takes one shard of 256³ instead of sixteen. Leaves with status 1
above the bar.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import zarr
from scipy.ndimage import gaussian_filter
from zarr.codecs import ZstdCodec

from aequorea.engine.writer import ZarrOutput
from aequorea.signal.intensity import measure, normalise
from aequorea.volume import Triple, from_array

BAR = 40.0
SHARD: Triple = (256, 256, 256)


def specimen() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    smooth = gaussian_filter(rng.standard_normal(SHARD).astype(np.float32), 6)
    rough = gaussian_filter(rng.standard_normal(SHARD).astype(np.float32), 1)
    probability = 1 / (1 + np.exp(4 - 4 * smooth / smooth.std() - 0.7 * rough / rough.std()))
    counts = rng.poisson(100 + 200 * probability).astype(np.uint16)
    return counts, np.round(255 * probability).astype(np.uint8)[None]


def main() -> int:
    size: Triple = SHARD if "--quick" in sys.argv else (512, 512, 1024)
    spent: dict[str, float] = {}

    def timed(name: str, work: Callable[[], object], times: int = 1) -> None:
        began = time.process_time()
        for _ in range(times):
            work()
        spent[name] = (time.process_time() - began) / np.prod(size) * 1e9

    counts, probability = specimen()
    with tempfile.TemporaryDirectory() as folder:
        source = zarr.create_array(
            Path(folder) / "in.zarr",
            shape=size,
            shards=SHARD,
            chunks=(64, 64, 64),
            dtype="u2",
            compressors=[ZstdCodec()],
        )
        volume = from_array(source, spacing=(1.0, 1.0, 1.0))
        shards = list(volume.region.split(SHARD))
        for region in shards:
            source[region.slices] = counts
        intensity = measure(volume, progress=False)
        layer = ZarrOutput(Path(folder) / "out.ome.zarr", identity="speed").layer(
            "dense", size=size, dtype="u1", kind="image", channels=("cells",), spacing=volume.spacing
        )
        timed("histogram", lambda: measure(volume, progress=False))
        regions = iter(shards)
        timed("read", lambda: volume.read(next(regions)), len(shards))
        timed("scale", lambda: normalise(counts[None], intensity), len(shards))
        regions = iter(shards)
        timed("write", lambda: layer.write(next(regions), probability), len(shards))
        timed("pyramid", layer.finish)
    for name, seconds in spent.items():
        print(f"{name:10} {seconds:6.2f} CPU-s/gigavoxel")
    total = sum(spent.values())
    print(f"outside the network: {total:.1f} CPU-s/gigavoxel (bar {BAR:g})")
    return int(total > BAR)


if __name__ == "__main__":
    sys.exit(main())
