"""aequorea: few-label segmentation and restoration of fluorescence volumes larger than memory.

Importing the package is free: names are resolved on first use, so that no torch or zarr is loaded before it is
needed.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_WHERE = {
    "open": "aequorea.workflows.open",
    "load": "aequorea.model",
    "Model": "aequorea.model",
    "Region": "aequorea.volume",
    "Volume": "aequorea.volume",
    "AequoreaError": "aequorea.errors",
    "AequoreaWarning": "aequorea.errors",
}
__all__ = ["AequoreaError", "AequoreaWarning", "Model", "Region", "Volume", "__version__", "load", "open"]


def __getattr__(name: str) -> Any:
    if name in _WHERE:
        return getattr(import_module(_WHERE[name]), name)
    raise AttributeError(f"module 'aequorea' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted(__all__)
