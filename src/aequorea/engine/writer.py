"""The output on disk: one OME-Zarr 0.5 store that can be killed at any instant and taken up again.

Layers (:mod:`aequorea.engine.layer`) are written shard by shard, metadata and tables whole.

``OUT/``
    ``zarr.json``, ``0/``, ``1/`` ... the image named ``dense`` (where there is none, the metadata point to
    the arrays of the first layer), ``labels/NAME/``, other images in ``NAME/``, ``tables/NAME.csv``
``OUT/.aequorea/``
    ``state.json`` (whose result this is, and whether it is finished), ``journal/NAME.jsonl``, ``partial/``,
    ``scratch/`` (deleted in the end)
"""

from __future__ import annotations

import json
import re
import shutil
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np

from aequorea.crew import AllDone, Crew
from aequorea.engine import ome_metadata, table
from aequorea.engine.durable import explained, make_folder, sweep, write_file, write_json
from aequorea.engine.layer import OURS, LayerSpec, ZarrLayer, fit, put
from aequorea.engine.tiles import part_of
from aequorea.errors import DataError
from aequorea.results import Result, Table
from aequorea.volume import Spacing, Triple

STATE_VERSION = 1
CHUNK: Triple = (64, 64, 64)
CHUNKS: dict[int, Triple] = {1: (64, 128, 128), 2: (64, 64, 128)}
"""Voxels (z, y, x) of a chunk, a megabyte, by the bytes of a voxel; of wider types :data:`CHUNK`. Smaller ones cost
more in tasks of zarr-python than in decoding; larger ones are read whole for the rim of a tile."""
LABELS = 5 * 2**20
"""Most voxels of a shard of labels: they are decoded at once, which takes more memory for each than the network."""


