"""Structures to be tested on: another kind, and sizes outside the ranges that are trained on."""

from __future__ import annotations

from aequorea.signal.structures import StructureSpec

UNSEEN = StructureSpec(
    radius=(0.17, 0.22),
    persistence=(1.5, 3.5),
    filaments=(0.45, 0.6),
    cell=(5.5, 7.0),
    wall=(0.35, 0.5),
    inside=(0.22, 0.3),
    ball=(0.28, 0.4),
    puncta=(0.03, 0.08),
    shell=(1.3, 1.8),
    skin=(0.22, 0.3),
    vesicles=(0.16, 0.22),
    relief=(0.65, 0.8),
    swing=(6.0, 9.0),
    spread=0.5,
)
"""Shares no size with the default recipe."""
TEST_KINDS = ("network", "filaments", "membranes", "vesicles")
"""To be tested on, with :data:`UNSEEN`; the first is never trained on."""
