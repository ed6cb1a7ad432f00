"""Training: resumed equals uninterrupted, any number of processes sees the same data, and faults are named."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from aequorea.engine import checkpoint
from aequorea.engine.train import LEVEL, LOADERS, Diverged, TrainSpec, schedule, train
from aequorea.layers.network import Network
from crowd import crowd
from networks import unet


def sample(index: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(index)
    image = rng.standard_normal((1, 8, 16, 16), np.float32)
    return {"image": image, "target": (image > 0.3).astype(np.float32)}


def fit(
    run: Path, spec: TrainSpec, stop_after: int | None = None, scores: bool = True
) -> tuple[Network, list]:
    network = unet(0, levels=2)
    calls = []

    def losses(batch: dict[str, Tensor]) -> dict[str, Tensor]:
        out = network(batch["image"], None)
        return {"loss": torch.nn.functional.binary_cross_entropy_with_logits(out, batch["target"])}

    def evaluate() -> dict[str, float]:
        calls.append(1)
        probe = torch.from_numpy(sample(10**6)["image"])[None]
        with torch.inference_mode():
            return {"score": float(network(probe, None).std())}

    def interrupt(step: int) -> None:
        if step == stop_after:
            raise KeyboardInterrupt

    outcome = train(
        run, network, losses, sample, spec, evaluate if scores else None, "score", after_step=interrupt
    )
    return network, outcome.history


SPEC = TrainSpec(steps=9, batch=2, evaluate_every=4, checkpoint_every=2, precision="float32")


@pytest.mark.parametrize("stop_after", [1, 3, 6])
def test_resumed_equals_uninterrupted(tmp_path: Path, stop_after: int) -> None:
    """A run that was stopped ends in the same bits and the same scores."""
    whole, history = fit(tmp_path / "a", SPEC)
    with pytest.raises(KeyboardInterrupt):
        fit(tmp_path / "b", SPEC, stop_after)
    again, resumed = fit(tmp_path / "b", SPEC)
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name]), name
    strip = [{k: v for k, v in row.items() if k != "seconds"} for row in history]
    assert strip == [{k: v for k, v in row.items() if k != "seconds"} for row in resumed]


def test_several_loaders_give_the_bits_of_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Batches come in their order, whichever is ready first."""

    quick = sample

    def slow(index: int) -> dict[str, np.ndarray]:
        time.sleep(0.02 * (index % 5 == 0))
        return quick(index)

    monkeypatch.setattr(sys.modules[__name__], "sample", slow, raising=True)
    one, _ = fit(tmp_path / "a", SPEC, scores=False)
    monkeypatch.setitem(LOADERS, "cpu", 4)
    four, _ = fit(tmp_path / "b", SPEC, scores=False)
    assert all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), four.state_dict().values()))


def test_a_damaged_checkpoint_is_passed_over(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The one before it is taken, and that is said."""
    whole, _ = fit(tmp_path / "a", SPEC)
    with pytest.raises(KeyboardInterrupt):
        fit(tmp_path / "b", SPEC, 7)
    newest = sorted((tmp_path / "b" / "checkpoints").glob("[0-9]*.safetensors"))[-1]
    data = bytearray(newest.read_bytes())
    data[-100] ^= 0xFF
    newest.write_bytes(bytes(data))
    again, _ = fit(tmp_path / "b", SPEC)
    assert "damaged: going on from step 4" in capsys.readouterr().out
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name]), name


def test_the_best_state_is_kept(tmp_path: Path) -> None:
    """What comes back is the latest state whose score is level with the best, not simply the last."""
    network, history = fit(tmp_path, SPEC)
    probe = torch.from_numpy(sample(10**6)["image"])[None]
    with torch.inference_mode():
        now = float(network(probe, None).std())
    scores = [row["score"] for row in history if "score" in row]
    level = [s for i, s in enumerate(scores) if s >= max(scores[: i + 1]) - LEVEL]
    assert now == pytest.approx(level[-1], rel=1e-5)


def test_a_loss_that_is_no_number_stops_the_run(tmp_path: Path) -> None:
    """The step is named and the advice is to lower the rate."""
    network = unet(0, levels=2)

    def losses(batch: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"loss": network(batch["image"], None).mean() * float("nan")}

    with pytest.raises(Diverged, match="step 1: lower the rate"):
        train(tmp_path, network, losses, sample, SPEC)


def test_two_processes_give_the_losses_of_one(tmp_path: Path) -> None:
    """Under torchrun with Gloo: the same data, the same losses to 1e-5, weights equal to rounding."""
    script = Path(__file__).with_name("train_together.py")
    for world in (1, 2):
        crowd(world, script, tmp_path / str(world), env={"PYTHONPATH": str(script.parents[1])})
    one, two = (np.loadtxt(tmp_path / str(w) / "losses.txt") for w in (1, 2))
    np.testing.assert_allclose(one, two, rtol=1e-5, atol=0)


def test_schedule_rises_and_falls() -> None:
    """A tenth of the steps up, then down to nearly zero."""
    rates = [schedule(step, 100) for step in range(100)]
    assert rates[9] == max(rates) == 1 and rates[0] == 0.1 and rates[-1] < 1e-3


def test_checkpoints_are_few(tmp_path: Path) -> None:
    """Only the newest two stay."""
    for step in range(5):
        checkpoint.write(tmp_path, step, {"a": torch.full((2,), float(step))}, {})
    assert len(list(tmp_path.glob("*.safetensors"))) == 2
    found = checkpoint.latest(tmp_path)
    assert found is not None and found[0] == 4 and float(found[1]["a"][0]) == 4
