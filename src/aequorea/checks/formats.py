"""What every format must do."""

from __future__ import annotations

import builtins
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from aequorea.checks.recipes import claim
from aequorea.errors import AequoreaError
from aequorea.plugs import OpenOptions
from aequorea.registry import find
from aequorea.volume import Region


def format(name: str, path: str | Path | None = None, options: OpenOptions | None = None) -> None:
    """Check a registered format: that it does not claim what it cannot know and, with a file of it, what it reads.

    Parameters
    ----------
    name
        As registered.
    path
        A small file of this format.
    options
        To open it with.
    """
    plug = find("formats", name)()
    claim(plug.name == name, f"{name}: is registered as '{name}' but calls itself '{plug.name}'")
    claim(
        all(s.startswith(".") and s == s.lower() for s in plug.suffixes),
        f"{name}: its suffixes are not lower-case and begin with a dot",
    )
    with TemporaryDirectory() as folder:
        for suffix in (".zzyzx", *plug.suffixes):
            for what, data in (("empty", b""), ("meaningless", b"\x07meaningless" * 40)):
                odd = Path(folder) / f"{what}{suffix}"
                odd.write_bytes(data)
                _refused(name, odd, f"{what} file '{odd.name}'")
            _refused(name, Path(folder) / f"missing{suffix}", f"missing file 'missing{suffix}'")
    if path is not None:
        _reads(name, Path(path), options or OpenOptions())


def _refused(name: str, path: Path, what: str) -> None:
    """Check that a file is left to others, or refused in one line."""
    plug = find("formats", name)()
    if not plug.sniff(path):
        return
    try:
        plug.open(path, OpenOptions()).read()
    except AequoreaError as error:
        claim("\n" not in str(error), f"{name}: a {what} is refused in more than one line")
        claim(path.name in str(error), f"{name}: the error of a {what} does not name it")
    else:
        raise AssertionError(f"{name}: a {what} is opened as if it were an image")


def _reads(name: str, path: Path, options: OpenOptions) -> None:
    plug = find("formats", name)()
    claim(plug.sniff(path), f"{name}: does not know {path}")
    volume = plug.open(path, options)
    claim(volume.format == name, f"{name}: its volume says that it was opened by '{volume.format}'")
    claim(min(volume.shape) > 0, f"{name}: opens {path} as an empty volume")
    claim(
        volume.dtype.isnative and volume.dtype.kind in "biuf",
        f"{name}: gives values of type {volume.dtype!r}",
    )
    claim(
        volume.spacing is None or all(np.isfinite(s) and s > 0 for s in volume.spacing),
        f"{name}: gives a spacing of {volume.spacing} µm",
    )
    claim(bool(builtins.list(plug.list(path))), f"{name}: lists nothing in {path}")
    whole = volume.read()
    rng = np.random.default_rng(0)
    regions = []
    for _ in range(12):
        start = [int(rng.integers(n)) for n in volume.size]
        regions.append(Region.at(start, [1 + int(rng.integers(n)) for n in volume.size]).clip(volume.region))
    with ThreadPoolExecutor(4) as pool:
        for region, block in zip(regions, pool.map(volume.read, regions)):
            claim(
                np.array_equal(
                    block, whole[(slice(None), *region.slices)], equal_nan=whole.dtype.kind == "f"
                ),
                f"{name}: region {region} of {path} is not that part of the whole",
            )
    claim(
        plug.open(path, options).fingerprint == volume.fingerprint,
        f"{name}: opening {path} twice gives other data",
    )
