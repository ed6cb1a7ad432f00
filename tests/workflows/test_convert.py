"""Published weights give the published outputs, and what is not quite such weights is refused by name."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.ndimage import gaussian_filter
from torch import Tensor
from typer.testing import CliRunner

from aequorea import checks
from aequorea.annotations import TargetImage
from aequorea.backbones.swinir import SwinIRSpec
from aequorea.cli import _app
from aequorea.engine.tiles import Tiling
from aequorea.errors import AequoreaError, ModelError, SpecError
from aequorea.layers.network import Network
from aequorea.layers.published import PublishedSpec
from aequorea.layers.swin import relative_places
from aequorea.model import load
from aequorea.signal.intensity import Intensity
from aequorea.signal.published_intensity import published_intensity
from aequorea.volume import Array, from_array
from aequorea.workflows.convert import _Sizes, build_published, convert, model_of, networks_of
from aequorea.workflows.dataset import Item
from aequorea.workflows.evaluate_model import evaluate_model
from aequorea.workflows.finetune import FinetuneSpec, finetune
from aequorea.workflows.foreign import read_state_dict
from aequorea.workflows.predict import PredictSpec, predict
from quick import TRAIN

torch.set_num_threads(1)
TOLERANCE, LOOSE = 1e-5, 2e-5
TASKS = ("super_resolve", "denoise", "isotropic", "project", "light_field")
SIZES = {"features": 8, "matched": 2, "random": 16, "groups": 2, "units": 2, "planes": 5, "views": 3}
SIZES |= {"depth": 4, "start": 32, "base": 8, "pyramid": (8, 12, 16, 16, 16)}
SMALL = {"width": 12, "heads": 3, "window": 4, "depths": (2, 2)}


@pytest.fixture
def published(real_data: Path) -> Path:
    """The folder of weights with the names of the published ones, beside the real volumes."""
    folder = real_data.parent / "foreign" / "unifmir"
    if not folder.is_dir():
        pytest.skip("weights are not here: they lie in foreign/unifmir, beside the folder of real volumes")
    return folder


def arrays(folder: Path, name: str) -> dict[str, Array]:
    with np.load(folder / f"{name}.npz") as file:
        return dict(file)


def read(folder: Path, name: str, task: str | None = None) -> Network:
    """The network of a file that holds one task, or of one task of several."""
    found = networks_of(read_state_dict(folder / f"{name}.pt"))
    return (found[task] if task else next(iter(found.values()))).network


@torch.inference_mode()
def run(network: Network, x: Array) -> Array:
    """Output (B K Z Y X) of an image of those axes, as the engine reads it."""
    outputs = []
    for image in x:
        tiling = Tiling.of(network, image.shape[1:], None)
        block = tiling.read(from_array(image), tiling.domain)
        outputs.append(network(torch.from_numpy(block)[None], None)[0].numpy())
    return np.stack(outputs)


def apart(a: Array, b: Array) -> float:
    assert a.shape == b.shape
    return float(np.abs(a - b).max())


# What must hold of the files, in their order


def test_super_resolution(published: Path) -> None:
    network, told = read(published, "single_sr_x2"), arrays(published, "single_sr_x2")
    for x, y in (("x", "y"), ("x_odd", "y_odd")):
        assert apart(run(network, told[x][:, :, None])[:, :, 0], told[y]) <= TOLERANCE
    image = told["image"].astype(np.float32)
    scaled = (image - image.min()) / (image.max() - image.min() + 1e-20)
    assert apart(scaled, told["image_norm"]) <= 1e-6
    out = run(network, scaled[None, None, None])[0, 0, 0]
    assert apart(out, told["image_raw_out"]) <= TOLERANCE
    # Only the public application rounds to 256 levels.
    assert apart(np.round(out.clip(0, 1) * 255) / 255, told["image_quantised"]) <= 1 / 254
    assert len(np.unique(out)) > 1000


def test_planes_with_their_neighbours(published: Path) -> None:
    network, told = read(published, "single_denoise_5to1"), arrays(published, "single_denoise_5to1")
    for x, y in zip(told["x"], told["y"]):
        with torch.inference_mode():
            out = network(torch.from_numpy(x)[None, None], None)
        assert apart(out[0, :, 0].numpy(), y) <= TOLERANCE
    volume = told["volume_norm"]
    low, high = np.percentile(told["volume"], [2, 99.8])
    assert apart((told["volume"] - low) / (high - low), volume) <= 1e-4
    numbers = np.broadcast_to(np.arange(7, dtype=np.float32)[:, None, None], volume.shape)
    tiling = Tiling.of(network, volume.shape, None)
    windows = network.stem(torch.from_numpy(tiling.read(from_array(numbers), tiling.domain))[None])
    assert np.array_equal(windows[0, :, :, 0, 0].T.numpy(), told["windows"])
    out = run(network, volume[None, None])[0, 0]
    assert apart(out, told["volume_norm_out"]) <= TOLERANCE
    assert apart(out * (high - low) + low, told["volume_out"]) <= TOLERANCE * (high - low)


def test_isotropic_sections(published: Path) -> None:
    network = read(published, "single_isotropic_1to1", "isotropic")
    told = arrays(published, "single_isotropic_1to1")
    x = torch.from_numpy(told["volume_norm"])[None, None]
    with torch.inference_mode():
        first, second = network.head.passes(network.levels(x, None)[0], x)
        both = network(x, None)
        # Cropped levels have the same size and differ at the far border alone.
        cropped = network.backbone(x, None)
    assert apart(first[0, 0].numpy(), told["pass_x"]) <= TOLERANCE
    assert apart(second[0, 0].numpy(), told["pass_y"]) <= TOLERANCE
    assert apart(both[0, 0].numpy(), told["merged"]) <= TOLERANCE
    assert [level.shape[2:] for level in cropped] == [x.shape[2:]] * 2
    low, high = told["percentiles"]
    assert apart(both[0, 0].numpy() * (high - low) + low, told["volume_out"]) <= TOLERANCE * (high - low)


def test_projection(published: Path) -> None:
    network, told = read(published, "single_projection_50to1"), arrays(published, "single_projection_50to1")
    x = told["x"][:, None]
    with torch.inference_mode():
        assert apart(network.stem(torch.from_numpy(x))[:, :, 0].numpy(), told["y_stage1"]) <= LOOSE
    assert apart(run(network, x)[:, :, 0], told["y"]) <= LOOSE
    # Its attention is over all pixels: no tile is exact, so there are none.
    assert Tiling.of(network, (50, 22, 24), None).halo == (1, 22, 24)


def test_light_field(published: Path) -> None:
    network, told = (
        read(published, "single_volume_lf3_5slices"),
        arrays(published, "single_volume_lf3_5slices"),
    )
    image = told["lightfield"].astype(np.float32)
    x = (image / (1.1 * image.max() / 2) - 1)[None, None, None]
    with torch.inference_mode():
        views = F.pixel_unshuffle(torch.from_numpy(x[:, :, 0]), 3)
        assert apart(views.numpy(), told["x"]) <= 1e-6
        assert apart(network.stem(torch.from_numpy(x))[:, :, 0].numpy(), told["y_stage1"]) <= TOLERANCE
    assert apart(run(network, x)[:, 0], told["y"]) <= TOLERANCE


def test_several_tasks(published: Path) -> None:
    tensors = read_state_dict(published / "multi_task.pt")
    found, told = networks_of(tensors), arrays(published, "multi_task")
    assert list(found) == list(TASKS)
    # The published outputs are not cropped to the caller's size, ours are.
    out = run(found["super_resolve"].network, told["x1"][:, :, None])[:, :, 0]
    assert apart(out, told["y1"][..., :36, :40]) <= TOLERANCE
    with torch.inference_mode():
        out = found["denoise"].network(torch.from_numpy(told["x2"])[:, None], None)[:, :, 0].numpy()
    assert apart(out, told["y2"][..., :18, :20]) <= TOLERANCE
    iso = found["isotropic"].network
    with torch.inference_mode():
        # One plane y of 18 columns x and 20 planes z, and its reverse: what both passes see is one image each.
        x = torch.from_numpy(told["x3"]).transpose(2, 3)[:, :, :, None]
        _, second = iso.head.passes(iso.levels(x, None)[0], x)
        assert apart(second[0, :, :, 0].transpose(1, 2).numpy(), told["y3"][0, :, :18, :20]) <= TOLERANCE
        flipped = x.flip(2).transpose(3, 4)
        first, _ = iso.head.passes(iso.levels(flipped, None)[0], flipped)
        assert (
            apart(first[0, :, :, :, 0].flip(1).transpose(1, 2).numpy(), told["y3"][0, :, :18, :20])
            <= TOLERANCE
        )
        stage = found["project"].network.stem(torch.from_numpy(told["x4"])[:, None])[:, :, 0].numpy()
        assert apart(stage, told["y4_stage1"][..., :18, :20]) <= LOOSE
        field = F.pixel_shuffle(torch.from_numpy(told["x5"]), 3)[:, :, None]
        stage = found["light_field"].network.stem(field)[:, :, 0].numpy()
        assert apart(stage, told["y5_stage1"]) <= TOLERANCE
    assert (
        apart(run(found["project"].network, told["x4"][:, None])[:, :, 0], told["y4"][..., :18, :20]) <= LOOSE
    )
    assert apart(run(found["light_field"].network, field.numpy())[:, 0], told["y5"]) <= TOLERANCE


def test_one_task_among_several_is_another_network(published: Path) -> None:
    """Of several tasks, projection has no skip around its body."""
    single, told = (
        read_state_dict(published / "single_projection_50to1.pt"),
        arrays(published, "single_projection_50to1"),
    )
    renamed = {
        name.replace("denoise.", "")
        .replace("conv_first.", "conv_firstproj.")
        .replace("conv_before_upsample.", "conv_before_upsample0.")
        .replace("conv_last.", "conv_last0."): value
        for name, value in single.items()
    }
    with pytest.raises(ModelError, match="conv_first"):
        networks_of(renamed)  # the other tasks are missing
    whole = read_state_dict(published / "multi_task.pt")
    kept = {name: value for name, value in whole.items() if not name.startswith(("layers.", "project."))}
    body = {n: v for n, v in renamed.items() if n.startswith("layers.")}
    projected = networks_of({**kept, **body, **renamed})["project"].network
    assert apart(run(projected, told["x"][:, None])[:, :, 0], told["y"]) > 1e-2


def test_the_real_size(published: Path) -> None:
    told = arrays(published, "fullsize_formula")
    wanted = {
        "super_resolve": ("sr", PublishedSpec(task="super_resolve")),
        "denoise": ("dn5", PublishedSpec(task="denoise")),
    }
    for task, (short, spec) in wanted.items():
        network = build_published(spec, SwinIRSpec(channels=spec.channels))
        names = _Sizes({}, "", task, False).names
        tensors = _formula({names(n): p for n, p in network.named_parameters()})
        assert sum(t.numel() for t in tensors.values()) == told[f"n_params_{short}"]
        found = networks_of(tensors)[task]
        assert found.spec == spec
        x = torch.from_numpy(told[f"x_{short}"])
        with torch.inference_mode():
            out = found.network(x[:, :, None] if task == "super_resolve" else x[:, None], None)
        assert apart(out[:, :, 0].numpy(), told[f"y_{short}"]) <= TOLERANCE


def _formula(parameters: dict[str, Tensor]) -> dict[str, Tensor]:
    """Fill weights with numbers that follow from their places."""
    filled = {}
    for k, name in enumerate(sorted(parameters)):
        shape = parameters[name].shape
        u = np.sin(12.9898 * (np.arange(parameters[name].numel()) + 1.0) + 78.233 * (k + 1)).reshape(shape)
        if name.endswith("relative_position_bias_table"):
            value = 0.5 * u
        elif len(shape) >= 2:
            value = u / np.sqrt(np.prod(shape[1:]))
        else:
            value = 1 + 0.1 * u if name.endswith("weight") else 0.05 * u
        filled[name] = torch.from_numpy(value.astype(np.float32))
    return filled


def test_ways_to_write_a_file(published: Path, tmp_path: Path) -> None:
    plain = read_state_dict(published / "single_sr_x2.pt")
    x = arrays(published, "single_sr_x2")["x"][:1, :, None]
    expected = run(networks_of(plain)["super_resolve"].network, x)
    few = {n: t for n, t in plain.items() if "attn_mask" not in n and "relative_position_index" not in n}
    masks = [n for n in plain if n.endswith("attn_mask")]
    other = {**plain, **{n: plain[n][[0, 3, 12, 15]] for n in masks}}  # of 2 x 2 windows in place of 4 x 4
    ways = {
        "prefixed": {f"module.{n}": t for n, t in plain.items()},
        "wrapped": {"state_dict": plain, "epoch": 3},
        "few": few,
        "other": other,
    }
    for name, said in ways.items():
        torch.save(OrderedDict(said), tmp_path / f"{name}.pt")
        assert np.array_equal(run(read(tmp_path, name), x), expected)


def test_tiles(published: Path) -> None:
    """48 pixels around are enough for windows of 4, at origins that are multiples of 4."""
    network = read(published, "single_denoise_5to1")
    image = from_array(np.random.default_rng(0).random((1, 3, 16, 200), np.float32))
    expected = run(network, image.read()[None])[0]
    tiling = Tiling.of(network, image.size, None, (0, 48, 48))
    for part in tiling.domain.split((2, 16, 48)):
        computed = tiling.computed(part)
        with torch.inference_mode():
            out = network(torch.from_numpy(tiling.read(image, computed))[None], None, computed.start)[
                0
            ].numpy()
        kept = out[(slice(None), *part.relative_to(computed).slices)]
        assert apart(kept, expected[(slice(None), *part.slices)]) <= 1e-6


@pytest.mark.parametrize(
    ("name", "task", "image", "out"),
    [
        ("single_sr_x2", "super_resolve", "image", "image_raw_out"),
        ("single_denoise_5to1", "denoise", "volume", "volume_out"),
        ("single_isotropic_1to1", "isotropic", "volume", "volume_out"),
        ("single_volume_lf3_5slices", "light_field", "lightfield", "y"),
    ],
)
def test_models_from_counts_to_counts(published: Path, name: str, task: str, image: str, out: str) -> None:
    told = arrays(published, name)
    model = model_of(networks_of(read_state_dict(published / f"{name}.pt"))[task])
    volume = from_array(told[image].astype(np.float32))
    intensity = published_intensity(from_array(told[image]), model.card["normalisation"])
    found = model.predict(volume, precision="float32").layers["restored"].read()[0]
    (about,) = intensity.channels
    expected = told[out].reshape(found.shape)
    if out != "volume_out":
        expected = expected * (about.high - about.low) + about.low
    assert apart(found, expected) <= 3 * TOLERANCE * (about.high - about.low)


def test_a_projection_takes_counts_as_they_are(published: Path, tmp_path: Path) -> None:
    """Published projections are given raw counts, far above what other networks' ranges are cut to."""
    told = arrays(published, "single_projection_50to1")
    done = convert(published / "single_projection_50to1.pt", tmp_path / "model.safetensors")
    model = load(next(iter(done.paths.values())))
    stack = told["x"][0]
    assert np.allclose(model.predict(stack).layers["restored"].read()[0, 0], told["y"][0, 0], atol=2e-5)
    bright = 500 * np.abs(stack)
    with torch.inference_mode():
        expected = model.network(torch.from_numpy(bright)[None, None], None)[0, 0, 0].numpy()
    found = model.predict(bright).layers["restored"].read()[0, 0]
    assert float(bright.max()) > 100
    assert np.allclose(found, expected, atol=1e-4 * float(np.ptp(expected)))


