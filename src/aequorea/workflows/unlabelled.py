"""Volumes without labels: every image in a folder and the folders below, each with its specimen."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from aequorea.errors import DataError
from aequorea.workflows.dataset import ENDINGS, FOLDERS, image_suffixes, stem_of

NOT_IMAGES = (*FOLDERS.values(),)
"""Folders that hold annotations."""
CACHE_TAG = "CACHEDIR.TAG"
"""The file that says that a folder is a cache; source: https://bford.info/cachedir."""


def find_volumes(paths: Sequence[str | Path], sequence: bool = False) -> list[tuple[Path, str]]:
    """Return images and the specimens that they are of.

    Labels (``STEM_label.*`` and folders called ``labels``), targets and point lists are passed over, and so are caches
    and what begins with a dot. The images of one folder are one specimen where several folders hold images, else each
    file is one.

    Parameters
    ----------
    paths
        Images, and folders that are searched.
    sequence
        Whether the images of a folder are the planes of one volume: then the folder stands for it.

    Raises
    ------
    DataError
        If there is none.
    """
    found = [image for path in paths for image in _under(Path(path), sequence)]
    if not found:
        raise DataError(f"{', '.join(map(str, paths))}: no images there")
    parents = [os.path.dirname(image) for image in found]  # noqa: PTH120  # pathlib takes its time
    several = len(set(parents)) > 1
    return [(image, (parent or ".") if several else str(image)) for image, parent in zip(found, parents)]


def _under(path: Path, sequence: bool) -> Iterator[Path]:
    if not path.exists():
        raise DataError(f"{path}: does not exist")
    if stem_of(path) is not None:  # a Zarr is a folder, but one image
        yield path
        return
    if not path.is_dir():
        raise DataError(f"{path}: no format of images is called '{path.suffix}'")
    yield from _inside(path, sequence, image_suffixes())


def _inside(path: Path, sequence: bool, suffixes: set[str]) -> Iterator[Path]:
    planes = False
    with os.scandir(path) as entries:  # knows which are folders: there may be very many
        found = sorted((entry.name, entry.is_dir()) for entry in entries)
    if (CACHE_TAG, False) in found:
        return
    for name, folder in found:
        if name.startswith(".") or name in NOT_IMAGES:
            continue
        child = path / name
        stem = stem_of(child, suffixes)
        if stem is not None and not stem.endswith(tuple(ENDINGS.values())):
            if not sequence or folder:
                yield child
            elif not planes:
                planes = True
                yield path
        elif stem is None and folder:
            yield from _inside(child, sequence, suffixes)
