"""What an accelerator computes is what the processor computes; run where there is one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from aequorea.backbones.filters import Filters, FiltersSpec
from aequorea.backbones.hiera import Hiera, HieraSpec
from aequorea.backbones.swinir import SwinIR, SwinIRSpec
from aequorea.backbones.unet import UNet, UNetSpec
from aequorea.checks import shaken
from aequorea.engine.inference import Runner
from aequorea.engine.tiles import Tiling
from aequorea.engine.train import TrainSpec
from aequorea.layers.heads import DenseHead
from aequorea.layers.network import Network
from aequorea.layers.stems import PlainStem
from aequorea.volume import Region, from_array
from aequorea.workflows.finetune import FinetuneSpec, finetune
from aequorea.workflows.plan import plan_predict
from aequorea.workflows.predict import PredictSpec, predict
from aequorea.workflows.pretrain import PretrainSpec, pretrain
from quick import nuclei, specimens

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no accelerator here")
SPACING = (2.0, 0.5, 0.5)
BODIES = {
    "unet": lambda: UNet(UNetSpec()),
    "hiera": lambda: Hiera(HieraSpec()),
    "filters": lambda: Filters(FiltersSpec()),
    "swinir": lambda: SwinIR(SwinIRSpec(depths=(2, 2))),
}


def network(name: str) -> Network:
    torch.manual_seed(0)
    body = BODIES[name]()
    layout = body.layout(SPACING)
    made = Network(PlainStem(), body, DenseHead(layout.channels[0], layout.strides[0], 2))
    shaken(made, 0)
    return made.eval()


@pytest.mark.parametrize("name", BODIES)
@pytest.mark.parametrize(("precision", "near"), [("float32", 0.01), ("auto", 0.1)])
def test_output_is_that_of_the_processor(name: str, precision: str, near: float) -> None:
    made = network(name)
    image = np.random.default_rng(0).random((1, 17, 90, 101), np.float32)
    expected = Runner(made, SPACING, torch.device("cpu"), "float32")(image)
    found = Runner(made, SPACING, torch.device("cuda"), precision)(image).cpu()
    assert float(expected.std()) > 1e-3
    assert float((found - expected).abs().max()) < near * float(expected.max() - expected.min())


@pytest.mark.parametrize("name", ["unet", "hiera", "swinir"])
def test_tiles_equal_the_whole(name: str) -> None:
    made = network(name)
    image = np.random.default_rng(1).random((1, 24, 256, 192), np.float32)
    tiling = Tiling.of(made, image.shape[1:], SPACING, "full")
    runner = Runner(made, SPACING, torch.device("cuda"), "float32")
    whole = runner(image)
    body = Region((0, 64, 64), (24, 128, 128))
    computed = tiling.computed(body)
    part = runner(np.ascontiguousarray(image[(slice(None), *tiling.reads(computed).slices)]), computed.start)
    kept = part[(..., *body.relative_to(computed).slices)]
    assert float((kept - whole[(..., *body.slices)]).abs().max()) < 0.01 * float(whole.max() - whole.min())


def test_what_a_tile_lacks_in_memory_halves_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images = specimens(1, 2)
    spec = FinetuneSpec(
        task={"name": "semantic", "any_object": True}, backbone={"name": "unet"}, train=TrainSpec(steps=2)
    )
    model = finetune(images, tmp_path / "run", spec).model
    image = from_array(np.random.default_rng(0).integers(0, 4000, (48, 384, 384)).astype(np.uint16), SPACING)
    whole = predict(model, image, tmp_path / "free.ome.zarr", PredictSpec(tile=10**7))
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction(0.6e9 / total)
    said: list[str] = []
    try:
        tight = predict(model, image, tmp_path / "tight.ome.zarr", PredictSpec(tile=10**7), say=said.append)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert len([line for line in said if "memory" in line]) == 1, said
    for name, layer in whole.result.layers.items():
        a, b = layer.read(), tight.result.layers[name].read()
        assert float((a != b).mean()) < 0.01


def test_training_goes_down_and_resumes(tmp_path: Path) -> None:
    items = specimens(1, 2)
    words = {"steps": 24, "checkpoint_every": 6, "evaluate_every": 12}
    for backbone in ("unet", "hiera"):
        spec = FinetuneSpec(task={"name": "instances"}, backbone={"name": backbone}, train=TrainSpec(**words))
        done = finetune(items, tmp_path / backbone, spec)
        rows = (done.path.parent / "metrics.csv").read_text().splitlines()
        place = rows[0].split(",").index("loss")
        losses = [float(row.split(",")[place]) for row in rows[2:]]
        assert np.mean(losses[-6:]) < np.mean(losses[:6])


@pytest.mark.parametrize("backbone", ["unet", "hiera"])
def test_pretraining_runs(backbone: str, tmp_path: Path) -> None:
    images = [item.image for item in specimens(1, 2, 3)]
    spec = PretrainSpec(backbone={"name": backbone}, train=TrainSpec(steps=4, batch=2))
    assert pretrain(images, tmp_path / "run", spec).path.exists()


def test_a_plan_tells_of_the_accelerator(tmp_path: Path) -> None:
    spec = FinetuneSpec(
        task={"name": "semantic", "any_object": True}, backbone={"name": "unet"}, train=TrainSpec(steps=2)
    )
    model = finetune(specimens(1, 2), tmp_path / "run", spec).model
    plan = plan_predict(model, from_array(nuclei(0)[0], SPACING), tmp_path / "out.ome.zarr")
    assert plan.accelerator is not None and plan.accelerator > 10**6
    assert plan.joules is None or plan.joules > 0