def test_training_goes_on_from_published_weights(tmp_path: Path) -> None:
    path = model_of(networks_of(made("denoise"))["denoise"]).save(tmp_path / "model.safetensors")
    rng = np.random.default_rng(0)
    items = []
    for name in "abc":
        clean = gaussian_filter(rng.random((6, 32, 32)), 1).astype(np.float32)
        noisy = clean + 0.02 * rng.standard_normal(clean.shape).astype(np.float32)
        items.append(Item(name, from_array(noisy), TargetImage(from_array(clean)), group=name))
    words = {"task": {"name": "denoise"}, "train": TRAIN.plain(), "patch": (4, 16, 16), "start": str(path)}
    done = finetune(items, tmp_path / "run", FinetuneSpec.parse(words))
    assert done.model.card["training"]["steps"] > 0
    assert done.model.card["normalisation"] == "percentiles"
    (about,) = published_intensity(items[0].image, "percentiles").channels
    (noted,) = done.model.card["intensities"]["a"]["channels"]
    assert noted["low"] == about.low
    before, after = (load(p).network.state_dict() for p in (path, done.path))
    assert before.keys() == after.keys()
    assert not torch.equal(before["head.last.weight"], after["head.last.weight"])


@pytest.mark.parametrize("dtype", ["uint8", "int16", "float32", "int32"])
def test_percentiles_are_exact(dtype: str) -> None:
    array = (50 * np.random.default_rng(0).standard_normal((5, 40, 50)) + 90).clip(0).astype(dtype)
    (about,) = published_intensity(from_array(array), "percentiles").channels
    assert np.allclose((about.low, about.high), np.percentile(array, [2, 99.8]), rtol=1e-6)
    with pytest.raises(SpecError, match="did you mean 'counts'"):
        published_intensity(from_array(array), "count")


