"""What every model must do, whatever its task and backbone: take odd images, tile, save, come back."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from aequorea.checks.recipes import claim
from aequorea.engine.predict import predict_dense
from aequorea.engine.tiles import Tiling
from aequorea.errors import AequoreaError
from aequorea.layers.network import Network
from aequorea.model import Model, load
from aequorea.results import MemoryOutput, Result
from aequorea.volume import Array, Spacing, Triple, from_array

SPACINGS: tuple[Spacing | None, ...] = (None, (1.0, 1.0, 1.0), (4.0, 1.0, 1.0), (2.0, 0.26, 0.26))
CLOSE = 1e-4
"""Share of the range by which tiled output may differ from whole output."""


def shaken(network: nn.Module, seed: int) -> None:
    """Give every normalisation random statistics, so that the output of random weights varies.

    Parameters
    ----------
    network
        Changed in place.
    seed
        Of the statistics.
    """
    generator = torch.Generator().manual_seed(seed)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm3d):
            assert module.running_mean is not None and module.running_var is not None
            module.running_mean.normal_(0, 0.2, generator=generator)
            module.running_var.uniform_(0.1, 0.6, generator=generator)
            module.weight.data.uniform_(0.7, 1.4, generator=generator)
            module.bias.data.normal_(0, 0.2, generator=generator)


def untrained(task: Any, backbone: dict[str, Any], spacing: Spacing | None, seed: int = 0) -> Model:
    """Return a model of a resolved task with random weights and statistics."""
    torch.manual_seed(seed)
    made = Model.build(task, backbone, spacing)
    shaken(made.network, seed)
    made.network.eval()
    return made


def model(made: Model, seed: int = 0) -> None:
    """Check a model: odd images, tiles, saving. Its weights should be random, not trained to give nothing.

    Parameters
    ----------
    made
        With a resolved task.
    seed
        Of images and tiles.
    """
    odd_images(made, seed)
    saved(made, seed)
    tiled(made.network, made.spacing, over=made.task.over, seed=seed)


def odd_images(made: Model, seed: int = 0) -> None:
    """Check that odd images give finite results, or one line that says what is wrong with them."""
    who = type(made.task).__name__.lower()
    rng = np.random.default_rng(seed)
    plain = rng.random((6, 16, 20), np.float32)
    holes = plain.copy()
    holes[2, 3:9, 4:8] = np.nan
    endless = plain.copy()
    endless[1, 2, 3], endless[4, 5, 6] = np.inf, -np.inf
    images = {
        "NaN": holes,
        "infinite": endless,
        "only NaN": np.full_like(plain, np.nan),
        "constant": np.full_like(plain, 7),
        "zero": np.zeros_like(plain),
        "negative": -1000 * plain,
        "float64": plain.astype(np.float64),
        "big-endian": (plain * 1000).astype(">u2"),
        "bool": plain > 0.5,
        "huge": plain.astype(np.float64) * 1e300,
        "one plane": plain[:1],
        "two-dimensional": plain[0],
    }
    for name, image in images.items():
        _finite(made.predict(image, made.spacing), f"{who}: of a {name} image")
    native = made.predict(images["big-endian"].astype("=u2"), made.spacing)
    _equal(native, made.predict(images["big-endian"], made.spacing), f"{who}: the order of bytes matters")
    for name, image in (("one voxel", plain[:1, :1, :1]), ("two voxels", plain[:1, :1, :2])):
        try:
            _finite(made.predict(image, made.spacing), f"{who}: of {name}")
        except AequoreaError as error:
            claim("\n" not in str(error), f"{who}: {name} is refused in more than one line")
    for name, image in (("empty", plain[:0]), ("complex", plain.astype(np.complex64))):
        try:
            made.predict(image, made.spacing)
        except AequoreaError as error:
            claim("\n" not in str(error), f"{who}: a {name} image is refused in more than one line")
        else:
            raise AssertionError(f"{who}: a {name} image is not refused")


def saved(made: Model, seed: int = 0) -> None:
    """Check that a saved model comes back with the same card and gives the same bits, always."""
    who = type(made.task).__name__.lower()
    image = np.random.default_rng(seed).random((6, 16, 20), np.float32)
    before = made.predict(image, made.spacing)
    _equal(before, made.predict(image, made.spacing), f"{who}: the same image twice")
    with TemporaryDirectory() as folder:
        path = made.save(Path(folder) / "model.safetensors")
        again = load(path)
        claim(again.card == made.card, f"{who}: the card does not come back from the file")
        claim(again.task.spec == made.task.spec, f"{who}: the task's recipe does not come back from the file")
        _equal(before, again.predict(image, made.spacing), f"{who}: before and after saving")


def tiled(network: Network, spacing: Spacing | None, *, over: str = "voxels", seed: int = 0) -> None:
    """Check that output computed in tiles is that of one pass, on random sizes and cores.

    Parameters
    ----------
    network
        Its output must vary, see :func:`shaken`.
    spacing
        Of the images, µm (z, y, x).
    over
        As the task's: what answers for whole items is not tiled.
    seed
        Of images, sizes and tiles.
    """
    rng = np.random.default_rng(seed)
    if over == "items" or network.sight(network.body_spacing(spacing))[0] is None:
        return
    for _ in range(2):
        z, y, x = (int(n) for n in rng.integers((1, 20, 20), (12, 50, 50)))
        _tiled_once(network, (z, y, x), spacing, rng)


def _tiled_once(network: Network, size: Triple, spacing: Spacing | None, rng: np.random.Generator) -> None:
    who = f"{type(network.backbone).__name__} with {type(network.head).__name__}"
    image = rng.standard_normal((1, *size), np.float32)
    tiling = Tiling.of(network, size, spacing, "full")
    with torch.inference_mode():
        read = image[(slice(None), *tiling.reads(tiling.domain).slices)]
        whole = network(torch.from_numpy(read)[None], tiling.body_spacing)[0].numpy()
    claim(
        whole.shape[1:] == tiling.output_size,
        f"{who}: gives {whole.shape[1:]} voxels where output_grid says {tiling.output_size}",
    )
    spread = float(np.ptp(whole))
    claim(spread > 1e-3, f"{who}: the output does not vary, so tiles cannot be told from the whole")
    core = tuple(int(rng.integers(-(-n // 2), n + 1)) for n in tiling.domain.size)
    block = tiling.output(tiling.domain.at((0, 0, 0), core)).size
    layer = MemoryOutput(block=block).layer(
        "dense",
        size=tiling.output_size,
        dtype=np.float32,
        kind="image",
        channels=tuple(map(str, range(len(whole)))),
    )
    predict_dense(
        tiling,
        from_array(image, spacing),
        layer,
        _as_it_is,
        (core[0], core[1], core[2]),
        empty=np.zeros(len(whole), np.float32),
        skip_constant=False,
        precision="float32",
    )
    apart = float(np.abs(layer.finish().read() - whole).max())
    claim(
        apart <= CLOSE * spread,
        f"{who}: tiles of {core} voxels differ from one pass over {size} by {apart / spread:.2g} of the range "
        f"at spacing {spacing}",
    )


def _as_it_is(output: Tensor) -> Tensor:
    return output


def _finite(result: Result, where: str) -> None:
    for name, layer in result.layers.items():
        values = layer.read()
        claim(values.dtype.kind != "f" or bool(np.isfinite(values).all()), f"{where}: '{name}' is not finite")
    for name, table in result.tables.items():
        claim(len({len(column) for column in table.values()}) <= 1, f"{where}: '{name}' has ragged columns")


def _equal(first: Result, second: Result, where: str) -> None:
    claim(list(first.layers) == list(second.layers), f"{where}: other layers")
    claim(list(first.tables) == list(second.tables), f"{where}: other tables")
    for name, layer in first.layers.items():
        claim(_same(layer.read(), second.layers[name].read()), f"{where}: layer '{name}' differs")
    for name, table in first.tables.items():
        other = second.tables[name]
        claim(list(table) == list(other), f"{where}: table '{name}' has other columns")
        for column, values in table.items():
            claim(_same(values, other[column]), f"{where}: column '{column}' of '{name}' differs")


def _same(a: Array, b: Array) -> bool:
    return bool(np.array_equal(a, b, equal_nan=np.asarray(a).dtype.kind == "f"))
