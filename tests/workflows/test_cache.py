"""The cache of converted volumes: equal voxels, bounded bytes, taken up after a kill, shared and emptied."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import tifffile

from aequorea.engine.memory import as_bytes
from aequorea.errors import SpecError
from aequorea.volume import Region, Volume, from_array
from aequorea.workflows import cache as module
from aequorea.workflows.cache import Cache, bytes_in, chunk_of, slow
from aequorea.workflows.index import stamp_of
from aequorea.workflows.open import open as open_volume
from aequorea.workflows.unlabelled import find_volumes

BLOCK = (16, 32, 32)


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let small volumes count as slow, and shards be small."""
    monkeypatch.setattr(module, "LEAST", 0)
    monkeypatch.setattr(module, "SHARD", (16, 64, 64))
    monkeypatch.setattr(module, "SLAB", 16 * 200 * 180 * 2 * 2)


def planes(seed: int, shape: tuple[int, ...] = (40, 200, 180)) -> np.ndarray:
    """Return noise on a slope: it compresses, but not to nothing."""
    rng = np.random.default_rng(seed)
    return (rng.integers(0, 30, shape) + np.arange(shape[-1])).astype(np.uint16)


def packed(path: Path, seed: int, **words: object) -> Path:
    tifffile.imwrite(
        path, planes(seed), compression="zlib", metadata={"axes": "ZYX", "spacing": 2.0}, **words
    )
    return path


def fill(folder: Path, paths: list[Path], limit: int | None = None) -> tuple[list[Volume], list[str], Cache]:
    told: list[str] = []
    cache = Cache(folder, limit, told.append)
    made = [cache.over(open_volume(path), BLOCK, stamp_of(str(path))) for path in paths]
    cache.fill([found for _, found in made if found is not None])
    return [volume for volume, _ in made], told, cache


def test_what_is_slow(tmp_path: Path) -> None:
    """It follows from what the file says: compressed pieces much larger than a block."""
    for name, words, expected in (
        ("planes", {"compression": "zlib", "rowsperstrip": 200}, True),
        ("tiles", {"compression": "zlib", "tile": (32, 32)}, False),
        ("plain", {}, False),
    ):
        tifffile.imwrite(tmp_path / f"{name}.tif", planes(0), metadata={"axes": "ZYX"}, **words)
        assert slow(open_volume(tmp_path / f"{name}.tif"), BLOCK) is expected, name
    folder = tmp_path / "folder"
    folder.mkdir()
    for z, plane in enumerate(planes(0)):
        tifffile.imwrite(folder / f"{z}.tif", plane)
    assert slow(open_volume(folder, many="sequence"), BLOCK)
    assert not slow(from_array(planes(0)), BLOCK)
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("whole", data=planes(0), chunks=(40, 200, 180), compression="gzip")
        file.create_dataset("small", data=planes(0), chunks=(8, 32, 32), compression="gzip")
    assert slow(open_volume(tmp_path / "a.h5", dataset="whole"), BLOCK)
    assert not slow(open_volume(tmp_path / "a.h5", dataset="small"), BLOCK)
    nibabel = pytest.importorskip("nibabel")
    nibabel.save(nibabel.Nifti1Image(planes(0).T, np.eye(4)), tmp_path / "a.nii.gz")
    nibabel.save(nibabel.Nifti1Image(planes(0).T, np.eye(4)), tmp_path / "b.nii")
    assert slow(open_volume(tmp_path / "a.nii.gz"), BLOCK)
    assert not slow(open_volume(tmp_path / "b.nii"), BLOCK)


def test_small_volumes_are_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LEAST", 1 << 23)
    assert not slow(open_volume(packed(tmp_path / "a.tif", 0)), BLOCK)


@pytest.mark.parametrize("channels", [1, 3])
def test_voxels_are_equal_and_blocks_are_drawn_alike(tmp_path: Path, channels: int) -> None:
    path = tmp_path / "a.tif"
    data = planes(1, (40, channels, 200, 180)) if channels > 1 else planes(1)
    data[:16, ..., :64, :64] = 0  # a shard of zeros, which is not written
    axes = {"axes": "ZCYX" if channels > 1 else "ZYX"}
    tifffile.imwrite(path, data, compression="zlib", metadata=axes, photometric="minisblack")
    source = open_volume(path)
    (volume,), told, _ = fill(tmp_path / "cache", [path])
    assert len(told) == 1 and "a.tif is slow" in told[0] and "at most" in told[0] and "cache" in told[0]
    assert np.array_equal(volume.read(), source.read())
    part = Region((3, 50, 60), (37, 131, 170))
    assert np.array_equal(volume.read(part), source.read(part))
    (store,) = (tmp_path / "cache").glob("*.ome.zarr")
    stored = open_volume(store)
    assert np.array_equal(stored.read(), source.read()) and stored.channels == source.channels
    assert (volume.shape, volume.dtype, volume.spacing) == (source.shape, source.dtype, source.spacing)
    assert volume.fingerprint == source.fingerprint
    (unconverted,), _, _ = fill(tmp_path / "none", [path], limit=0)
    assert volume.chunks == unconverted.chunks == chunk_of(source) == stored.chunks
    assert np.array_equal(unconverted.read(), source.read())


