"""What pretrained bodies are worth under strokes on real volumes, beside controls.

A logistic head is fitted on the frozen features of 1,000 painted voxels; Dice over all other labelled voxels of a part
of the volume, mean of three sets of strokes. Beside each body: the same with its weights permuted within each tensor,
the same with random weights, and the fixed bank of filters. Normalisations of all of them learn the statistics of the
volume itself. The volumes are of ``open``: their images, not their labels, may have been pretrained on.

    python benchmarks/transfer.py RUN/body.safetensors [...]
    python benchmarks/transfer.py --quick     # a random body, one volume
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

from aequorea.annotations import LabelImage
from aequorea.engine.predict import normalised
from aequorea.layers.norm import settle
from aequorea.model import card_of, take_body
from aequorea.registry import build
from aequorea.signal.intensity import measure
from aequorea.volume import Region
from aequorea.workflows.dataset import Item
from aequorea.workflows.open import open as open_volume
from aequorea.workflows.stroke_probe import permuted, stroke_probe

SETTLING = 8
SIDE = 64
SETS = {
    "ovule nuclei": ("ovule_nuclei/ovule_1135", None),
    "liver vessels": ("liver_vessels/liver_1", None),
    "axons": ("trailmap/axons_a", 0),
}
"""Image and unlabelled value."""


def item(data: Path, name: str) -> Item:
    """Return a volume cut to the planes about those that are labelled."""
    path, unlabelled = SETS[name]
    image, labels = (
        open_volume(data / "open" / f"{path}.tif"),
        open_volume(data / "open" / f"{path}_label.tif"),
    )
    shown = np.flatnonzero((labels.read()[0] > 0).any((1, 2)))
    low = max(0, (int(shown[0]) + int(shown[-1])) // 2 - 16)
    part = Region((low, 0, 0), (min(image.size[0], low + 32), *image.size[1:]))
    about = LabelImage(labels.crop(part), unlabelled)
    return Item(name, image.crop(part), about, name, intensity=measure(image, progress=False))


def settled(body: Any, one: Item) -> Any:
    """Return a body whose normalisations know the volume."""
    image = normalised(one.image, one.intensity)
    rng = np.random.default_rng(0)
    size = [min(n, SIDE) for n in image.size]
    corners = [[int(rng.integers(n - m + 1)) for n, m in zip(image.size, size)] for _ in range(SETTLING)]
    blocks = [torch.from_numpy(image.read(Region.at(corner, size)))[None, :1] for corner in corners]
    settle(body, [lambda block=block: body(block, image.spacing) for block in blocks])
    return body


def main() -> int:
    """Print the table; 1 where a body is not ahead of its permuted self in the mean."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("bodies", nargs="*", type=Path)
    parser.add_argument("--quick", action="store_true")
    told = parser.parse_args()
    data = Path(os.environ.get("AEQUOREA_DATA") or Path(__file__).parents[2] / "shared" / "data")
    if not (data / "open").exists():
        print(f"{data}: no real volumes there; set AEQUOREA_DATA to their folder")
        return 2
    missed = []
    for path in [None] if told.quick else told.bodies:
        words = card_of(path)["backbone"] if path else {"name": "hiera"}
        rows = []
        for name in list(SETS)[: 1 if told.quick else None]:
            one = item(data, name)
            torch.manual_seed(0)
            body = build("backbones", words)
            if path:
                take_body(body, path)
            bodies = {"pretrained": body, "permuted": permuted(body, 0), "random": build("backbones", words)}
            bodies = {kind: settled(made, one) for kind, made in bodies.items()}
            bodies["filters"] = build("backbones", {"name": "filters"})
            rows += stroke_probe(bodies, [one])
            print(
                f"{words['name']}: "
                + "  ".join(f"{k} {v if k == 'volume' else f'{v:.3f}'}" for k, v in rows[-1].items())
            )
        mean = {k: float(np.mean([row[k] for row in rows])) for k in rows[0] if k != "volume"}
        print(
            f"{words['name']} {path or 'untrained'}: " + "  ".join(f"{k} {v:.3f}" for k, v in mean.items()),
            flush=True,
        )
        if path and mean["pretrained"] <= max(mean["permuted"], mean["random"]):
            missed.append(str(path))
    print(
        "NOT ahead of its controls: " + ", ".join(missed) if missed else "every body is ahead of its controls"
    )
    return int(bool(missed))


if __name__ == "__main__":
    sys.exit(main())
