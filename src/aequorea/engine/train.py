"""The training loop, for every task and objective.

A step is a pure function of (state, seed, step): samples are numbered, random numbers inside the network come from
a generator seeded by (seed, step), and everything else is in the checkpoint. So a run that was killed and resumed
ends in the same bits as one that was not, and one process sees the same data as eight: rank r of W computes the
samples of the global batch with number = r modulo W, and gradients are averaged.
"""

from __future__ import annotations

import csv
import io
import math
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
import torch.distributed as dist
from pydantic import Field
from safetensors.torch import load_file, save
from torch import Tensor, nn

from aequorea.engine import checkpoint
from aequorea.engine.durable import sweep, write_file
from aequorea.engine.inference import default_device, resolve_precision
from aequorea.engine.memory import fits, give_back_memory, limited, require
from aequorea.engine.spill import on_disk, weigh
from aequorea.errors import AequoreaError
from aequorea.progress import Progress, report
from aequorea.specs import Spec
from aequorea.volume import Array

WARMUP = 0.1
"""Share of the steps over which the learning rate rises to its peak."""
EPSILON = 1e-6
"""Of AdamW. Where a normalisation makes a gradient zero but for rounding, a smaller one would make steps of it."""
LEVEL = 0.02
"""Scores on few labels are coarse: of states that differ by no more than this, the one trained longer is kept."""
AHEAD = 4
"""Batches prepared in advance."""
LOADERS = {"cpu": 1, "other": 4}
"""Threads that prepare them: beside an accelerator one falls behind, while a processor's own step takes the rest."""
LIBRARIES = 80_000_000
"""Bytes of what is loaded and prepared with the first step."""
WORKING = 4
"""Tensors of the largest size that a step holds beside those kept for its gradient."""


class TrainSpec(Spec):
    """How long and how fast.

    Attributes
    ----------
    steps
        Optimizer steps.
    batch
        Samples per step, over all processes.
    learning_rate, weight_decay
        Of AdamW; the rate rises over the first tenth and falls to zero along a cosine.
    seed
        Of samples and everything drawn in training.
    evaluate_every, checkpoint_every
        Steps between.
    precision
        ``auto`` (bfloat16 where the machine multiplies it natively), ``float32`` or ``bfloat16``.
    """

    steps: int = Field(default=300, ge=1)
    batch: int = Field(default=4, ge=1)
    learning_rate: float = Field(default=2e-3, gt=0)
    weight_decay: float = Field(default=1e-2, ge=0)
    seed: int = Field(default=0, ge=0)
    evaluate_every: int = Field(default=75, ge=1)
    checkpoint_every: int = Field(default=25, ge=1)
    precision: Literal["auto", "float32", "bfloat16"] = "auto"


@dataclass(frozen=True)
class Outcome:
    """What a training run found.

    Attributes
    ----------
    first, best
        Score before the first step, and of the state that is kept; ``None`` where nothing was evaluated.
    best_step
        When.
    history
        Rows of ``metrics.csv``.
    """

    first: float | None
    best: float | None
    best_step: int
    history: list[dict[str, float]]


class Diverged(AequoreaError):
    """The loss is no number any more."""


