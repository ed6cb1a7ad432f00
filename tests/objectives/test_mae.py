"""Masked reconstruction: what is hidden, what is scored, and that something is learnt."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from aequorea import checks
from aequorea.backbones.hiera import Hiera, HieraSpec
from aequorea.backbones.unet import UNet, UNetSpec
from aequorea.objectives.mae import MAE, MAESpec, spread


@pytest.mark.parametrize("body", [{"name": "hiera"}, {"name": "unet", "levels": 2}])
def test_it_conforms(body: dict) -> None:
    checks.objective("mae", body, optics=0.0)


def survey(objective: MAE, body: torch.nn.Module, patch: np.ndarray, spacing: object = None) -> dict:
    return objective.survey(lambda rng: patch, body, spacing, np.random.default_rng(0))


@settings(max_examples=25)
@given(
    st.sampled_from((8, 16)),
    st.sampled_from((4, 2)),
    st.floats(0.5, 0.9),
    st.sampled_from((None, (2.0, 1.0, 1.0), (4.0, 1.0, 1.0))),
    st.booleans(),
    st.integers(0, 99),
)
def test_what_is_hidden(unit, patch, share, spacing, flat, seed) -> None:
    """As many units in every patch, about the share that was asked for, and a body computes all of it."""
    objective, body = MAE(MAESpec(unit=unit, hidden=share, optics=0)), Hiera(HieraSpec(patch=patch))
    grid = body.layout(spacing).grid
    size = (1 if flat else 2 * grid[0], 64, 64)
    image = np.random.default_rng(seed).random((1, *size), np.float32)
    facts = survey(objective, body, image, spacing)
    made = [objective.prepare(image, np.random.default_rng([seed, i]), facts) for i in range(2)]
    counts = [int(one["hidden"].sum()) for one in made]
    assert counts[0] == counts[1] > 0
    # Of eight eighths (of four, in a plane) a whole number is hidden.
    assert abs(counts[0] / made[0]["hidden"].size - share) < (0.16 if flat else 0.07)
    assert made[0]["voxels"].shape == (1, *size)
    assert not np.array_equal(made[0]["hidden"], made[1]["hidden"])
    seen = ~made[0]["voxels"]
    assert np.array_equal(made[0]["image"][seen], made[0]["target"][seen])


@torch.inference_mode()
def test_the_answer_is_not_seen() -> None:
    """What is hidden does not reach the network: other values there change nothing that it says."""
    rng = np.random.default_rng(0)
    patch = rng.random((1, 32, 32, 32), np.float32)
    for body in (Hiera(HieraSpec()), UNet(UNetSpec(levels=2))):
        objective = MAE(MAESpec(optics=0))
        facts = survey(objective, body, patch)
        made = objective.prepare(patch, np.random.default_rng(1), facts)
        voxels = made["voxels"]
        other = np.where(voxels, rng.random(patch.shape, np.float32), patch)
        again = objective.prepare(other, np.random.default_rng(1), facts)
        assert np.array_equal(made["image"], again["image"])
        assert not np.array_equal(made["target"], again["target"])


def test_residuals_are_those_of_the_definition() -> None:
    rng = np.random.default_rng(0)
    patch = rng.random((1, 16, 32, 32), np.float32)
    objective, body = MAE(MAESpec(optics=0)), UNet(UNetSpec(levels=2)).eval()
    made = objective.prepare(patch, rng, survey(objective, body, patch))
    batch = {k: torch.from_numpy(np.asarray(v))[None] for k, v in made.items()}
    with torch.inference_mode():
        found = objective.residuals(body, batch, None)
    hidden = made["voxels"]
    seen = made["target"][~hidden]
    assert float(seen.mean()) == pytest.approx(0, abs=1e-5) and float(seen.var()) == pytest.approx(
        1, rel=1e-2
    )
    expected = float(np.square(made["target"][hidden] - seen.mean()).sum())
    assert float(found["visible mean"]) == pytest.approx(expected, rel=1e-4)
    expected = float(np.square(made["target"][hidden] - made["image"][hidden]).sum())
    assert float(found["Gaussian fill"]) == pytest.approx(expected, rel=1e-4)


def test_brightness_and_contrast_of_a_patch_do_not_matter() -> None:
    """Dim patches teach as much as bright ones."""
    patch = np.random.default_rng(0).random((1, 16, 32, 32), np.float32)
    objective, body = MAE(MAESpec(optics=0)), UNet(UNetSpec(levels=2)).eval()
    facts = survey(objective, body, patch)
    one, other = (objective.prepare(p, np.random.default_rng(1), facts) for p in (patch, 0.5 * patch + 2))
    for name in ("target", "image"):
        np.testing.assert_allclose(one[name], other[name], atol=5e-3)


def test_it_learns_what_a_fill_cannot() -> None:
    """Stripes go on behind what is hidden: a hundred steps are enough to see it."""
    torch.manual_seed(0)
    objective, body = MAE(MAESpec(optics=0)), Hiera(HieraSpec())
    rng = np.random.default_rng(0)

    def patch(rng: np.random.Generator) -> np.ndarray:
        x = np.arange(32) + rng.integers(8)
        line = (np.sin(x * 2 * np.pi / 8) > 0).astype(np.float32)
        return np.broadcast_to(line, (1, 16, 32, 32)).copy()

    facts = objective.survey(patch, body, None, rng)

    def batch(seed: int) -> dict[str, torch.Tensor]:
        made = [objective.prepare(patch(rng), np.random.default_rng([seed, i]), facts) for i in range(4)]
        return {k: torch.from_numpy(np.stack([m[k] for m in made])) for k in made[0]}

    with torch.no_grad():
        objective(body, batch(0), None)
    optimizer = torch.optim.AdamW([*body.parameters(), *objective.parameters()], 2e-3)
    for step in range(60):
        optimizer.zero_grad()
        objective(body, batch(step), None)["hidden"].backward()
        optimizer.step()
    with torch.inference_mode():
        sums = objective.residuals(body, batch(1000), None)
    assert float(sums["network"].sum()) < 0.8 * float(sums["Gaussian fill"].sum())


def test_units_are_spread() -> None:
    hidden = np.array([[[True, False]]])
    assert spread(hidden, (2, 2, 2), (2, 2, 3)).sum() == 8
    assert spread(hidden, (1, 1, 2), (1, 1, 3)).tolist() == [[[True, True, False]]]
