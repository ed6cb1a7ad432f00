"""The conformance kit passes what is registered, and catches plugs that break their promises."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
from torch import Tensor, nn

from aequorea import checks, registry
from aequorea.backbones.unet import UNet
from aequorea.checks.recipes import claim
from aequorea.layers.heads import DenseHead
from aequorea.plugs import Layout, OpenOptions
from aequorea.specs import Spec
from aequorea.tasks.semantic import Semantic
from aequorea.volume import ORIGIN, Triple

torch.set_num_threads(1)


SMALL: dict[str, dict[str, Any]] = {
    "unet": {"levels": 3},
    "swinir": {"width": 12, "heads": 3, "window": 4, "depths": (2, 2)},
}


@pytest.mark.parametrize("name", registry.BUILTIN["backbones"])
def test_backbones(name: str) -> None:
    checks.backbone(name, **SMALL.get(name, {}))


@pytest.mark.parametrize("name", registry.BUILTIN["tasks"])
def test_tasks(name: str) -> None:
    checks.task(name)


def test_tasks_with_other_recipes() -> None:
    checks.task("semantic", classes=4, loss="dice_focal")
    checks.task("instances", height="capped")


@pytest.mark.parametrize("name", registry.BUILTIN["adapters"])
def test_adapters(name: str) -> None:
    checks.adapter(name)


@pytest.mark.parametrize("name", registry.BUILTIN["formats"])
def test_formats(name: str) -> None:
    checks.format(name)


def test_a_format_with_a_file(tmp_path: Path) -> None:
    image = np.random.default_rng(0).integers(0, 999, (5, 20, 30)).astype(">u2")
    tifffile.imwrite(tmp_path / "a.tif", image, metadata={"axes": "ZYX"}, imagej=True)
    checks.format("tiff", tmp_path / "a.tif")
    np.save(tmp_path / "a.npy", image)
    checks.format("npy", tmp_path / "a.npy", OpenOptions(spacing=(2.0, 1.0, 1.0)))
    with pytest.raises(AssertionError, match="npy: does not know"):
        checks.format("npy", tmp_path / "a.tif")


def test_everything_is_each(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    for kind in registry.BUILTIN:
        monkeypatch.setattr(checks, kind[:-1], lambda name: seen.append(name))
    checks.everything()
    assert seen == [
        n
        for kind in ("backbones", "tasks", "adapters", "objectives", "formats")
        for n in registry.names(kind)
    ]


class PlainSpec(Spec):
    width: int = 4


class Body(nn.Module):
    """A conforming backbone; the broken ones below differ in one thing."""

    Spec: Any = PlainSpec
    ndim, trainable, points = 3, True, ("conv",)
    reach, halo, grid = (1, 1, 1), (1, 1, 1), (1, 1, 1)

    def __init__(self, spec: PlainSpec) -> None:
        super().__init__()
        self.spec = spec
        self.conv = nn.Conv3d(1, spec.width, 3, padding=1)

    def layout(self, spacing: Any) -> Layout:
        return Layout((self.spec.width,), ((1, 1, 1),), self.grid, self.reach, self.halo)

    def forward(self, x: Tensor, spacing: Any, origin: Triple = ORIGIN) -> list[Tensor]:
        return [torch.relu(self.conv(x))]


class Spatial(Body):
    def forward(self, x: Tensor, spacing: Any, origin: Triple = ORIGIN) -> list[Tensor]:
        out = self.conv(x)
        return [out - out.mean((2, 3, 4), keepdim=True)]


class ShortReach(Body):
    reach, halo = (0, 1, 1), (0, 1, 1)


class WideReach(Body):
    reach = (9, 1, 1)


class Dead(Body):
    def __init__(self, spec: PlainSpec) -> None:
        super().__init__(spec)
        self.unused = nn.Parameter(torch.ones(1))


class Random(Body):
    def forward(self, x: Tensor, spacing: Any, origin: Triple = ORIGIN) -> list[Tensor]:
        return [out + np.random.default_rng().random() for out in super().forward(x, spacing)]


class Greedy(Body):
    def forward(self, x: Tensor, spacing: Any, origin: Triple = ORIGIN) -> list[Tensor]:
        return [level[..., :-1] for level in super().forward(x, spacing)]


class OpenSpec(Spec, extra="ignore"):
    width: int = 4


class Loose(Body):
    Spec = OpenSpec


class Own(Semantic):
    """A conforming task; the broken ones below differ in one thing."""

    def resolve(self, annotations: Any) -> Any:
        return type(self)(super().resolve(annotations).spec)


class Strange(Semantic):
    """Resolves to a task of another class."""


class Unlabelled(Own):
    """Its loss learns from voxels that nobody looked at."""

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        return super().loss(output, torch.nan_to_num(target))


class NaNLoss(Own):
    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        known = torch.isfinite(target)
        return ((output - torch.nan_to_num(target)).square() * known).sum() / known.sum()


class TilewiseDecode(Own):
    def decode(self, dense: Any, image: Any, out: Any, point: Any) -> None:
        layer = out.layer("classes", size=dense.size, dtype=np.uint8, kind="label", spacing=dense.spacing)
        for region in layer.pending():
            block = dense.read(region)
            layer.write(region, (block > block.mean()).astype(np.uint8))
        layer.finish()


class Shifted(Own):
    def head(self, layout: Layout) -> nn.Module:
        class Short(DenseHead):
            def forward(self, levels: list[Tensor], x: Tensor) -> Tensor:
                return super().forward(levels, x)[..., 1:]

        return Short(layout.channels[0], layout.strides[0], self.outputs)


def _registered(monkeypatch: pytest.MonkeyPatch, kind: str, cls: type) -> str:
    name = cls.__name__.lower()
    table = {**registry._table(kind), name: f"{cls.__module__}:{cls.__qualname__}"}
    original = registry._table
    monkeypatch.setattr(registry, "_table", lambda k: table if k == kind else original(k))
    return name


def test_the_plain_body_conforms(monkeypatch: pytest.MonkeyPatch) -> None:
    checks.backbone(_registered(monkeypatch, "backbones", Body))


@pytest.mark.parametrize(
    ("cls", "sentence"),
    [
        (Spatial, "reaches|tiles of"),
        (ShortReach, "reaches 0 voxels along z"),
        (WideReach, "reaches 9 voxels along z"),
        (Dead, "no gradient reaches unused"),
        (Random, "the same seed gives other bits"),
        (Greedy, "a level of shape"),
        (Loose, "takes the unknown word"),
    ],
)
def test_broken_backbones_are_caught(monkeypatch: pytest.MonkeyPatch, cls: type, sentence: str) -> None:
    with pytest.raises(AssertionError, match=sentence):
        checks.backbone(_registered(monkeypatch, "backbones", cls))


@pytest.mark.parametrize(
    ("cls", "sentence"),
    [
        (Strange, "resolves to a Semantic"),
        (Unlabelled, "nobody labelled"),
        (NaNLoss, "the loss is nan with nothing labelled"),
        (TilewiseDecode, "decoded in blocks differs"),
        (Shifted, "voxels where output_grid says"),
    ],
)
def test_broken_tasks_are_caught(monkeypatch: pytest.MonkeyPatch, cls: type, sentence: str) -> None:
    with pytest.raises(AssertionError, match=sentence):
        checks.task(_registered(monkeypatch, "tasks", cls), classes=2)


def test_broken_adapters_are_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    class Doubling(SimpleNamespace):
        Spec = PlainSpec

        def __init__(self, spec: PlainSpec) -> None:
            super().__init__(spec=spec)

        def attach(self, backbone: UNet, points: Any) -> list[str]:
            backbone.requires_grad_(False)
            backbone.embed.weight.mul_(2)
            return []

        def merge(self, backbone: UNet) -> None:
            pass

    monkeypatch.setattr(
        registry,
        "find",
        lambda kind, name, find=registry.find: Doubling if name == "doubling" else find(kind, name),
    )
    monkeypatch.setattr("aequorea.checks.recipes.find", registry.find)
    with pytest.raises(AssertionError, match="changes the output before it is trained"):
        checks.adapter("doubling")


def test_a_broken_promise_is_a_sentence() -> None:
    claim(True, "kept")
    with pytest.raises(AssertionError, match=r"^broken$"):
        claim(False, "broken")
