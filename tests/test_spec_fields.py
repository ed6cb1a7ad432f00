"""Every word of every recipe does something: changing it changes the output or what it costs."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Iterator
from functools import cache, partial, partialmethod
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from torch import nn

import aequorea
from aequorea.annotations import LabelImage, TargetImage
from aequorea.backbones.filters import Filters, FiltersSpec
from aequorea.backbones.hiera import Hiera, HieraSpec
from aequorea.backbones.swinir import SwinIR, SwinIRSpec
from aequorea.backbones.unet import UNet, UNetSpec
from aequorea.engine import checkpoint
from aequorea.engine.tiles import Tiling
from aequorea.engine.train import TrainSpec, train
from aequorea.layers.forest import ForestHead
from aequorea.layers.published import PublishedSpec, published_head, published_stem
from aequorea.model import Model
from aequorea.objectives.mae import MAE, MAESpec
from aequorea.objectives.restore_many import RestoreMany, RestoreManySpec
from aequorea.registry import build
from aequorea.results import MemoryOutput
from aequorea.signal.specimens import NucleiSpec, touching_nuclei
from aequorea.specs import Spec
from aequorea.tasks.instances import Instances, InstancesSpec
from aequorea.tasks.semantic import Semantic, SemanticSpec
from aequorea.volume import from_array
from aequorea.workflows.dataset import Item
from aequorea.workflows.finetune import FinetuneSpec, finetune
from aequorea.workflows.predict import PredictSpec, predict
from aequorea.workflows.pretrain import PretrainSpec, pretrain
from aequorea.workflows.recorded import named
from degrade_fields import CHANGES as DEGRADE
from quick import TRAIN, item, model_file, nuclei, recipe

torch.set_num_threads(1)
pytestmark = pytest.mark.usefixtures("dummies")

RECORDS = {"ChannelIntensity", "Intensity", "LayerSpec"}
"""Written down by the program about what it measured or made; nobody chooses them."""

Seen = Callable[[Any], Any]
"""From a changed value (or ``None`` for the default) to something that can be compared."""


def folder() -> Path:
    return Path(mkdtemp(prefix="fields-"))


def weights(module: nn.Module) -> bytes:
    return b"".join(t.detach().numpy().tobytes() for t in module.state_dict().values())


def changed(cls: type[Spec], field: str, value: Any, **fixed: Any) -> Any:
    return cls.parse({**fixed, **({} if value is None else {field: value})})


# Simulation


@cache
def _nuclei(field: str, value: Any) -> bytes:
    spec = changed(NucleiSpec, field, value)
    return touching_nuclei((8, 40, 40), (2.0, 0.5, 0.5), 0, spec).image.tobytes()


# Backbones and adapters


def _unet(field: str, value: Any) -> tuple[int, Any]:
    body = UNet(changed(UNetSpec, field, value))
    return sum(p.numel() for p in body.parameters()), body.layout(None).reach


def _hiera(field: str, value: Any) -> tuple[int, Any]:
    body = Hiera(changed(HieraSpec, field, value))
    return sum(p.numel() for p in body.parameters()), body.layout(None).grid


def _swinir(field: str, value: Any) -> Any:
    torch.manual_seed(0)
    fixed = (
        {} if field in ("width", "heads", "window", "depths") else {"width": 12, "heads": 3, "depths": (2,)}
    )
    body = SwinIR(changed(SwinIRSpec, field, value, **fixed)).eval()
    x = torch.randn(1, body.spec.channels, 1, 9, 9)
    with torch.inference_mode():
        return [level.numpy().tobytes() for level in body(x, None)], body.layout(None)


def _stochastic_depth(value: Any) -> bytes:
    body = SwinIR(changed(SwinIRSpec, "stochastic_depth", value, width=12, heads=3, depths=(2,)))
    torch.manual_seed(0)
    out: bytes = body(torch.ones(4, 1, 1, 8, 8), None)[0].detach().numpy().tobytes()
    return out


def _published(field: str, value: Any, task: str) -> list[tuple[int, ...]]:
    """Shapes of the weights of stem and head for a task, or of the windows that a stem without weights reads."""
    sizes = {"task": task, "planes": 3, "features": 8, "matched": 2, "random": 16, "groups": 1, "units": 1}
    spec = changed(
        PublishedSpec, field, value, **{k: v for k, v in sizes.items() if value is None or k != field}
    )
    stem = published_stem(spec)
    shapes = [tuple(t.shape) for m in (stem, published_head(spec, 12)) for t in m.state_dict().values()]
    return [*shapes, (spec.channels,)]


def _mae(field: str, value: Any) -> bytes:
    objective, patch = MAE(changed(MAESpec, field, value)), np.random.default_rng(0).random((1, 32, 32, 32))
    facts = objective.survey(lambda rng: patch, UNet(UNetSpec(levels=2)), None, np.random.default_rng(0))
    made = objective.prepare(patch, np.random.default_rng(2), facts)
    return b"".join(np.ascontiguousarray(made[name]).tobytes() for name in ("hidden", "target"))


def _restore_many(field: str, value: Any) -> Any:
    every = dict.fromkeys(("denoise", "super_resolve", "isotropic", "light_field"), 1.0)
    words: dict[str, Any] = {"tasks": {**every, "denoise": 9.0}} if field != "tasks" else {}
    objective = RestoreMany(changed(RestoreManySpec, field, value, **words))
    if field == "temperature":
        return objective.shares
    patch = np.random.default_rng(0).random((1, 16, 44, 44), np.float32)
    made = objective.prepare(patch, np.random.default_rng(2), {"spacing": None})
    return {name: array.tobytes() for name, array in made.items()}


def _filters(field: str, value: Any) -> Any:
    return Filters(changed(FiltersSpec, field, value)).layout(None)


def _lora(field: str, value: Any) -> bytes:
    from aequorea.adapters.lora import LoRA, LoRASpec

    torch.manual_seed(0)
    body = UNet(UNetSpec(levels=2))
    adapter = LoRA(changed(LoRASpec, field, value))
    with torch.no_grad():
        for name in adapter.attach(body, body.points):
            if name.endswith(".u"):
                body.get_parameter(name).fill_(0.1)
    adapter.merge(body)
    return weights(body)


# Tasks


def _labels(unlabelled: int | None = None) -> LabelImage:
    labels = nuclei(1)[1]
    return LabelImage(from_array(labels, (2.0, 0.5, 0.5)), unlabelled)


def _logits(channels: int) -> torch.Tensor:
    noise = torch.randn(1, channels, 10, 48, 48, generator=torch.Generator().manual_seed(0))
    return 2 * torch.nn.functional.avg_pool3d(noise, 3, 1, 1) / 0.2


def _semantic(field: str, value: Any) -> Any:
    fixed = (
        {"classes": 2, "any_object": True}
        if field in ("loss", "threshold")
        else {"any_object": True}
        if field == "classes"
        else {}
    )
    task = Semantic(changed(SemanticSpec, field, value, **fixed))
    target = task.target(_labels(), None).read()
    if field in ("values", "any_object"):
        return target.tobytes()
    if field == "classes":
        return task.outputs
    if field == "loss":
        binary = torch.from_numpy((target > 0).astype(np.float32))[None]
        return float(task.loss(_logits(1), binary))
    out = MemoryOutput()
    task.decode(from_array(task.store(_logits(1))[0].numpy()), None, out, {})
    return out.result.layers["classes"].read().tobytes()


def _instances(field: str, value: Any) -> Any:
    task = Instances(changed(InstancesSpec, field, value))
    if field in ("height", "cap_um"):
        return task.target(_labels(), None).read().tobytes()
    out = MemoryOutput(folder())
    task.decode(from_array(task.store(_logits(2))[0].numpy(), (2.0, 0.5, 0.5)), None, out, {})
    return out.result.layers["objects"].read().tobytes()


RESTORING = {
    "RestorationSpec": "deblur",
    "DenoiseSpec": "denoise",
    "SuperResolveSpec": "super_resolve",
    "IsotropicSpec": "isotropic",
    "LightFieldSpec": "light_field",
}


def _restoration(spec: str, field: str, value: Any) -> Any:
    words = {"name": RESTORING[spec], **({} if value is None else {field: value})}
    task = build("tasks", words)
    if field == "loss":
        return float(task.loss(_logits(1), 0 * _logits(1)))
    if field == "smeared":
        return _denoised(words)
    if field == "step":
        seen = np.random.default_rng(0).random((1, 1, 1, 33, 33), np.float32)
        return task.stem()(torch.from_numpy(seen)).detach().numpy().tobytes()
    network = Model.build(task, {"name": "unet", "levels": 2}, None).network
    tiling = Tiling.of(network, (4, 48, 48), (2.0, 0.5, 0.5))
    grid = (tiling.output_size, tiling.output_spacing, tiling.reads(tiling.domain).size)
    return task.dense_channels, grid, type(network.head)


def _denoised(words: dict[str, Any]) -> Any:
    """Return the weights after a step."""
    image = nuclei(0, (4, 32, 32))[0]
    truth = TargetImage(from_array(gaussian_filter(image.astype(np.float32), 1)))
    spec = FinetuneSpec.parse(
        {"task": words, "backbone": {"name": "unet", "levels": 2}, "train": TRAIN.plain()}
    )
    return weights(finetune([Item("a", from_array(image), truth, "a")], folder() / "run", spec).model.network)


# Training


def _train(field: str, value: Any) -> Any:
    spec = changed(
        TrainSpec,
        field,
        value,
        **({} if field == "steps" else {"steps": 6}),
        **({} if field == "batch" else {"batch": 2}),
    )
    if field == "precision" and value is None:  # not "auto", which may be either
        spec = spec.model_copy(update={"precision": "float32"})
    torch.manual_seed(0)
    module = nn.Conv3d(2, 3, 3)
    evaluated, drawn, written = [], [], []

    def sample(index: int) -> dict[str, np.ndarray]:
        drawn.append(index)
        rng = np.random.default_rng([spec.seed, index])
        return {"x": rng.random((2, 5, 5, 5), np.float32)}

    def evaluate() -> dict[str, float]:
        evaluated.append(1)
        return {"score": float(len(evaluated))}

    def losses(batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {"loss": module(batch["x"]).float().square().mean()}

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoint, "write", lambda *words: written.append(words[1]))
        run = folder()
        train(run, module, losses, sample, spec, evaluate, "score")
    if field == "evaluate_every":
        return len(evaluated)
    if field == "checkpoint_every":
        return written
    return weights(module), len(drawn)


def _finetune(field: str, value: Any) -> Any:
    spec: FinetuneSpec = recipe(backbone="filters" if field in ("head", "task") else "unet")
    spec = spec if value is None else FinetuneSpec.parse({**spec.plain(), field: value})
    small = [item(*nuclei(seed, (4, 32, 32)), f"s{seed}") for seed in range(4)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ForestHead, "fit", partialmethod(ForestHead.fit, trees=4))  # a hundred take their time
        done = finetune(small, folder() / "run", spec)
    if field == "held_out":
        return len(done.model.card["training"]["held_out"])
    if field in ("task", "backbone"):
        return done.model.card[field]
    return weights(done.model.network)


# Prediction


def _predict(field: str, value: Any) -> Any:
    fixed = {"tile": 40_000} if field in ("halo", "tile") else {}
    fixed = {} if field == "tile" and value is not None else fixed
    spec = changed(PredictSpec, field, value, **fixed)
    if field == "precision" and value is None:
        spec = spec.model_copy(update={"precision": "float32"})
    model = model_file("instances" if field == "object_size" else "semantic", "unet")
    image = from_array(nuclei(5, (10, 96, 96))[0], (2.0, 0.5, 0.5))
    done = predict(model, image, folder() / "out.ome.zarr", spec, say=lambda line: None)
    assert done.timing is not None
    if field in ("halo", "tile", "scale", "object_size"):
        return done.timing.tiles, done.timing.computed
    layer = "dense" if field == "precision" else "classes"
    return done.result.layers[layer].shape, done.result.layers[layer].read().tobytes()


# Pretraining


def _pretrain(field: str, value: Any) -> Any:
    plain = {
        "objectives": [{"objective": {"name": "autoencode"}}],
        "backbone": {"name": "plain"},
        "train": TRAIN.plain(),
        "patch": [6, 16, 16],
    }
    if field == "weight":
        plain["objectives"] = [{"objective": {"name": "autoencode"}, "weight": value or 1.0}]
    elif field == "objective":
        plain["objectives"] = [{"objective": value or {"name": "autoencode"}}]
    elif value is not None:
        plain[field] = value
    run = folder()
    try:
        done = pretrain([from_array(nuclei(n)[0]) for n in (1, 2)], run / "run", PretrainSpec.parse(plain))
    except aequorea.AequoreaError as error:
        return str(error)
    return done.path.read_bytes()


CHANGES: dict[str, tuple[Seen, Any]] = {
    **{
        f"NucleiSpec.{field}": (partial(_nuclei, field), value)
        for field, value in {
            "diameter": (5.0, 6.0),
            "elongation": (2.0, 2.5),
            "roughness": 0.2,
            "pitch": 1.6,
            "filled": 0.3,
            "cleft": 1.5,
            "contrast": 0.8,
            "grain": 3.0,
            "nucleoli": 0,
            "brightness": 0.9,
            "glow": 0.6,
            "haze": 0.9,
            "attenuation": 20.0,
            "stripes": 0.9,
            "photons": 20.0,
            "read_noise": 20.0,
            "offset": 200.0,
            "gain": 9.0,
            "na": 0.2,
            "sheet_na": 0.2,
            "wavelength": 0.8,
        }.items()
    },
    "HieraSpec.size": (partial(_hiera, "size"), "small"),
    "HieraSpec.patch": (partial(_hiera, "patch"), 2),
    "MAESpec.unit": (partial(_mae, "unit"), 16),
    "MAESpec.hidden": (partial(_mae, "hidden"), 0.8),
    "MAESpec.optics": (partial(_mae, "optics"), 1.0),
    "SwinIRSpec.channels": (partial(_swinir, "channels"), 2),
    "SwinIRSpec.width": (partial(_swinir, "width"), 12),
    "SwinIRSpec.depths": (partial(_swinir, "depths"), (1,)),
    "SwinIRSpec.heads": (partial(_swinir, "heads"), 3),
    "SwinIRSpec.window": (partial(_swinir, "window"), 4),
    "SwinIRSpec.mlp_ratio": (partial(_swinir, "mlp_ratio"), 1.5),
    "SwinIRSpec.skip": (partial(_swinir, "skip"), False),
    "SwinIRSpec.shift": (partial(_swinir, "shift"), False),
    "SwinIRSpec.stochastic_depth": (_stochastic_depth, 0.9),
    "SwinIRSpec.sections": (partial(_swinir, "sections"), True),
    **{
        f"PublishedSpec.{field}": (partial(_published, field, task=task), value)
        for field, task, value in (
            ("task", "denoise", "super_resolve"),
            ("middle", "denoise", 16),
            ("scale", "super_resolve", 4),
            ("planes", "denoise", 7),
            ("features", "project", 16),
            ("matched", "project", 4),
            ("random", "project", 8),
            ("groups", "project", 2),
            ("units", "project", 2),
            ("views", "light_field", 3),
            ("depth", "light_field", 3),
            ("start", "light_field", 64),
            ("base", "light_field", 32),
            ("pyramid", "light_field", (64, 64)),
        )
    },
    "RestoreManySpec.tasks": (partial(_restore_many, "tasks"), {"deblur": 1.0}),
    "RestoreManySpec.temperature": (partial(_restore_many, "temperature"), 9.0),
    "RestoreManySpec.pairs": (
        lambda value: named([changed(RestoreManySpec, "pairs", value)]),
        {"denoise": "pairs"},
    ),
    "RestoreManySpec.degrade": (partial(_restore_many, "degrade"), {"camera": {"gain": (9.0, 9.0)}}),
    "UNetSpec.size": (partial(_unet, "size"), "small"),
    "UNetSpec.levels": (partial(_unet, "levels"), 2),
    "FiltersSpec.scales": (partial(_filters, "scales"), (1.0,)),
    "FiltersSpec.channels": (partial(_filters, "channels"), 2),
    "LoRASpec.rank": (partial(_lora, "rank"), 2),
    "LoRASpec.alpha": (partial(_lora, "alpha"), 2.0),
    "SemanticSpec.classes": (partial(_semantic, "classes"), 4),
    "SemanticSpec.values": (partial(_semantic, "values"), {1: 1, 0: 0}),
    "SemanticSpec.any_object": (partial(_semantic, "any_object"), True),
    "SemanticSpec.loss": (partial(_semantic, "loss"), "dice_focal"),
    "SemanticSpec.threshold": (partial(_semantic, "threshold"), 0.8),
    "InstancesSpec.threshold": (partial(_instances, "threshold"), 0.8),
    "InstancesSpec.persistence": (partial(_instances, "persistence"), 0.9),
    "InstancesSpec.min_size_um3": (partial(_instances, "min_size_um3"), 20.0),
    "InstancesSpec.height": (partial(_instances, "height"), "capped"),
    "InstancesSpec.neighbours": (partial(_instances, "neighbours"), 26),
    "InstancesSpec.cap_um": (partial(_instances, "cap_um"), 9.0),
    **{
        f"{task}.{field}": (partial(_restoration, task, field), value)
        for task, field, value in (
            ("RestorationSpec", "loss", "l1"),
            ("RestorationSpec", "published", {"task": "denoise"}),
            ("DenoiseSpec", "published", {"task": "super_resolve"}),
            ("DenoiseSpec", "planes", 5),
            ("DenoiseSpec", "smeared", 1.0),
            ("SuperResolveSpec", "published", {"task": "super_resolve"}),
            ("IsotropicSpec", "published", {"task": "denoise"}),
            ("LightFieldSpec", "published", {"task": "light_field", "start": 32, "pyramid": (64,)}),
            ("RestorationSpec", "channels", 2),
            *((task, "loss", "l1") for task in RESTORING if task != "RestorationSpec"),
            *((task, "channels", 2) for task in RESTORING if task != "RestorationSpec"),
            ("SuperResolveSpec", "factor", 3),
            ("IsotropicSpec", "factor", 3),
            ("LightFieldSpec", "views", 4),
            ("LightFieldSpec", "depth", 5),
            ("LightFieldSpec", "step", -0.08),
            ("LightFieldSpec", "z_step", 3.0),
        )
    },
    "TrainSpec.steps": (partial(_train, "steps"), 9),
    "TrainSpec.batch": (partial(_train, "batch"), 3),
    "TrainSpec.learning_rate": (partial(_train, "learning_rate"), 0.1),
    "TrainSpec.weight_decay": (partial(_train, "weight_decay"), 0.5),
    "TrainSpec.seed": (partial(_train, "seed"), 1),
    "TrainSpec.evaluate_every": (partial(_train, "evaluate_every"), 1),
    "TrainSpec.checkpoint_every": (partial(_train, "checkpoint_every"), 2),
    "TrainSpec.precision": (partial(_train, "precision"), "bfloat16"),
    "FinetuneSpec.task": (partial(_finetune, "task"), {"name": "instances"}),
    "FinetuneSpec.backbone": (partial(_finetune, "backbone"), {"name": "filters"}),
    "FinetuneSpec.adapter": (partial(_finetune, "adapter"), {"name": "linear"}),
    "FinetuneSpec.start": (partial(_finetune, "start"), str(model_file("semantic", "unet"))),
    "FinetuneSpec.train": (partial(_finetune, "train"), {**TRAIN.plain(), "seed": 3}),
    "FinetuneSpec.patch": (partial(_finetune, "patch"), (4, 16, 16)),
    "FinetuneSpec.held_out": (partial(_finetune, "held_out"), 0.5),
    "FinetuneSpec.brightness": (partial(_finetune, "brightness"), 0.4),
    "FinetuneSpec.head": (partial(_finetune, "head"), "forest"),
    "PredictSpec.region": (partial(_predict, "region"), "0:5,10:40,10:40"),
    "PredictSpec.halo": (partial(_predict, "halo"), (0, 0, 0)),
    "PredictSpec.tile": (partial(_predict, "tile"), 10**6),
    "PredictSpec.precision": (partial(_predict, "precision"), "bfloat16"),
    "PredictSpec.threshold": (partial(_predict, "threshold"), 0.9),
    "PredictSpec.scale": (partial(_predict, "scale"), 2.0),
    "PredictSpec.object_size": (partial(_predict, "object_size"), 30.0),
    "PredictSpec.mirrored": (partial(_predict, "mirrored"), True),
    "PretrainSpec.objectives": (
        partial(_pretrain, "objectives"),
        [{"objective": {"name": "autoencode"}}] * 2,
    ),
    "PretrainSpec.backbone": (partial(_pretrain, "backbone"), {"name": "plain", "width": 3}),
    "PretrainSpec.train": (partial(_pretrain, "train"), {**TRAIN.plain(), "seed": 1}),
    "PretrainSpec.held_out": (partial(_pretrain, "held_out"), 0.6),
    "PretrainSpec.patch": (partial(_pretrain, "patch"), [4, 16, 16]),
    "WeightedObjective.objective": (partial(_pretrain, "objective"), {"name": "unknown"}),
    "WeightedObjective.weight": (partial(_pretrain, "weight"), 0.1),
    **DEGRADE,
}
"""For each field what is looked at, and the value that must change it."""


@pytest.mark.parametrize("name", CHANGES)
def test_the_field_does_something(name: str) -> None:
    look, value = CHANGES[name]
    assert look(None) != look(value)


def test_no_field_is_without_a_test() -> None:
    """A field that nobody can show to matter has to go, and a test of a field that went as well."""
    for module in pkgutil.walk_packages(aequorea.__path__, "aequorea."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    recipes = {cls for cls in _subclasses(Spec) if cls.__module__.startswith("aequorea.")}
    assert {cls.__name__ for cls in recipes} >= RECORDS
    fields = {
        f"{cls.__name__}.{f}" for cls in recipes for f in cls.model_fields if cls.__name__ not in RECORDS
    }
    assert fields == set(CHANGES)


def _subclasses(cls: type[Spec]) -> Iterator[type[Spec]]:
    for sub in cls.__subclasses__():
        yield sub
        yield from _subclasses(sub)