def test_a_second_run_reuses_it_and_a_changed_file_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = packed(tmp_path / "a.tif", 0)
    fill(tmp_path / "cache", [path])
    assert [found for found, _ in find_volumes([tmp_path])] == [path]  # the cache is not searched
    with monkeypatch.context() as patch:
        patch.setattr(module, "_write", lambda *words: pytest.fail("converted again"))
        (volume,), told, _ = fill(tmp_path / "cache", [path])
        assert told == []
        assert np.array_equal(volume.read()[0], planes(0))
    packed(path, 5)
    (volume,), told, _ = fill(tmp_path / "cache", [path])
    assert len(told) == 1
    assert np.array_equal(volume.read()[0], planes(5))


def test_bytes_are_bounded_and_the_longest_unused_go(tmp_path: Path) -> None:
    paths = [packed(tmp_path / f"{n}.tif", n) for n in range(3)]
    folder = tmp_path / "cache"
    caches = [fill(folder, [path])[2] for path in paths[:2]]
    stores = {store: store.stat().st_mtime_ns for store in folder.glob("*.ome.zarr")}
    expected = int(1.5 * paths[2].stat().st_size)
    limit = bytes_in(folder) + expected // 2
    oldest, newest = sorted(stores, key=lambda store: stores[store])
    # Both are in use: the third is read from where it is.
    (volume,), told, third = fill(folder, [paths[2]], limit)
    assert len(told) == 1 and "no room" in told[0] and "--cache-size" in told[0]
    assert np.array_equal(volume.read()[0], planes(2))
    for cache in (*caches, third):
        cache.close()
    (volume,), told, _ = fill(folder, [paths[2]], limit)
    assert "converted once" in told[0]
    assert not oldest.exists() and newest.exists()
    assert bytes_in(folder) <= limit
    assert np.array_equal(volume.read()[0], planes(2))


def test_what_turns_out_too_large_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the estimate was wrong the conversion ends at the bound."""
    path = packed(tmp_path / "a.tif", 0)
    monkeypatch.setattr(module.Slow, "expected", 10)
    (volume,), told, _ = fill(tmp_path / "cache", [path], 200_000)
    assert "no room" in told[-1]
    assert not list((tmp_path / "cache").glob("*.ome.zarr"))
    assert np.array_equal(volume.read()[0], planes(0))


SCRIPT = """
import sys
from pathlib import Path
from aequorea.workflows import cache as module
from test_cache import fill, BLOCK
module.LEAST, module.SHARD, module.SLAB = 0, (16, 64, 64), 16 * 200 * 180 * 2 * 2
written = module.ZarrLayer.write
def write(*words):
    written(*words)
    print("shard", flush=True)
module.ZarrLayer.write = write
fill(Path(sys.argv[1]), [Path(sys.argv[2])])
"""


def test_a_killed_conversion_is_taken_up(tmp_path: Path) -> None:
    path = packed(tmp_path / "a.tif", 0)
    rng = np.random.default_rng(0)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])}
    for _ in range(2):
        child = subprocess.Popen(
            [sys.executable, "-c", SCRIPT, str(tmp_path / "cache"), str(path)],
            stdout=subprocess.PIPE,
            env=environment,
        )
        assert child.stdout is not None
        child.stdout.readline()
        time.sleep(rng.uniform(0, 0.05))
        child.send_signal(signal.SIGKILL)
        child.wait()
    shards = {shard: shard.stat().st_mtime_ns for shard in (tmp_path / "cache").rglob("0/c/*/*/*/*")}
    assert shards
    (volume,), _, _ = fill(tmp_path / "cache", [path])
    after = {shard: shard.stat().st_mtime_ns for shard in (tmp_path / "cache").rglob("0/c/*/*/*/*")}
    assert len(after) == 3 * 4 * 3
    kept = [shard for shard, when in shards.items() if after[shard] == when]
    assert kept, "nothing was taken up"
    assert np.array_equal(volume.read()[0], planes(0))


def test_sizes_are_read() -> None:
    assert as_bytes("50GB", "--cache-size") == 50 * 10**9
    assert as_bytes("1.5 tb", "--cache-size") == 1_500_000_000_000
    assert as_bytes("0", "--cache-size") == 0
    assert as_bytes(None, "--cache-size") is None
    with pytest.raises(SpecError, match="--cache-size 4GB"):
        as_bytes("much", "--cache-size")
