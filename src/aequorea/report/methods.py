"""The methods paragraph: what was done, with which versions, on exactly which files.

It is made from the model's card and digests alone, so that two people with the same files get the same words.
"""

from __future__ import annotations

import platform
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import Any

PACKAGES = ("aequorea", "torch", "numpy", "scipy", "scikit-image", "zarr")


def versions(packages: tuple[str, ...] = PACKAGES) -> dict[str, str]:
    """Return Python's version and those of the packages that are installed."""
    found = {"Python": platform.python_version()}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def network_sentence(card: Mapping[str, Any]) -> str:
    """Say which network made a result and at which voxel size it was trained; empty without a network."""
    backbone, task = card.get("backbone") or {}, card.get("task") or {}
    if not backbone or not task:
        return ""
    sentence = (
        f"Images were processed with the task '{task.get('name')}' on the backbone '{backbone.get('name')}'"
    )
    told = _settings(backbone)
    if told:
        sentence += f" ({told})"
    spacing = card.get("spacing")
    if spacing:
        sentence += f", trained at voxels of {' × '.join(f'{s:g}' for s in spacing)} µm (z, y, x)"
    point = card.get("point")
    if point:
        sentence += ", at the operating point " + ", ".join(
            f"{name} = {value:.3g}" for name, value in point.items()
        )
    return sentence + "."


def methods(
    card: Mapping[str, Any],
    digests: Mapping[str, str] | None = None,
    packages: Mapping[str, str] | None = None,
) -> list[str]:
    """Return the methods paragraphs.

    Parameters
    ----------
    card
        The model's card; may be empty (a method without a network).
    digests
        Digest of each file that matters, by name.
    packages
        Version of each package; default: :func:`versions`.
    """
    packages = versions() if packages is None else packages
    paragraphs = []
    sentence = network_sentence(card)
    if sentence:
        paragraphs.append(sentence)
    software = ", ".join(f"{name} {number}" for name, number in packages.items())
    paragraphs.append(f"Software: {software}.")
    if digests:
        files = "; ".join(f"{name} {digest}" for name, digest in digests.items())
        paragraphs.append(f"Files (digests): {files}.")
    for word, what in (
        ("data", "Training data"),
        ("licence", "Licence of the model"),
        ("references", "References"),
    ):
        if card.get(word):
            paragraphs.append(f"{what}: {_plain(card[word])}.")
    return paragraphs


def _settings(words: Mapping[str, Any]) -> str:
    return ", ".join(
        f"{name} {value}"
        for name, value in words.items()
        if name != "name" and isinstance(value, (str, int, float)) and not isinstance(value, bool)
    )


def _plain(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_plain(part)}" for name, part in value.items())
    if isinstance(value, (list, tuple)):
        return "; ".join(_plain(part) for part in value)
    return str(value)
