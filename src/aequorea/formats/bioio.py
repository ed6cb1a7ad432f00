"""CZI, ND2 and LIF through the readers of bioio, an extra.

Source: bioio (https://github.com/bioio-devs/bioio); its arrays have the axes T C Z Y X (and S for colour).
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from threading import Lock
from typing import Any, ClassVar

import numpy as np

from aequorea.errors import FormatError
from aequorea.plugs import OpenOptions
from aequorea.signal.axes import voxel_spacing
from aequorea.signal.stored import Stored, as_volume, picked_scene, reading, refuse
from aequorea.volume import Array, Volume

_PLUGINS = {".czi": "bioio-czi", ".nd2": "bioio-nd2", ".lif": "bioio-lif"}


class BioIO:
    """Files of microscope makers."""

    name: ClassVar[str] = "bioio"
    suffixes: ClassVar[tuple[str, ...]] = tuple(_PLUGINS)

    def sniff(self, path: Path) -> bool:
        """Whether the name ends in .czi, .nd2 or .lif."""
        return path.suffix.lower() in _PLUGINS and path.is_file()

    def open(self, path: Path, options: OpenOptions) -> Volume:
        """Open one scene lazily.

        Raises
        ------
        FormatError
            If bioio or its reader is not installed (with the line that installs it), or the file is damaged.
        """
        refuse(path, options, "level", "dataset")
        image = _image(path)
        with reading(path, path.suffix[1:].upper()):
            scenes = [str(scene) for scene in image.scenes]
            image.set_scene(scenes[picked_scene(scenes, options.scene, str(path))])
            lazy = image.dask_data
            sizes = image.physical_pixel_sizes
            axes = str(image.dims.order)
            depth = lazy.shape[axes.index("Z")] if "Z" in axes else 1
            lock = Lock()

            def fetch(index: tuple[slice, ...]) -> Array:
                # the readers below share one open file
                with lock:
                    return np.asarray(lazy[index].compute(scheduler="synchronous"))

            stored = Stored(
                fetch=fetch,
                shape=tuple(lazy.shape),
                dtype=np.dtype(lazy.dtype),
                axes=axes,
                name=str(path),
                format="bioio",
                spacing=voxel_spacing(sizes.Z, sizes.Y, sizes.X, depth),
                channels=[str(name) for name in image.channel_names or []],
                chunks=tuple(int(max(lengths)) for lengths in lazy.chunks),
                facts={"scenes": str(len(scenes))} if len(scenes) > 1 else {},
            )
        return as_volume(stored, options)

    def list(self, path: Path) -> Iterator[dict[str, str]]:
        """Yield each scene."""
        for scene in _image(path).scenes:
            yield {"scene": str(scene)}


def _image(path: Path) -> Any:
    kind = path.suffix[1:].upper()
    plugin = _PLUGINS[path.suffix.lower()]
    if not all(find_spec(module) for module in ("bioio", plugin.replace("-", "_"))):
        raise FormatError(f"{path}: {kind} needs bioio: pip install bioio {plugin}")
    from bioio import BioImage

    with reading(path, kind):
        try:
            return BioImage(path)
        except Exception as error:
            # bioio's own words send the user to install what is installed
            if type(error).__name__ == "UnsupportedFileFormatError":
                raise ValueError(f"{plugin} does not know it") from error
            raise