def test_the_verb_scales_as_published(tmp_path: Path) -> None:
    model = model_of(networks_of(made("denoise"))["denoise"])
    path = model.save(tmp_path / "model.safetensors")
    image = np.random.default_rng(0).random((5, 20, 24), np.float32)
    np.save(tmp_path / "image.npy", image)
    spec = PredictSpec(precision="float32")
    done = predict(path, tmp_path / "image.npy", tmp_path / "out.ome.zarr", spec)
    expected = model.predict(image, precision="float32").layers["restored"].read()
    found = done.result.layers["restored"].read()
    assert apart(found, expected) <= 1e-5


def test_a_volume_too_large_to_count_is_scaled_as_published(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = model_of(networks_of(made("denoise"))["denoise"])
    path = model.save(tmp_path / "model.safetensors")
    image = np.random.default_rng(0).random((5, 20, 24), np.float32)
    monkeypatch.setattr("aequorea.workflows.predict.COUNTED", 0)
    spec = PredictSpec(precision="float32")
    done = predict(path, from_array(image), tmp_path / "out.ome.zarr", spec)
    expected = model.predict(image, precision="float32").layers["restored"].read()
    assert apart(done.result.layers["restored"].read(), expected) <= 1e-5


def test_a_part_is_scored_with_the_published_scaling_of_the_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = model_of(networks_of(made("denoise"))["denoise"]).save(tmp_path / "model.safetensors")
    image = np.random.default_rng(0).random((5, 24, 24), np.float32)
    image[:, 16:] *= 50  # beyond the part: the range of the whole is another
    for name in ("image.npy", "clean.npy"):
        np.save(tmp_path / name, image)
    (tmp_path / "pairs.csv").write_text('image,label,region\nimage.npy,clean.npy,"0:5,0:16,0:24"\n')
    scaled = []

    def noted(*words: Any, intensity: Intensity | None, **more: Any) -> Any:
        scaled.append(intensity)
        return predict(*words, intensity=intensity, **more)

    monkeypatch.setattr("aequorea.workflows.evaluate_model.predict", noted)
    evaluate_model(path, tmp_path / "pairs.csv", tmp_path / "scores", say=lambda line: None)
    assert scaled == [published_intensity(from_array(image), "percentiles")]


# Weights made here


def made(task: str, several: bool = False) -> dict[str, Tensor]:
    """Weights of a small network by the names of a published file, its derived numbers included."""
    torch.manual_seed(1)
    spec = PublishedSpec(task=task, **SIZES)
    network = build_published(spec, SwinIRSpec(**SMALL, channels=spec.channels, sections=task == "isotropic"))
    names = _Sizes({}, "denoise." if task == "project" and not several else "", task, several).names
    tensors = {names(n): t for n, t in network.state_dict().items()}
    for name in [n for n in tensors if n.endswith("bias_table")]:
        tensors[name.replace("bias_table", "index")] = relative_places(4)
    return tensors


def made_for_all() -> dict[str, Tensor]:
    return {n: t for task in reversed(TASKS) for n, t in made(task, True).items()}


@pytest.mark.parametrize("task", TASKS)
def test_sizes_are_inferred(task: str) -> None:
    tensors = made(task)
    found = networks_of(tensors)
    assert list(found) == (["denoise", "isotropic"] if task == "isotropic" else [task])
    one = found[task]
    left = {"scale"} if task != "super_resolve" else set()
    wanted = PublishedSpec(task=task, **SIZES)
    told = one.spec.plain()
    uses = {
        "denoise": {"planes"},
        "project": {"planes", "features", "matched", "random", "groups", "units"},
        "light_field": {"views", "depth", "start", "base", "pyramid"},
        "super_resolve": {"scale"},
    }.get(task, set())
    assert {n: told[n] for n in uses - left} == {n: wanted.plain()[n] for n in uses - left}
    assert one.network.backbone.spec.window == 4
    assert one.network.backbone.spec.skip == (task != "light_field")
    assert one.channels == wanted.channels


def test_one_extra_missing_or_transposed_weight() -> None:
    tensors = made("denoise")
    name = "layers.1.residual_group.blocks.0.mlp.fc1.weight"
    with pytest.raises(ModelError, match=r"unexpected weight 'conv_more.bias'"):
        networks_of({**tensors, "conv_more.bias": torch.zeros(3)})
    for dropped in (name, "conv_last.bias", "conv_first.weight", "patch_embed.norm.weight"):
        with pytest.raises(ModelError, match=f"missing weight '{dropped}'"):
            networks_of({n: t for n, t in tensors.items() if n != dropped})
    for changed in [n for n, t in tensors.items() if t.dim() in (2, 4) and t.shape[0] != t.shape[1]]:
        if "relative" in changed:
            continue
        with pytest.raises(ModelError, match=f"weight '{changed}' is of shape"):
            networks_of({**tensors, changed: tensors[changed].transpose(0, 1)})
    # Leaving out a whole group is not seen as a smaller network.
    some = {n: t for n, t in tensors.items() if not n.startswith("layers.0.")}
    with pytest.raises(ModelError, match=r"layers\.0"):
        networks_of(some)
    table = "layers.0.residual_group.blocks.0.attn.relative_position_bias_table"
    with pytest.raises(ModelError, match=f"'{table}' of shape"):
        networks_of({**tensors, table: tensors[table].T})
    far = "layers.999999999.residual_group.blocks.0.norm1.bias"
    with pytest.raises(ModelError, match=f"'{far}': blocks before it are missing"):
        networks_of({**tensors, far: torch.zeros(12)})
    index = "layers.0.residual_group.blocks.0.attn.relative_position_index"
    with pytest.raises(ModelError, match=f"'{index}' is not what"):
        networks_of({**tensors, index: tensors[index].flip(0)})
    with pytest.raises(ModelError, match="no whole weights of UniFMIR"):
        networks_of({"weight": torch.zeros(3)})


def test_random_features_are_weights(tmp_path: Path) -> None:
    tensors = made("project")
    lacking = {n: t for n, t in tensors.items() if "body.3.attn_fn" not in n}
    for partial in (False, True):
        with pytest.raises(
            ModelError, match=r"body\.3\.attn_fn\.projection_matrix.*nothing else can stand in"
        ):
            networks_of(lacking, partial=partial)
    torch.save(tensors, tmp_path / "a.pt")
    x = np.random.default_rng(0).random((1, 1, 5, 9, 9), np.float32)
    first, second = (run(networks_of(read_state_dict(tmp_path / "a.pt"))["project"].network, x) for _ in "ab")
    assert np.array_equal(first, second)


def test_the_command(tmp_path: Path) -> None:
    tensors = made_for_all()
    tensors |= {"project.sub_mean.weight": torch.ones(1, 1, 1, 1), "project.sub_mean.bias": torch.zeros(1)}
    torch.save(tensors, tmp_path / "all.pt")
    done = CliRunner().invoke(_app(), ["convert", str(tmp_path / "all.pt"), "-o", str(tmp_path / "models")])
    assert done.exit_code == 0, done.output
    assert "missing 0\nunexpected 0" in done.output
    assert "not used by the published network either 2" in done.output
    assert "(masks and places)" in done.output
    assert {p.stem for p in (tmp_path / "models").iterdir()} == set(TASKS)
    image = np.random.default_rng(0).random((5, 12, 15), np.float32)
    for task in TASKS:
        model = load(tmp_path / "models" / f"{task}.safetensors")
        assert model.card["task"]["name"] == task
        assert model.card["source"] == "all.pt"
        out = model.predict(image).layers["restored"].read()
        assert np.isfinite(out).all()
    assert model.card["normalisation"] == "highest"
    model = load(tmp_path / "models" / "denoise.safetensors")
    assert model.network.backbone.spec.channels == 5
    checks.model(model)
    one = convert(tmp_path / "all.pt", tmp_path / "one.safetensors", "project")
    assert list(one.paths.values()) == [tmp_path / "one.safetensors"]
    with pytest.raises(SpecError, match="did you mean 'denoise'"):
        convert(tmp_path / "all.pt", tmp_path / "x", "denoize")
    torch.save(made("isotropic"), tmp_path / "plain.pt")
    with pytest.raises(SpecError, match="denoise or isotropic: say which with --task"):
        convert(tmp_path / "plain.pt", tmp_path / "x")
    (tmp_path / "none.pt").write_bytes(b"none")
    with pytest.raises(AequoreaError, match=r"none\.pt"):
        convert(tmp_path / "none.pt", tmp_path / "x")


def test_partly(tmp_path: Path) -> None:
    tensors = {n: t for n, t in made("denoise").items() if n != "conv_last.bias"}
    torch.save({**tensors, "more": torch.zeros(2)}, tmp_path / "a.pt")
    with pytest.raises(ModelError, match=rf"{tmp_path / 'a.pt'}: missing weight 'conv_last.bias'"):
        convert(tmp_path / "a.pt", tmp_path / "x")
    done = convert(tmp_path / "a.pt", tmp_path / "x", partial=True)
    assert (done.report.missing, done.report.unexpected) == (["conv_last.bias"], ["more"])
    assert "missing 1: conv_last.bias" in done.lines
    assert "unexpected 1: more" in done.lines


def test_of_windows_that_are_not_shifted() -> None:
    one = networks_of(made("denoise"), shift=False)["denoise"]
    assert not one.network.backbone.spec.shift
    assert (
        one.network.backbone.layout(None).reach
        < networks_of(made("denoise"))["denoise"].network.backbone.layout(None).reach
    )
