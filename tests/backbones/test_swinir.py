"""The window transformer: windows anchored at the origin, any size, any device and precision, adapters."""

from __future__ import annotations

import threading

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from aequorea import checks
from aequorea.backbones.swinir import SwinIR, SwinIRSpec
from aequorea.engine.inference import Runner
from aequorea.engine.tiles import Tiling
from aequorea.errors import SpecError
from aequorea.layers import swin
from aequorea.layers.lenslet_unet import LensletUNet
from aequorea.layers.network import Network
from aequorea.layers.nonlocal_attention import SurfaceStem
from aequorea.layers.published import PublishedSpec, published_head, published_stem
from aequorea.volume import Region, from_array

torch.set_num_threads(1)
SMALL = {"width": 12, "heads": 3, "window": 4, "depths": (2, 2)}


def shaken(network: torch.nn.Module) -> torch.nn.Module:
    """Weights from which every part of the output varies, attention included."""
    generator = torch.Generator().manual_seed(3)
    for name, parameter in network.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        if parameter.dim() > 1 and not name.endswith(".bias"):
            parameter.data = 1.2 * noise / parameter[0].numel() ** 0.5
        elif name.endswith(".bias") and parameter.dim() > 1:
            parameter.data = noise  # of pairs of tokens
        else:
            parameter.data = parameter.data + 0.2 * noise
    return network.eval()


def body(**fields: object) -> SwinIR:
    torch.manual_seed(0)
    made = shaken(SwinIR(SwinIRSpec(**{**SMALL, **fields})))
    assert isinstance(made, SwinIR)
    return made


def network(task: str, **fields: object) -> Network:
    torch.manual_seed(0)
    sizes = {"features": 8, "matched": 2, "random": 16, "groups": 1, "units": 1, "planes": 5, "views": 3}
    sizes |= {"depth": 4, "start": 32, "base": 8, "pyramid": (8, 12, 16)}
    spec = PublishedSpec(task=task, **{**sizes, **fields})
    recipe = SwinIRSpec(**SMALL, channels=spec.channels, sections=task == "isotropic")
    made = shaken(Network(published_stem(spec), SwinIR(recipe), published_head(spec, 12)))
    assert isinstance(made, Network)
    return made


@pytest.mark.parametrize("shifted", [False, True])
def test_stochastic_depth_leaves_parts_out_of_whole_planes(shifted: bool) -> None:
    torch.manual_seed(0)
    block = swin.WindowBlock(12, 3, 4, 24, shifted, left_out=0.5)
    block.load_state_dict(shaken(swin.WindowBlock(12, 3, 4, 24, shifted)).state_dict())
    plane = torch.randn(1, 64, 12)
    windows = swin.Windows(64, (8, 8), 4, torch.device("cpu"))
    tokens = plane.expand(64, -1, -1).reshape(-1, 12)
    found = block.train()(tokens, windows).reshape(64, 64, 12)
    kinds = torch.unique(found.detach().round(decimals=4), dim=0)
    assert len(kinds) == 4, "both parts, either, none"
    assert (found - plane).abs().amax((1, 2)).min() == 0
    whole = swin.WindowBlock(12, 3, 4, 24, shifted)
    whole.load_state_dict(block.state_dict())
    with torch.no_grad():
        assert torch.equal(block.eval()(tokens.clone(), windows), whole(tokens.clone(), windows))


