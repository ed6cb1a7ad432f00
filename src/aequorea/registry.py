"""Everything that can be plugged in, by kind and name.

Names map to ``"module:Class"`` so that listing what exists imports nothing heavy. Packages of others add names
through the entry-point groups ``aequorea.tasks``, ``aequorea.backbones``, ``aequorea.objectives``,
``aequorea.adapters`` and ``aequorea.formats``.
"""

from __future__ import annotations

from functools import cache
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any

from aequorea.errors import SpecError, nearest

BUILTIN: dict[str, dict[str, str]] = {
    "tasks": {
        "semantic": "aequorea.tasks.semantic:Semantic",
        "instances": "aequorea.tasks.instances:Instances",
        "denoise": "aequorea.tasks.restore:Denoise",
        "super_resolve": "aequorea.tasks.restore:SuperResolve",
        "isotropic": "aequorea.tasks.restore:Isotropic",
        "project": "aequorea.tasks.restore:Project",
        "light_field": "aequorea.tasks.restore:LightField",
        "deblur": "aequorea.tasks.restore:Deblur",
    },
    "backbones": {
        "filters": "aequorea.backbones.filters:Filters",
        "hiera": "aequorea.backbones.hiera:Hiera",
        "swinir": "aequorea.backbones.swinir:SwinIR",
        "unet": "aequorea.backbones.unet:UNet",
    },
    "adapters": {
        "linear": "aequorea.adapters.linear:LinearProbe",
        "lora": "aequorea.adapters.lora:LoRA",
    },
    "objectives": {
        "mae": "aequorea.objectives.mae:MAE",
        "restore_many": "aequorea.objectives.restore_many:RestoreMany",
    },
    "formats": {
        "ome_zarr": "aequorea.formats.ome_zarr:OmeZarr",
        "tiff": "aequorea.formats.tiff:Tiff",
        "hdf5": "aequorea.formats.hdf5:Hdf5",
        "nifti": "aequorea.formats.nifti:Nifti",
        "npy": "aequorea.formats.npy:Npy",
        "raster": "aequorea.formats.raster:Raster",
        "sequence": "aequorea.formats.sequence:Sequence",
        "bioio": "aequorea.formats.bioio:BioIO",
    },
}


@cache
def _table(kind: str) -> dict[str, str]:
    if kind not in BUILTIN:
        raise SpecError(f"no kind of plug is called '{kind}'; {nearest(kind, BUILTIN)}")
    table = dict(BUILTIN[kind])
    table.update({point.name: point.value for point in entry_points(group=f"aequorea.{kind}")})
    return table


def names(kind: str) -> list[str]:
    """Return the registered names of one kind (``"tasks"``, ``"backbones"``, ...), importing none of them."""
    return list(_table(kind))


def find(kind: str, name: str) -> type[Any]:
    """Import and return the class registered as ``name``; raises :class:`SpecError` naming the nearest name."""
    table = _table(kind)
    if name not in table:
        raise SpecError(f"no {kind[:-1]} is called '{name}'; {nearest(name, table)}")
    module, _, attribute = table[name].partition(":")
    found: type[Any] = getattr(import_module(module), attribute)
    return found


def build(kind: str, words: dict[str, Any]) -> Any:
    """Build a registered thing from ``{"name": ..., **fields of its spec}``."""
    fields = dict(words)
    name = fields.pop("name", None)
    if name is None:
        raise SpecError(f"{kind[:-1]}: 'name' is missing; known: {', '.join(names(kind))}")
    cls = find(kind, name)
    return cls(cls.Spec.parse(fields, where=f"{kind[:-1]} '{name}'"))


def describe(kind: str, name: str, plug: Any) -> dict[str, Any]:
    """Return the words from which :func:`build` makes an equal thing; the inverse of :func:`build`."""
    return {"name": name, **plug.spec.plain()}