def process() -> tuple[int, int]:
    """Return (rank, number of processes)."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


def train(
    run: Path,
    module: nn.Module,
    losses: Callable[[dict[str, Tensor]], dict[str, Tensor]],
    sample: Callable[[int], dict[str, Array]],
    spec: TrainSpec,
    evaluate: Callable[[], dict[str, float]] | None = None,
    better: str = "",
    after_step: Callable[[int], None] | None = None,
) -> Outcome:
    """Train a module, resuming from what the run folder holds; ends with the best state in the module.

    Parameters
    ----------
    run
        Run folder: ``metrics.csv`` and ``checkpoints/`` are written there by the first process.
    module
        Everything that is saved; parameters with ``requires_grad`` train.
    losses
        Named scalars of a batch; their sum is descended. A mean over samples, so that processes average exactly.
    sample
        Sample by number, arrays of equal shapes; called from several threads beside an accelerator.
    spec
        Recipe.
    evaluate, better
        Held-out scores, and the name of the one to maximise. Called before the first step, every
        ``evaluate_every`` steps and after the last.
    after_step
        Called with the step just done.

    Raises
    ------
    SpecError
        If a step does not fit under a cap (:func:`aequorea.engine.memory.capped`); says the smallest that works.
        Where it would fit but for what its gradient needs, that is kept on disk (:mod:`aequorea.engine.spill`): a
        batch is not cut into parts, since layers take statistics over it, and parts would be another recipe. On
        disk no bit changes.
    Diverged
        If a loss is not finite; names the step. The last checkpoint stays.
    """
    rank, world = process()
    if spec.batch % world:
        raise AequoreaError(
            f"a batch of {spec.batch} cannot be dealt to {world} processes: choose a multiple"
        )
    device = default_device()
    module.to(device)
    dtype = resolve_precision(spec.precision, device)
    trainable = [p for p in module.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(
        trainable, lr=spec.learning_rate, weight_decay=spec.weight_decay, eps=EPSILON, foreach=True
    )
    folder = run / "checkpoints"
    if rank == 0:
        sweep(run)
        sweep(folder)
    start, history = 0, []
    state: dict[str, Any] = {"first": None, "best": None, "best_step": 0, "top": -math.inf}
    found = checkpoint.latest(folder)
    if found is not None:
        start, tensors, record, damaged = found
        for path in damaged:
            print(f"{path} is damaged: going on from step {start}, the checkpoint before it")
        module.load_state_dict({k[7:]: v for k, v in tensors.items() if k.startswith("module.")})
        checkpoint.restore_optimizer(optimizer, tensors)
        state, history = record["run"], record["history"]

    def score(step: int, row: dict[str, float]) -> None:
        if evaluate is None:
            return
        module.eval()
        at = time.monotonic()
        scores = evaluate()
        report("score", time.monotonic() - at)
        module.train()
        row.update(scores)
        value = scores.get(better)
        if value is None or not math.isfinite(value):
            return
        if step == 0:
            state["first"] = value
        # What training began with is given up only for something better; a score of 0 says nothing of it.
        helped = step > 0 and (not state["first"] or value > state["first"])
        if step == 0 or (helped and value >= state["top"] - LEVEL):
            state["best"], state["best_step"] = value, step
            state["top"] = max(value, state["top"] if step else value)
            if rank == 0:
                folder.mkdir(parents=True, exist_ok=True)
                write_file(folder / "best.safetensors", save(_snapshot(module)))

    def keep(step: int) -> None:
        if rank == 0:
            at = time.monotonic()
            tensors = {f"module.{k}": v for k, v in module.state_dict().items()}
            tensors.update(checkpoint.flatten_optimizer(optimizer))
            checkpoint.write(folder, step, tensors, {"run": state, "history": history})
            write_file(run / "metrics.csv", _csv(history).encode())
            report("checkpoint", time.monotonic() - at)

    spilled = False
    if device.type == "cpu" and limited():
        needed = step_bytes(module, losses, batch_of([sample(0)]), spec.batch // world, dtype)
        require(needed.least, "a training step does not fit (fewer samples in it do: --set train.batch)")
        spilled = not fits(needed.usual)
    module.train()
    if found is None:
        row: dict[str, float] = {"step": 0}
        score(0, row)
        history.append(row)
        keep(0)

    began = time.monotonic()
    with (
        on_disk(run) if spilled else nullcontext(lambda: None) as forget,
        Progress("train", spec.steps, "step") as bar,
    ):
        bar.skip(start)
        loaders = LOADERS["cpu" if device.type == "cpu" else "other"]
        for step, batch in _batches(sample, spec, start, rank, world, loaders):
            at = time.monotonic()
            torch.manual_seed(_mix(spec.seed, step))
            on_device = {name: t.to(device, non_blocking=True) for name, t in batch.items()}
            for group in optimizer.param_groups:
                group["lr"] = spec.learning_rate * schedule(step, spec.steps)
            with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
                parts = losses(on_device)
            total = torch.stack(list(parts.values())).sum()
            torch.autograd.backward(total)
            forget()
            values = torch.stack([t.detach().float() for t in parts.values()])
            if world > 1:
                _average([p.grad for p in trainable if p.grad is not None], world)
                dist.all_reduce(values)
                values /= world
            if not bool(torch.isfinite(values).all()):
                raise Diverged(
                    f"the loss is no number at step {step + 1}: lower the rate (now {spec.learning_rate:g}) "
                    f"with --learning-rate; the run goes on from its last checkpoint"
                )
            torch.nn.utils.clip_grad_norm_(trainable, 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            done = step + 1
            if after_step is not None:
                after_step(done)
            row = {"step": done, "loss": float(values.sum()), "seconds": round(time.monotonic() - began, 2)}
            if len(parts) > 1:
                row.update({name: float(v) for name, v in zip(parts, values)})
            report("step", time.monotonic() - at)
            last = done == spec.steps
            if last or done % spec.evaluate_every == 0:
                score(done, row)
            history.append(row)
            if last or done % spec.checkpoint_every == 0:
                keep(done)
            note = f"loss {row['loss']:.3f}"
            if state["best"] is not None:
                note += f"  best {better} {state['best']:.3f}"
            bar.advance(note=note)
    best = folder / "best.safetensors"
    if state["best"] is not None and best.exists():
        if world > 1:
            dist.barrier()
        module.load_state_dict(load_file(best))
    module.eval()
    return Outcome(state["first"], state["best"], int(state["best_step"]), history)


class StepBytes(NamedTuple):
    """What a step needs beside what is held already: usually, and with what its gradient needs on disk."""

    usual: int
    least: int


def step_bytes(
    module: nn.Module,
    losses: Callable[[dict[str, Tensor]], dict[str, Tensor]],
    sample: dict[str, Tensor],
    batch: int,
    dtype: torch.dtype = torch.float32,
) -> StepBytes:
    """Return the memory that a step takes on a processor.

    Parameters
    ----------
    module, losses
        As for :func:`train`.
    sample
        A batch of one.
    batch
        Samples of a step.
    dtype
        That the step is computed in.
    """

    def forward() -> None:
        with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            losses(dict(sample))

    training = module.training
    module.eval()  # statistics are not to learn from this
    weight = weigh(forward)
    module.train(training)
    gradients = sum(p.nbytes for p in module.parameters() if p.requires_grad)
    prepared = (AHEAD + 2) * batch * sum(t.nbytes for t in sample.values())
    least = LIBRARIES + 4 * gradients + prepared + WORKING * weight.largest * batch
    give_back_memory()
    return StepBytes(least + weight.kept * batch, least)


def schedule(step: int, steps: int) -> float:
    """Return the share of the peak learning rate at a step: a linear rise, then half a cosine down to zero."""
    rise = max(1, round(WARMUP * steps))
    if step < rise:
        return (step + 1) / rise
    return 0.5 * (1 + math.cos(math.pi * (step - rise) / max(1, steps - rise)))


def _batches(
    sample: Callable[[int], dict[str, Array]],
    spec: TrainSpec,
    start: int,
    rank: int,
    world: int,
    loaders: int,
) -> Iterator[tuple[int, dict[str, Tensor]]]:
    """Yield (step, this process's part of the batch), prepared ahead by so many threads."""

    def prepare(step: int) -> dict[str, Tensor]:
        return batch_of([sample(step * spec.batch + i) for i in range(rank, spec.batch, world)])

    with ThreadPoolExecutor(loaders) as pool:
        ahead = [pool.submit(prepare, step) for step in range(start, min(start + AHEAD, spec.steps))]
        for step in range(start, spec.steps):
            batch = ahead.pop(0).result()
            if step + AHEAD < spec.steps:
                ahead.append(pool.submit(prepare, step + AHEAD))
            yield step, batch


def batch_of(samples: Sequence[dict[str, Array]]) -> dict[str, Tensor]:
    """Return samples as one batch: tensors by name, the first axis of which counts samples."""
    return {name: torch.from_numpy(np.stack([s[name] for s in samples])) for name in samples[0]}


def _average(gradients: list[Tensor], world: int) -> None:
    flat = torch.cat([g.flatten() for g in gradients])
    dist.all_reduce(flat)
    flat /= world
    at = 0
    for g in gradients:
        g.copy_(flat[at : at + g.numel()].view_as(g))
        at += g.numel()


def _mix(seed: int, step: int) -> int:
    return int(np.random.SeedSequence([seed, step]).generate_state(1, np.uint64)[0]) % 2**63


def _snapshot(module: nn.Module) -> dict[str, Tensor]:
    return {name: t.detach().cpu().contiguous() for name, t in module.state_dict().items()}


def _csv(history: list[dict[str, float]]) -> str:
    columns = list(dict.fromkeys(name for row in history for name in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(history)
    return text.getvalue()
