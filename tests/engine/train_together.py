"""Run under torchrun by test_train: writes the losses of a few steps."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from test_train import sample

from aequorea.engine.processes import together
from aequorea.engine.train import TrainSpec, train
from networks import unet

with together() as first:
    run = Path(sys.argv[1])
    network = unet(0, levels=2)
    outcome = train(
        run,
        network,
        lambda batch: {
            "loss": torch.nn.functional.binary_cross_entropy_with_logits(
                network(batch["image"], None), batch["target"]
            )
        },
        sample,
        TrainSpec(steps=6, batch=4, learning_rate=5e-4, precision="float32"),
    )
    if first:
        losses = "\n".join(repr(row["loss"]) for row in outcome.history if "loss" in row)
        (run / "losses.txt").write_text(losses)
