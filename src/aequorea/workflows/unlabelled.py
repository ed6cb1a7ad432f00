"""Volumes without labels: every image in a folder and the folders below, each with its specimen."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from aequorea.errors import DataError
from aequorea.workflows.dataset import ENDINGS, FOLDERS, stem_of

NOT_IMAGES = (*FOLDERS.values(),)
"""Folders that hold annotations."""


def find_volumes(paths: Sequence[str | Path]) -> list[tuple[Path, str]]:
    """Return images and the specimens that they are of.

    Labels (``STEM_label.*`` and folders called ``labels``), targets and point lists are passed over, and so is what
    begins with a dot. The images of one folder are one specimen where several folders hold images, else each file is
    one.

    Parameters
    ----------
    paths
        Images, and folders that are searched.

    Raises
    ------
    DataError
        If there is none.
    """
    found = [image for path in paths for image in _under(Path(path))]
    if not found:
        raise DataError(f"{', '.join(map(str, paths))}: no images there")
    folders = {image.parent for image in found}
    return [(image, str(image.parent if len(folders) > 1 else image)) for image in found]


def _under(path: Path) -> Iterator[Path]:
    if not path.exists():
        raise DataError(f"{path}: does not exist")
    if stem_of(path) is not None:  # a Zarr is a folder, but one image
        yield path
        return
    if not path.is_dir():
        raise DataError(f"{path}: no format of images is called '{path.suffix}'")
    for child in sorted(path.iterdir()):
        if child.name.startswith(".") or child.name in NOT_IMAGES:
            continue
        stem = stem_of(child)
        if stem is not None and not stem.endswith(tuple(ENDINGS.values())):
            yield child
        elif stem is None and child.is_dir():
            yield from _under(child)
