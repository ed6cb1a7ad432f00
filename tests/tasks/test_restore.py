"""Restorations: heads, losses, targets in the image's units, every task from pairs to counts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import map_coordinates

from aequorea import checks
from aequorea.annotations import TargetImage
from aequorea.engine.counts import in_counts
from aequorea.engine.tiles import Tiling
from aequorea.engine.train import TrainSpec
from aequorea.errors import SpecError
from aequorea.layers.restoring import (
    FARTHEST,
    LOSSES,
    TRUNCATE,
    AddingHead,
    PlanesHead,
    between,
    between_moved,
    dealt,
    loss,
    moved,
    smoothed,
)
from aequorea.layers.stems import LensletStem
from aequorea.model import Model
from aequorea.registry import build
from aequorea.scores.restoration import psnr
from aequorea.signal.back_projection import back_projected
from aequorea.signal.intensity import measure
from aequorea.volume import Array, from_array
from aequorea.workflows.dataset import Item
from aequorea.workflows.finetune import FinetuneSpec, finetune
from aequorea.workflows.pairs import in_units_of
from aequorea.workflows.predict import predict

torch.set_num_threads(1)
SPACING = (1.0, 1.0, 1.0)
TASKS: dict[str, dict[str, object]] = {
    "denoise": {"planes": 3},
    "deblur": {"loss": "charbonnier"},
    "super_resolve": {"factor": 3},
    "isotropic": {"factor": 2},
    "project": {},
    "light_field": {"views": 3, "depth": 5},
}
sides = st.integers(1, 9)


def blobs(size: tuple[int, int, int], seed: int = 0) -> Array:
    from scipy.ndimage import gaussian_filter

    field = gaussian_filter(np.random.default_rng(seed).random(size), [min(2, n / 8) for n in size])
    return (field - field.min()) / max(1e-9, float(np.ptp(field)))


def pair(task: str, seed: int) -> tuple[Array, Array]:
    """Return image and target as counts, uint16, of grids that the task wants."""
    truth = blobs((12, 48, 48), seed)
    image = {
        "super_resolve": lambda: truth.reshape(12, 16, 3, 16, 3).mean((2, 4)),
        "isotropic": lambda: truth[::2],
        "project": lambda: truth,
        "light_field": lambda: truth.mean(0, keepdims=True),
    }.get(task, lambda: truth)()
    target = {"project": lambda: truth.max(0, keepdims=True), "light_field": lambda: truth[:5]}.get(
        task, lambda: truth
    )()
    noisy = np.random.default_rng(seed).poisson(100 + 400 * image)
    return noisy.astype(np.uint16), (50 + 2000 * target).astype(np.uint16)


@pytest.mark.parametrize("name", TASKS)
def test_conforms(name: str) -> None:
    checks.task(name, **TASKS[name])


@pytest.mark.parametrize("name", TASKS)
def test_from_pairs_to_counts(name: str, tmp_path: Path) -> None:
    items = []
    for seed in range(3):
        image, target = pair(name, seed)
        items.append(Item(f"{seed}", from_array(image, SPACING), TargetImage(from_array(target)), f"{seed}"))
    spec = FinetuneSpec(
        task={"name": name, **TASKS[name]},
        backbone={"name": "unet", "levels": 2},
        train=TrainSpec(steps=2, batch=2, evaluate_every=2),
    )
    done = finetune(items, tmp_path / "run", spec)
    image, target = pair(name, 7)
    found = predict(done.path, from_array(image, SPACING), tmp_path / "out.ome.zarr", say=lambda line: None)
    restored = found.result.layers["restored"]
    assert restored.size == target.shape and restored.dtype == np.uint16
    direct = done.model.predict(from_array(image, SPACING)).layers["restored"]
    apart = np.abs(direct.read().astype(int) - restored.read().astype(int))
    assert apart.max() <= 0.02 * np.ptp(image) + 1
    if name not in ("project", "light_field"):  # in the counts of the image, not of the target
        assert abs(float(restored.read().mean()) - float(image.mean())) < 0.25 * float(image.mean())


@pytest.mark.parametrize("name", ["denoise", "isotropic", "super_resolve", "project"])
@pytest.mark.parametrize("size", [(1, 1, 1), (2, 5, 7), (3, 1, 40), (1, 33, 18)])
def test_any_size_is_restored(name: str, size: tuple[int, int, int]) -> None:
    model = Model.build(build("tasks", {"name": name, **TASKS[name]}), {"name": "unet", "levels": 3}, SPACING)
    image = np.random.default_rng(0).poisson(300, size).astype(np.uint16)
    restored = model.predict(image).layers["restored"].read()
    assert np.isfinite(restored).all()


def test_what_has_learnt_nothing_smooths_the_image() -> None:
    image = np.random.default_rng(0).poisson(300, (4, 32, 32)).astype(np.uint16)
    for name in ("denoise", "deblur"):
        model = Model.build(build("tasks", {"name": name}), {"name": "unet"}, SPACING)
        restored = model.predict(image).layers["restored"].read()[0].astype(float)
        assert abs(restored.mean() - 300) < 3 and restored.std() < 0.6 * image.std()


@pytest.mark.parametrize("factor", [(1, 1, 1), (3, 1, 1), (1, 2, 2)])
def test_planes_restored_a_few_at_a_time_are_those_of_all_at_once(factor, monkeypatch) -> None:
    torch.manual_seed(0)
    if factor[0] > 1:
        head = PlanesHead(5, (1, 1, 1), 2, factor[0]).eval()
        torch.nn.init.normal_(head.moves.weight)
    else:
        head = AddingHead(5, (1, 1, 1), 2, factor).eval()
    torch.nn.init.normal_(head.last.weight)
    level, image = torch.randn(1, 5, 19, 12, 14), torch.randn(1, 2, 19, 12, 14)
    whole = head([level], image).detach()
    monkeypatch.setattr("aequorea.layers.restoring.SLAB", 4)
    with torch.no_grad():
        assert torch.allclose(head([level], image), whole, atol=1e-5)


@settings(max_examples=25, deadline=None)
@given(st.tuples(st.integers(1, 30), *[st.integers(1, 60)] * 2), st.integers(2, 5), st.integers(0, 99))
def test_planes_between_planes_see_no_farther_than_their_head_says(size, factor, seed) -> None:
    """Of a head that mixes and moves at random: what lies beyond its reach changes nothing."""
    torch.manual_seed(seed)
    head = PlanesHead(3, (1, 1, 1), 1, factor).eval()
    for part in (head.last, head.moves):
        torch.nn.init.normal_(part.weight)
    level, image = torch.randn(1, 3, *size), torch.randn(1, 1, *size)
    at = [n // 2 for n in size]
    low, high = zip(*((max(0, a - r), min(n, a + r + 1)) for a, r, n in zip(at, head.reach, size)))
    part = (slice(None), slice(None), *(slice(a, b) for a, b in zip(low, high)))
    with torch.no_grad():
        whole, near = head([level], image), head([level[part]], image[part])
    planes = [
        slice(factor * (a - start), factor * (a - start + 1)) for a, start in ((at[0], 0), (at[0], low[0]))
    ]
    here = whole[0, 0, planes[0], at[1], at[2]]
    assert torch.allclose(near[0, 0, planes[1], at[1] - low[1], at[2] - low[2]], here, atol=1e-4)


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 40), st.floats(0.5, 5), st.integers(2, 4), st.integers(0, 9))
def test_smoothing_is_that_of_scipy_away_from_ends_and_keeps_constants(n, sigma, axis, seed) -> None:
    shape = [2, 1, 3, 3, 3]
    shape[axis] = n
    x = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    assert torch.allclose(smoothed(torch.ones(shape), sigma, axis), torch.ones(shape), atol=1e-5)
    far = int(np.ceil(TRUNCATE * sigma))
    if n > 2 * far:
        kernel = np.exp(-0.5 * (np.arange(-far, far + 1) / sigma) ** 2)
        expected = np.apply_along_axis(np.convolve, axis, x.numpy(), kernel / kernel.sum(), mode="valid")
        found = smoothed(x, sigma, axis).narrow(axis, far, n - 2 * far)
        assert np.allclose(found.numpy(), expected, atol=1e-5)


@settings(max_examples=25, deadline=None)
@given(st.tuples(sides, sides, sides), st.tuples(*[st.integers(1, 4)] * 3), st.integers(0, 99))
def test_binned_voxels_are_interpolated_as_pytorch_does(size, factor, seed) -> None:
    x = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(seed))
    expected = F.interpolate(x, scale_factor=[float(f) for f in factor], mode="trilinear")
    head = AddingHead(1, (1, 1, 1), 3, factor)
    assert torch.allclose(head.finer([x], x), expected, atol=1e-5)


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 9), st.integers(2, 8), st.integers(0, 99))
def test_planes_that_were_kept_stay(planes, factor, seed) -> None:
    x = torch.randn(1, 1, planes, 3, 2, generator=torch.Generator().manual_seed(seed))
    out = between(x, factor, "linear")
    assert torch.equal(out[:, :, ::factor], x)
    line = np.interp(np.arange(planes * factor) / factor, np.arange(planes), x[0, 0, :, 1, 1].numpy())
    assert np.allclose(out[0, 0, :, 1, 1].numpy(), line, atol=1e-5)
    still = between_moved(x, factor, torch.zeros(1, 4 * (factor - 1), planes, 3, 2))
    assert torch.allclose(still, out, atol=1e-5)


@settings(max_examples=25, deadline=None)
@given(st.tuples(*[st.integers(1, 12)] * 3), st.floats(0.1, 12), st.integers(0, 99))
def test_voxels_are_moved_as_scipy_moves_them(size, far, seed) -> None:
    rng = np.random.default_rng(seed)
    x = rng.random((2, 2, *size), np.float32)
    by = rng.normal(0, far, (2, 2, *size)).astype(np.float32)
    found = moved(torch.from_numpy(x), torch.from_numpy(by)).numpy()
    places = np.stack(np.meshgrid(*(np.arange(n) for n in size[1:]), indexing="ij"))
    for b, c, z in np.ndindex(2, 2, size[0]):
        expected = map_coordinates(x[b, c, z], places + by[b, :, z], order=1, mode="nearest")
        assert np.allclose(found[b, c, z], expected, atol=1e-4)


def test_what_runs_aslant_is_found_between_planes_by_the_way_it_takes() -> None:
    """A spot that moves by FARTHEST from plane to plane, and the moves that say so; a mean has it there twice."""
    n, planes, step = 4, 3, FARTHEST
    rows = torch.arange(64.0)[:, None] - 20
    columns = torch.arange(64.0)[None] - 20
    whole = torch.stack(
        [torch.exp(-((rows - step * i / n) ** 2 + columns**2) / 8) for i in range(planes * n)]
    )[None, None]
    moves = torch.zeros(1, n - 1, 2, 2, planes, 64, 64)
    moves[:, :, 0, 0], moves[:, :, 1, 0] = -step, step
    last = (planes - 1) * n + 1
    found = between_moved(whole[:, :, ::n], n, moves.flatten(1, 3))[:, :, :last]
    assert torch.allclose(found, whole[:, :, :last], atol=1e-3)
    assert (between(whole[:, :, ::n], n, "linear")[:, :, :last] - whole[:, :, :last]).abs().max() > 0.4


@settings(max_examples=25, deadline=None)
@given(st.tuples(sides, sides, sides), st.integers(2, 4), st.integers(0, 99))
def test_channels_are_dealt_as_pixel_shuffle_deals_them(size, factor, seed) -> None:
    x = torch.randn(2, 2 * factor**2, *size, generator=torch.Generator().manual_seed(seed))
    planes = x.transpose(1, 2).flatten(0, 1)
    expected = F.pixel_shuffle(planes, factor).unflatten(0, (2, size[0])).transpose(1, 2)
    assert torch.equal(dealt(x, (1, factor, factor)), expected)


@settings(max_examples=25, deadline=None)
@given(
    gain=st.floats(0.05, 20),
    offset=st.floats(-500, 500),
    noise=st.floats(0, 1),
    bins=st.sampled_from([(1, 1, 1), (1, 2, 2), (2, 1, 1)]),
    seed=st.integers(0, 99),
)
def test_targets_are_brought_to_the_units_of_their_images(gain, offset, noise, bins, seed) -> None:
    rng = np.random.default_rng(seed)
    fine = blobs((8, 32, 32), seed)
    z, y, x = (n // b for n, b in zip(fine.shape, bins))
    image = fine.reshape(z, bins[0], y, bins[1], x, bins[2]).mean((1, 3, 5))
    image = image + noise * image.std() * rng.standard_normal(image.shape)
    target = TargetImage(from_array((fine * gain + offset).astype(np.float32)))
    found = in_units_of(from_array(image.astype(np.float32)), target).volume.read()[0]
    assert np.abs(found - fine).mean() < 0.01 + 0.2 * noise * fine.std()


@given(st.floats(0.1, 10), st.integers(2, 5), st.integers(0, 99))
def test_planes_that_were_left_out_do_not_bend_the_units(gain: float, factor: int, seed: int) -> None:
    """Planes unlike the kept ones between them: the line is that of the kept ones, which are in both."""
    fine = np.random.default_rng(seed).random((3 * factor, 12, 12)).astype(np.float32)
    target = TargetImage(from_array(fine * gain + 7))
    found = in_units_of(from_array(fine[::factor]), target, "corner").volume.read()[0]
    np.testing.assert_allclose(found, fine, atol=1e-3)


def test_what_has_no_line_keeps_its_own_range() -> None:
    stack = from_array(np.random.default_rng(0).random((9, 20, 20), np.float32))
    plane = np.random.default_rng(1).random((1, 20, 20), np.float32) * 700 + 40
    found = in_units_of(stack, TargetImage(from_array(plane))).volume.read()
    assert -0.1 < np.percentile(found, 1) < 0.1 and 0.9 < np.percentile(found, 99) < 1.1


@pytest.mark.parametrize("kind", ["uint8", "uint16", "int32", "float32"])
def test_counts_are_whole_and_within_their_type(kind: str) -> None:
    image = from_array((np.arange(200).reshape(2, 10, 10)).astype(kind))
    about = measure(image, progress=False)
    dense = from_array(np.linspace(-9, 9, 200, dtype=np.float32).reshape(2, 10, 10))
    found = in_counts(dense, about, image.dtype).read()
    assert found.dtype == np.dtype(kind)
    span, low = about.channels[0].high - about.channels[0].low, about.channels[0].low
    expected = dense.read() * span + low
    if kind != "float32":
        limits = np.iinfo(kind)
        expected = np.clip(np.rint(expected), limits.min, limits.max)
    assert np.allclose(found, expected, atol=1e-3)


@pytest.mark.parametrize("name", LOSSES)
def test_losses_fall_towards_the_target_and_know_what_is_unknown(name) -> None:
    torch.manual_seed(0)
    target = torch.rand(2, 1, 4, 16, 16)
    target[:, :, :, :4] = float("nan")
    near, far = target.nan_to_num() + 0.01, target.nan_to_num() + 0.3 * torch.rand_like(target)
    assert loss(name, near, target) < loss(name, far, target)
    other = far.clone()
    other[:, :, :, :4] += 7
    assert torch.allclose(loss(name, far, target), loss(name, other, target))


def test_a_fitted_loss_is_the_logarithm_of_what_a_line_leaves() -> None:
    torch.manual_seed(0)
    target = torch.rand(1, 1, 4, 16, 16)
    better, worse = (target + share * torch.rand_like(target) for share in (0.2, 0.5))
    for gain, offset in ((1.0, 0.0), (3.0, -1.0)):
        found = [loss("fitted", gain * output + offset, target) for output in (better, worse)]
        gained = psnr(better[0, 0].numpy(), target[0, 0].numpy(), fit=True) - psnr(
            worse[0, 0].numpy(), target[0, 0].numpy(), fit=True
        )
        assert 100 / np.log(10) * float(found[1] - found[0]) == pytest.approx(gained, rel=0.02)
    assert loss("fitted", -better, target) > loss("fitted", torch.rand_like(target), target)


@pytest.mark.parametrize("output", [0.0, 1.0])
def test_a_fitted_loss_of_constants_has_a_gradient(output: float) -> None:
    found = torch.full((1, 1, 2, 8, 8), output, requires_grad=True)
    for target in (torch.rand(1, 1, 2, 8, 8), torch.full((1, 1, 2, 8, 8), 0.5)):
        (gradient,) = torch.autograd.grad(loss("fitted", found, target), found)
        assert torch.isfinite(gradient).all() and gradient.abs().max() > 0


def test_a_light_field_has_the_z_step_of_its_targets() -> None:
    """Or what was told; where nothing says it, the pitch of the lenslets stands in for it."""
    words = {"name": "light_field", "views": 5, "depth": 4}
    target = TargetImage(from_array(np.zeros((4, 20, 20), np.float32), (0.3, 0.1, 0.1)))
    for told, known in ((words, 0.3), ({**words, "z_step": 0.7}, 0.7)):
        task = build("tasks", told).resolve([target])
        network = Model.build(task, {"name": "unet", "levels": 2}, None).network
        tiling = Tiling.of(network, (1, 20, 20), (9.0, 0.1, 0.1))
        assert tiling.output_spacing == pytest.approx((known, 0.1, 0.1))
    network = Model.build(build("tasks", words), {"name": "unet", "levels": 2}, None).network
    assert Tiling.of(network, (1, 20, 20), (9.0, 0.1, 0.1)).output_spacing == pytest.approx((0.5, 0.1, 0.1))


@pytest.mark.parametrize(("views", "depth", "step"), [(5, 8, 0.08), (3, 5, -0.9), (4, 1, 0.3)])
def test_light_fields_begin_as_shift_and_add(views: int, depth: int, step: float) -> None:
    image = np.random.default_rng(0).random((1, 1, 1, 30 * views, 24 * views), np.float32)
    stem = LensletStem(views, depth, step)
    found = stem(torch.from_numpy(image)).detach().numpy()[0, 0]
    expected = back_projected(image[0, 0], planes=depth, step=step, side=views)
    far = stem.reach[1]
    assert np.allclose(found[:, far:-far, far:-far], expected[:, far:-far, far:-far], atol=1e-4)


def test_l2_is_l2_and_unknown_losses_are_refused() -> None:
    """No loss stands in for another, as where "L2" was L1 a second time."""
    target, output = torch.zeros(1, 1, 1, 4, 4), torch.full((1, 1, 1, 4, 4), 0.5)
    assert float(loss("l2", output, target)) == pytest.approx(0.25)
    assert float(loss("l1", output, target)) == pytest.approx(0.5)
    with pytest.raises(ValueError, match="known: log_l2"):
        loss("L2", output, target)  # type: ignore[arg-type]
    with pytest.raises(SpecError):
        build("tasks", {"name": "denoise", "loss": "l3"})


def test_a_brighter_image_counts_no_more() -> None:
    target = torch.rand(2, 1, 1, 8, 8)
    output = target.clone().requires_grad_()
    scale = torch.tensor([1.0, 10.0]).view(2, 1, 1, 1, 1)
    error = 0.1 * torch.randn(1, 1, 1, 8, 8) * scale
    (gradient,) = torch.autograd.grad(loss("log_l2", output + error, target), output)
    per_sample = (gradient * scale).flatten(1).norm(dim=1)
    assert float(per_sample[0] / per_sample[1]) == pytest.approx(1, rel=0.02)


def test_a_head_says_where_its_finer_voxels_lie() -> None:
    from aequorea.volume import Region

    head = PlanesHead(4, (1, 1, 1), 1, 3)
    region, spacing = head.output_grid(Region((2, 0, 0), (4, 5, 5)), (3.0, 1.0, 1.0))
    assert region == Region((6, 0, 0), (12, 5, 5)) and spacing == (1.0, 1.0, 1.0)


@pytest.mark.parametrize(
    "backbone", [{"name": "swinir", "width": 12, "depths": (2,), "heads": 2}, {"name": "unet"}]
)
@pytest.mark.parametrize("planes", [1, 5])
def test_windows_of_planes_restore_the_middle_one_on_every_body(backbone, planes, tmp_path: Path) -> None:
    """What is restored is the plane itself: no other plane's image is passed on, at the ends of the stack neither."""
    task = build("tasks", {"name": "denoise", "planes": planes})
    words = {**backbone, "channels": planes} if backbone["name"] == "swinir" else backbone
    model = Model.build(task, words, SPACING)
    image = np.zeros((7, 40, 40), np.float32)
    image += np.arange(7, dtype=np.float32)[:, None, None] * 100
    with torch.no_grad():
        for parameter in model.network.head.last.parameters():
            parameter.zero_()
    level = torch.zeros(1, model.network.head.mix.in_channels, 7, 40, 40)
    x = model.network.stem(
        torch.from_numpy(np.pad(image, ((planes // 2,) * 2, (0, 0), (0, 0)), constant_values=np.nan))[
            None, None
        ]
    )
    copies = model.network.head([level], x)[0, 0]
    assert copies.shape == image.shape
    assert torch.allclose(copies[3], torch.full((40, 40), 300.0), atol=1e-3)


@pytest.mark.parametrize("name", ["denoise", "super_resolve", "isotropic"])
def test_no_pixel_of_the_target_reaches_the_input(name: str) -> None:
    """Other targets, the same inputs: of the sampler, and through the stem."""
    from aequorea.engine.sampler import Pair, Sampler
    from aequorea.engine.tiles import Tiling

    task = build("tasks", {"name": name, **TASKS[name]})
    network = Model.build(task, {"name": "unet", "levels": 2}, SPACING).network
    image, target = pair(name, 0)
    tiling = Tiling.of(network, image.shape, SPACING)
    drawn = []
    for other in (target, target[::-1, ::-1].copy() + 7):
        known = TargetImage(from_array(other.astype(np.float32)))
        one = Pair(from_array(image.astype(np.float32)), task.target(known, SPACING), tiling)
        sampler = Sampler([one], task.strata, (4, 16, 16), 0, brightness=0.0, anchor=task.anchor)
        drawn.append([sampler(index) for index in range(6)])
    for first, second in zip(*drawn):
        assert np.array_equal(first["image"], second["image"], equal_nan=True)
        assert not np.array_equal(first["target"], second["target"])