class ZarrOutput:
    """A result on disk; implements :class:`aequorea.results.Output`.

    Parameters
    ----------
    path
        The store, by custom ``NAME.ome.zarr``.
    identity
        A digest of all that decides the result (model, input, spec). A store of another identity is not taken
        up.
    shard, chunk
        Voxels (z, y, x) of one file, and about those of one compressed piece in it (default: of a megabyte, in
        :data:`CHUNKS`): pieces divide a shard.
        Both are smaller for smaller layers; a shard of labels has at most :data:`LABELS` voxels.
    overwrite
        Begin anew, deleting a store that is there.
    pyramid
        Whether coarser levels are made; not needed for scratch.
    label_levels
        How label images are made coarser: ``"nearest"`` or ``"mode"``.
    root
        Name of the image layer that the store itself shows.
    origin
        Where the first voxel of all layers lies in the image that they are a part of, µm (voxels where the spacing is
        not known).
    facts
        Plain data kept in the store's attributes under ``aequorea`` (model, intensity, versions).
    part
        Which of how many processes that write the store this is, from 1. Enter :attr:`crew` ``.alive()`` before
        writing.

    Attributes
    ----------
    damaged
        Shards that an earlier run wrote and that are not as it left them; they are pending again.
    result
        Layers finished and tables written; all layers where the store was finished before.

    Raises
    ------
    DataError
        If the place holds something else, or cannot be written.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        identity: str,
        shard: Triple = (256, 256, 256),
        chunk: Triple | None = None,
        overwrite: bool = False,
        pyramid: bool = True,
        label_levels: Literal["nearest", "mode"] = "nearest",
        root: str = "dense",
        origin: Spacing = (0.0, 0.0, 0.0),
        facts: Mapping[str, Any] | None = None,
        part: tuple[int, int] = (1, 1),
    ) -> None:
        self.path = Path(path)
        self.result = Result()
        self.damaged: list[Path] = []
        self._shard, self._chunk, self._pyramid = shard, chunk, pyramid
        self._label_levels, self._root, self._origin = label_levels, root, origin
        self._facts = dict(facts or {})
        self._folder = self.path / OURS
        self._state_file = self._folder / "state.json"
        self._lock = threading.RLock()
        self._layers: dict[str, ZarrLayer] = {}
        self._state: dict[str, Any] = {}
        self.crew = Crew(*part, self._folder / "parts")
        if overwrite and not self.crew.alone:
            raise DataError(
                f"{self.path}: --overwrite would delete what other parts write: delete it before they begin"
            )
        self._take_up(identity, overwrite)

    @property
    def finished(self) -> bool:
        """Whether :meth:`complete` was reached, by this or an earlier run, and nothing is damaged since."""
        return bool(self._state["status"] == "finished")

    def layer(
        self,
        name: str,
        *,
        size: Triple,
        dtype: Any,
        kind: Literal["label", "image"],
        channels: tuple[str, ...] = ("",),
        spacing: Spacing | None = None,
        origin: Spacing | None = None,
    ) -> ZarrLayer:
        """Begin (or take up again) a layer; ``origin`` where it does not begin where the store does.

        Raises
        ------
        DataError
            If an earlier run began it with another size, type, channels, spacing, shards or chunks.
        """
        if not re.fullmatch(r"[A-Za-z_][\w-]*", name) or name in ("labels", "tables"):
            raise ValueError(f"'{name}' cannot be the name of a layer")
        whole = np.dtype(dtype)
        if kind == "label" and whole.kind not in "iu":
            raise ValueError(f"layer '{name}': labels are whole numbers, not {whole}")
        shard = part_of(self._shard, size, LABELS) if kind == "label" else self._shard
        chunk = self._chunk or CHUNKS.get(whole.itemsize, CHUNK)
        chunk, shard = fit(size, _divisors(shard, chunk), shard)
        spec = LayerSpec(
            name=name,
            size=size,
            dtype=whole.name,
            kind=kind,
            channels=channels,
            spacing=spacing,
            shard=shard,
            chunk=chunk,
            how=self._label_levels if kind == "label" else "mean",
            pyramid=self._pyramid,
            folder=f"labels/{name}" if kind == "label" else "" if name == self._root else name,
            origin=self._origin if origin is None else origin,
        )
        with self._lock:
            self._go_on()
            if name in self._layers:
                if self._layers[name].spec != spec:
                    raise DataError(
                        f"{self.path}: layer '{name}' was begun with other settings;"
                        " add --overwrite to begin anew"
                    )
                return self._layers[name]
            layer = ZarrLayer(self.path, spec, self.result, self.crew)
            layer.create()
            if not self.crew.alone:
                layer.check()  # of what others wrote
            self._layers[name] = layer
            self._state["layers"].append(spec.plain())
            self._set_status("running")
            self._describe()
            return layer

    def table(self, name: str, columns: Table | Callable[[], Table]) -> None:
        """Write ``tables/NAME.csv``, whole or not at all; see :mod:`aequorea.engine.table`."""
        path = self.path / "tables" / f"{name}.csv"
        if not self.crew.one(path.exists, f"table {name}"):
            return
        put(self.path, self.path / "tables" / "zarr.json", ome_metadata.group())
        made = columns() if callable(columns) else columns
        write_file(path, table.encode(made), beside=self._folder / "partial")
        self.result.tables[name] = made

    def sole(self) -> bool:
        """Return whether this process is to finish the store, once all else is written; else wait until it is.

        Raises
        ------
        AllDone
            When another process has finished it.
        TakeOver
            If the one that was to do it is lost.
        """
        return self.crew.one(self.finished_on_disk, "the end") or self._go_on()

    def finished_on_disk(self) -> bool:
        """Return whether :meth:`complete` was reached by any process."""
        return bool(self._read_state()["status"] == "finished")

    def scratch(self, name: str) -> Path:
        """Return a folder that stays when the run is killed and is deleted by :meth:`complete`."""
        path = self._folder / "scratch" / name
        make_folder(path)
        return path

    def remember(self, **facts: Any) -> None:
        """Add plain data to the store's attributes."""
        self._facts.update(facts)

    def complete(self) -> None:
        """Declare the result finished and delete the scratch folders.

        Raises
        ------
        ValueError
            If a layer has shards that are not written.
        """
        left = [name for name, layer in self._layers.items() if not layer.whole]
        if left:
            raise ValueError(f"{self.path}: layers {left} are not finished")
        with self._lock:
            if not self.finished:
                self._describe()
                self._set_status("finished")
            self._tidy()

    def _go_on(self) -> bool:
        """Raise :class:`AllDone` where another process has finished the store."""
        if not self.crew.alone and self.finished_on_disk():
            raise AllDone
        return True

    def _take_up(self, identity: str, overwrite: bool) -> None:
        with explained(self.path):
            if overwrite and self.path.exists():
                self._clear()
            self._state = self._claim(identity)
        if self._state["version"] != STATE_VERSION:
            raise DataError(f"{self.path}: written by another version; add --overwrite to begin anew")
        if self._state["identity"] != identity:
            raise DataError(
                f"{self.path}: holds the result of another model, image or recipe;"
                " add --overwrite to replace it, or choose another name"
            )
        for words in self._state["layers"]:
            spec = LayerSpec.parse(words, where=str(self._state_file))
            layer = ZarrLayer(self.path, spec, self.result, self.crew)
            self.damaged += layer.check()
            self._layers[layer.spec.name] = layer
        if self.finished and not all(layer.whole for layer in self._layers.values()):
            self._set_status("running")
        if self.finished:
            self._tidy()
            self.result.layers.update({name: layer.volume() for name, layer in self._layers.items()})
            return
        make_folder(self._folder / "partial")
        if self.crew.alone:
            sweep(self._folder)
            sweep(self._folder / "partial")
        for layer in self._layers.values():
            layer.create()
        self._describe()

    def _claim(self, identity: str) -> dict[str, Any]:
        """Return the state of the store, which is begun if there is nothing yet."""
        fresh = {"version": STATE_VERSION, "identity": identity, "status": "running", "layers": []}
        if not self._state_file.exists():
            foreign = self.path.exists() and (
                not self.path.is_dir() or any(p != self._folder for p in self.path.iterdir())
            )
            if foreign and not self._state_file.exists():  # else another part has just begun it
                raise DataError(
                    f"{self.path}: exists and is not a result of this command;"
                    " add --overwrite to replace it, or choose another name"
                )
            write_json(self._state_file, fresh)
        state = self._read_state()
        if state["status"] == "clearing":
            self._clear()
            write_json(self._state_file, fresh)
            return fresh
        return state

    def _read_state(self) -> dict[str, Any]:
        try:
            state: dict[str, Any] = json.loads(self._state_file.read_bytes())
        except ValueError:
            raise DataError(f"{self._state_file}: damaged; add --overwrite to begin anew") from None
        return state

    def _clear(self) -> None:
        """Delete everything but the state, which says so: a kill in between is taken up by the next run."""
        known = (self.path / "zarr.json", self.path / ".zgroup", self._folder)
        if not self.path.is_dir() or (any(self.path.iterdir()) and not any(path.exists() for path in known)):
            raise DataError(f"{self.path}: exists and is no OME-Zarr; choose another name")
        write_json(self._state_file, {"version": STATE_VERSION, "status": "clearing"})
        for path in [*self.path.iterdir(), *self._folder.iterdir()]:
            if path.is_dir() and not path.is_symlink() and path != self._folder:
                shutil.rmtree(path)
            elif path not in (self._state_file, self._folder):
                path.unlink()

    def _tidy(self) -> None:
        for name in ("scratch", "partial", "parts"):
            shutil.rmtree(self._folder / name, ignore_errors=True)

    def _set_status(self, status: str) -> None:
        self._state["status"] = status
        write_json(self._state_file, self._state)

    def _describe(self) -> None:
        """Write the metadata of all groups."""
        put(self.path, self._folder / "zarr.json", ome_metadata.group())
        layers = list(self._layers.values())
        for layer in layers:
            if layer.spec.folder:
                put(self.path, layer.folder / "zarr.json", ome_metadata.group(ome=layer.ome()))
        named = [layer.spec.name for layer in layers if layer.spec.kind == "label"]
        if named:
            put(
                self.path,
                self.path / "labels" / "zarr.json",
                ome_metadata.group(ome=ome_metadata.labels(named)),
            )
        shown = next((layer for layer in layers if not layer.spec.folder), layers[0] if layers else None)
        if shown is not None:
            ome = shown.ome(from_root=True)
            put(self.path, self.path / "zarr.json", ome_metadata.group(ome=ome, aequorea=self._facts))


def _divisors(shard: Triple, most: Triple) -> Triple:
    """Return the largest divisors of a shard up to ``most``, or the next above where those are tiny."""

    def best(n: int, limit: int) -> int:
        fits = [d for d in range(1, n + 1) if n % d == 0]
        below = max(d for d in fits if d <= limit)
        return below if 4 * below >= min(n, limit) else min(d for d in fits if d > limit)

    z, y, x = (best(n, limit) for n, limit in zip(shard, most))
    return z, y, x
