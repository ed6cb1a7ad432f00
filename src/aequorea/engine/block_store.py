"""Arrays by name, each whole or not there at all: what work that can be killed keeps of its parts."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
from safetensors import safe_open
from safetensors.numpy import load, save

from aequorea.engine.durable import explained, write_file
from aequorea.volume import Array

SUFFIX = ".safetensors"


class BlockStore:
    """Named arrays, whole or not there at all; in a folder, or in memory where there is none.

    Names are ``WORD`` or ``KIND/N``. Files are safetensors: arrays of NumPy's own format cannot be read by several
    threads at a time before Python 3.12 (its headers are parsed as Python, python/cpython#106905).
    """

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder
        self._memory: dict[str, bytes] = {}

    def begin(self, recipe: str) -> None:
        """Forget everything that was kept for another recipe."""
        if self.folder is None:
            return
        known = self.folder / "recipe.json"
        if known.exists() and known.read_text(encoding="utf-8") == recipe:
            return
        if known.exists():
            with explained(self.folder):
                shutil.rmtree(self.folder, ignore_errors=True)
        write_file(known, recipe.encode())

    def numbers(self, kind: str) -> set[int]:
        """Return the numbers N of what is kept as ``KIND/N``."""
        if self.folder is None:
            return {int(name.partition("/")[2]) for name in self._memory if name.startswith(f"{kind}/")}
        folder = self.folder / kind
        names = [entry.name for entry in os.scandir(folder)] if folder.exists() else []
        return {int(name.removesuffix(SUFFIX)) for name in names if name.endswith(SUFFIX) and name[0] != "."}

    def __contains__(self, name: str) -> bool:
        return name in self._memory if self.folder is None else self._path(name).exists()

    def save(self, name: str, arrays: dict[str, Array]) -> None:
        """Keep arrays under a name."""
        data = save({key: np.asarray(value, order="C") for key, value in arrays.items()})
        if self.folder is None:
            self._memory[name] = data
        else:
            write_file(self._path(name), data)

    def load(self, name: str, wanted: tuple[str, ...] | None = None) -> dict[str, Array]:
        """Return the arrays kept under a name, or those wanted; the others are not read."""
        if self.folder is None:
            arrays = load(self._memory[name])
            return {key: arrays[key] for key in wanted or arrays}
        with safe_open(self._path(name), "np") as file:
            return {key: file.get_tensor(key) for key in wanted or file.keys()}

    def _path(self, name: str) -> Path:
        assert self.folder is not None
        return self.folder / f"{name}{SUFFIX}"