def plain_attention(block: swin.WindowBlock, x: Tensor) -> Tensor:
    """The same block on an image_BYXC, written as the paper has it: roll, mask every window, roll back."""
    b, h, w, c = x.shape
    n, s = block.window, block.window // 2 if block.shifted else 0
    y = block.before(x).roll((-s, -s), (1, 2))

    def cut(t: Tensor) -> Tensor:
        return t.view(-1, h // n, n, w // n, n, t.shape[-1]).transpose(2, 3).reshape(-1, n * n, t.shape[-1])

    qkv = block.qkv(cut(y)).view(-1, n * n, 3, block.heads, c // block.heads).permute(2, 0, 3, 1, 4)
    logits = (
        qkv[0] @ qkv[1].transpose(-1, -2) * (c // block.heads) ** -0.5
        + block.bias[swin.relative_places(n)].permute(2, 0, 1)[None]
    )
    if s:
        bands = torch.zeros(1, h, w, 1)
        for i, rows in enumerate((slice(0, h - n), slice(h - n, h - s), slice(h - s, h))):
            for j, columns in enumerate((slice(0, w - n), slice(w - n, w - s), slice(w - s, w))):
                bands[:, rows, columns] = 3 * i + j
        of = cut(bands)[..., 0]
        logits = logits + -100.0 * (of[:, :, None] != of[:, None]).float().repeat(b, 1, 1)[:, None]
    out = block.proj((logits.softmax(-1) @ qkv[2]).transpose(1, 2).reshape(-1, n * n, c))
    out = out.view(b, h // n, w // n, n, n, c).transpose(2, 3).reshape(b, h, w, c)
    x = x + out.roll((s, s), (1, 2))
    return x + block.down(torch.nn.functional.gelu(block.up(block.between(x))))


@settings(max_examples=20)
@given(
    st.integers(1, 3), st.integers(1, 4), st.integers(1, 4), st.sampled_from((2, 4, 5)), st.integers(1, 200)
)
def test_blocks_are_those_of_the_paper(planes, rows, columns, window, at_once) -> None:
    x = torch.randn(planes, 12, rows * window, columns * window)
    group = body(window=window).groups[0]
    windows = swin.Windows(planes, (rows * window, columns * window), window, x.device)
    before = dict(swin.TOKENS_AT_ONCE)
    swin.TOKENS_AT_ONCE["cpu"] = at_once
    try:
        for block in group.blocks:
            expected = plain_attention(block, x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
            tokens = windows.tokens(x)
            learnt = block(tokens.clone(), windows)
            with torch.inference_mode():
                computed = block(tokens.clone(), windows)
            assert torch.allclose(windows.image(learnt), expected, atol=1e-4)
            assert torch.allclose(windows.image(computed), expected, atol=1e-4)
    finally:
        swin.TOKENS_AT_ONCE.update(before)


def test_gradients_are_those_of_the_paper() -> None:
    group = body().groups[0]
    x = torch.randn(1, 12, 8, 12)
    windows = swin.Windows(1, (8, 12), 4, x.device)
    block = group.blocks[1]
    found = []
    for out in (
        plain_attention(block, x.permute(0, 2, 3, 1)),
        windows.image(block(windows.tokens(x), windows)),
    ):
        block.zero_grad()
        out.square().sum().backward()
        found.append([p.grad.clone() for p in block.parameters()])
    for a, b in zip(*found):
        assert torch.allclose(a, b, rtol=1e-3, atol=1e-3)


def test_conformance() -> None:
    checks.backbone("swinir", **SMALL)
    checks.backbone("swinir", **SMALL, shift=False, skip=False, mlp_ratio=1.5)
    checks.adapter("lora", {"name": "swinir", **SMALL})


@torch.inference_mode()
def test_any_size() -> None:
    made = body()
    for size in [(1, 1), (1, 7), (2, 3), (3, 1), (5, 4), (9, 21)]:
        x = torch.randn(2, 1, 1, *size)
        (level,) = made(x, None)
        assert level.shape == (2, 12, 1, *size)
        assert torch.isfinite(level).all()
        assert torch.allclose(level[1:], made(x[1:], None)[0], atol=1e-5)  # planes do not see each other
    thin = swin.whole_windows(torch.arange(3.0).view(1, 1, 1, 3), 8)
    assert thin[0, 0, 0].tolist() == [0, 1, 2, 1, 0, 1, 2, 1]
    wide = swin.whole_windows(torch.arange(6.0).view(1, 1, 1, 6), 4)
    assert wide[0, 0, 0].tolist() == [0, 1, 2, 3, 4, 5, 4, 3]


@pytest.mark.parametrize(
    ("depths", "window", "shift", "seen"),
    [((6, 6, 6), 8, True, 78), ((1,), 8, False, 10), ((2,), 4, True, 8)],
)
def test_reach(depths, window, shift, seen) -> None:
    assert swin.reach(depths, window, shift) == seen


def test_the_published_size() -> None:
    made = SwinIR(SwinIRSpec())
    # The shared body of the paper, and its first convolution.
    assert sum(p.numel() for p in made.parameters()) == 1_500_840 + 900
    assert made.layout(None).halo == (0, 48, 48)
    with pytest.raises(SpecError, match="no multiple of heads"):
        SwinIRSpec.parse({"heads": 7})


def tiles(net: Network, image: np.ndarray, core: tuple[int, int, int], halo, shift: int = 0) -> np.ndarray:
    """The output computed in tiles, whose origins are moved off the grid by ``shift``."""
    tiling = Tiling.of(net, image.shape[1:], None, halo)
    volume = from_array(image)
    out = None
    for part in tiling.domain.split(core):
        computed = tiling.computed(part)
        if shift:
            begin = tuple(
                max(0, a - (shift if n > 1 else 0)) for a, n in zip(computed.start, image.shape[1:])
            )
            computed = Region(begin, computed.stop)
        with torch.inference_mode():
            made = net(torch.from_numpy(tiling.read(volume, computed))[None], None, computed.start)[0].numpy()
        place = tiling.output(part).relative_to(tiling.output(computed))
        if out is None:
            out = np.empty((len(made), *tiling.output_size), np.float32)
        out[(slice(None), *tiling.output(part).slices)] = made[(slice(None), *place.slices)]
    return out


def whole(net: Network, image: np.ndarray) -> np.ndarray:
    tiling = Tiling.of(net, image.shape[1:], None)
    with torch.inference_mode():
        return net(torch.from_numpy(tiling.read(from_array(image), tiling.domain))[None], None)[0].numpy()


@settings(max_examples=25)
@given(
    st.sampled_from(("super_resolve", "denoise", "isotropic")),
    st.tuples(st.integers(1, 6), st.integers(1, 70), st.integers(1, 70)),
    st.tuples(st.integers(1, 3), st.integers(1, 8), st.integers(1, 8)),
    st.integers(0, 9),
)
def test_tiles_are_the_whole(task, size, core, seed) -> None:
    net = network(task)
    image = np.random.default_rng(seed).standard_normal((1, *size)).astype(np.float32)
    expected = whole(net, image)
    if task == "isotropic":
        core = (6, *core[1:])
    made = tiles(net, image, (core[0], 4 * core[1], 4 * core[2]), "full")
    assert made.shape == expected.shape
    assert np.abs(made - expected).max() <= 1e-5 * max(1.0, np.abs(expected).max())
    if min(size) > 3:
        assert expected.std() > 1e-2


def test_tiles_off_the_grid_are_not() -> None:
    net = network("denoise", planes=1)
    image = np.random.default_rng(0).standard_normal((1, 1, 20, 120)).astype(np.float32)
    expected = whole(net, image)
    near = np.abs(tiles(net, image, (1, 20, 40), (0, 40, 40)) - expected).max()
    off = np.abs(tiles(net, image, (1, 20, 40), (0, 40, 40), shift=1) - expected).max()
    assert near < 1e-5
    assert off > 1e-2


def test_planes_at_the_ends_of_a_stack_take_the_plane_itself() -> None:
    stem = network("denoise").stem
    for depth, expected in {
        5: [[0, 0, 0, 1, 2], [1, 0, 1, 2, 3], [0, 1, 2, 3, 4], [1, 2, 3, 4, 3], [2, 3, 4, 4, 4]],
        2: [[0, 0, 0, 1, 0], [1, 0, 1, 1, 1]],
        1: [[0] * 5],
    }.items():
        image = from_array(np.arange(float(depth), dtype=np.float32)[:, None, None] + np.zeros((1, 2, 3)))
        tiling = Tiling.of(Network(stem, body(channels=5), None), image.size, None)
        windows = stem(torch.from_numpy(tiling.read(image, tiling.domain))[None])
        assert windows[0, :, :, 0, 0].T.tolist() == expected


@pytest.mark.parametrize("task", ["super_resolve", "denoise", "isotropic", "project", "light_field"])
def test_every_task_on_any_size(task, capsys) -> None:
    """Thin stacks and single pixels, outputs cropped to the caller's size; nothing is printed, no device assumed."""
    net = network(task)
    for size in [(1, 3, 3), (2, 9, 13), (4, 5, 30), (5, 30, 5), (3, 10, 10)]:
        image = np.random.default_rng(0).standard_normal((1, *size)).astype(np.float32)
        out = whole(net, image)
        z, y, x = size
        expected = {
            "super_resolve": (z, 2 * y, 2 * x),
            "project": (1, y, x),
            "light_field": (4, y // 3 * 3, x // 3 * 3),
        }
        assert out.shape == (1, *expected.get(task, size))
        assert np.isfinite(out).all()
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("task", ["super_resolve", "denoise", "isotropic", "project", "light_field"])
def test_bfloat16_is_the_whole_network(task) -> None:
    net = network(task)
    image = np.random.default_rng(0).standard_normal((1, 5, 21, 21)).astype(np.float32)
    expected = whole(net, image)
    tiling = Tiling.of(net, image.shape[1:], None)
    read = tiling.read(from_array(image), tiling.domain)
    runner = Runner(net, None, torch.device("cpu"), "bfloat16")
    low = runner(read).numpy()[0]
    assert runner.dtype == torch.bfloat16  # no part had to be computed in another
    x = torch.from_numpy(read)[None]
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        cast = net(x, None)[0].float().numpy()
    # Some weights as random as these make small errors grow, not the network's size.
    for found in (low, cast):
        assert np.corrcoef(found.ravel(), expected.ravel())[0, 1] > 0.97


def test_several_threads_and_tasks() -> None:
    """A network has no task of its own to remember: in any order and at the same time it gives the same."""
    nets = {task: network(task) for task in ("super_resolve", "denoise")}
    image = np.random.default_rng(0).standard_normal((1, 3, 17, 14)).astype(np.float32)
    expected = {task: whole(net, image) for task, net in nets.items()}
    found: list[tuple[str, np.ndarray]] = []
    jobs = [
        threading.Thread(target=lambda t=task: found.append((t, whole(nets[t], image))))
        for task in [*nets] * 3
    ]
    for job in jobs:
        job.start()
    for job in jobs:
        job.join()
    assert len(found) == 6
    for task, out in found:
        assert np.array_equal(out, expected[task])


def test_a_frozen_first_stage_keeps_its_statistics() -> None:
    stem = LensletUNet(3, 4, 32, 8, (8, 12, 16))
    image = torch.randn(2, 1, 1, 24, 24)
    before = stem.smooth.norm.running_mean.clone()
    stem.requires_grad_(False)
    stem.train()(image)
    assert torch.equal(stem.smooth.norm.running_mean, before)
    stem.requires_grad_(True)
    stem.train()(image)
    assert not torch.equal(stem.smooth.norm.running_mean, before)


def test_pixel_pairs_are_not_formed_in_training() -> None:
    stem = SurfaceStem(5, 8, 2, 16, 1, 1)
    needed = []
    for side in (16, 32):
        with FlopCounterMode(display=False) as counter:
            stem.train()(torch.randn(1, 1, 5, side, side))
        needed.append(counter.get_total_flops())
    assert needed[1] < 4.1 * needed[0]


def test_a_stack_of_another_depth() -> None:
    stem = SurfaceStem(5, 8, 2, 16, 1, 1).eval()
    image = torch.randn(1, 1, 3, 6, 6)
    lacking = torch.cat([image, torch.full((1, 1, 2, 6, 6), torch.nan)], 2)
    repeated = torch.cat([image, image[:, :, 2:], image[:, :, 2:]], 2)
    assert torch.equal(stem(lacking), stem(repeated))
    with pytest.raises(Exception, match="6 planes, but this network projects 5"):
        stem.reads(Region.whole((1, 4, 4)), (6, 4, 4))


@pytest.mark.parametrize("scale", [1, 2, 3, 4, 8])
def test_scales(scale: int) -> None:
    net = network("super_resolve", scale=scale)
    image = np.random.default_rng(0).standard_normal((1, 2, 6, 9)).astype(np.float32)
    assert whole(net, image).shape == (1, 2, 6 * scale, 9 * scale)
    assert net.head.output_grid(Region.whole((2, 6, 9)), (2.0, 1.0, 1.0))[1] == (2.0, 1 / scale, 1 / scale)


def test_other_scales_are_refused() -> None:
    with pytest.raises(SpecError, match="scale 6"):
        network("super_resolve", scale=6)
