"""Arrays by name, each whole or not there at all: what work that can be killed keeps of its parts."""

from __future__ import annotations

import io
import os
import shutil
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from aequorea.engine.durable import explained, write_file
from aequorea.volume import Array


class BlockStore:
    """Named arrays, whole or not there at all; in a folder, or in memory where there is none."""

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
        """Return the numbers N of what is kept as ``KIND/N.npz``."""
        names: Iterable[str]
        if self.folder is None:
            names = [name.partition("/")[2] for name in self._memory if name.startswith(f"{kind}/")]
        else:
            folder = self.folder / kind
            names = [entry.name for entry in os.scandir(folder)] if folder.exists() else []
        return {int(name[:-4]) for name in names if name.endswith(".npz") and name[0] != "."}

    def __contains__(self, name: str) -> bool:
        return name in self._memory if self.folder is None else (self.folder / name).exists()

    def save(self, name: str, arrays: dict[str, Array]) -> None:
        """Keep arrays under a name."""
        buffer = io.BytesIO()
        np.savez(buffer, **arrays)  # type: ignore[arg-type]
        if self.folder is None:
            self._memory[name] = buffer.getvalue()
        else:
            write_file(self.folder / name, buffer.getvalue())

    def load(self, name: str, wanted: tuple[str, ...] | None = None) -> dict[str, Array]:
        """Return the arrays kept under a name, or those wanted; the others are not read."""
        source = io.BytesIO(self._memory[name]) if self.folder is None else self.folder / name
        with np.load(source) as arrays:
            return {key: arrays[key] for key in (wanted or arrays.files)}
