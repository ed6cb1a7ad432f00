"""Checkpoints: tensors in safetensors, the rest in JSON beside it with a digest; whole or absent.

A checkpoint whose file is damaged is passed over for the one before it.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from aequorea.engine.durable import write_file

KEEP = 2


def write(folder: Path, step: int, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
    """Write the checkpoint of a step and drop all but the newest two."""
    folder.mkdir(parents=True, exist_ok=True)
    data = save({name: t.detach().cpu().contiguous() for name, t in tensors.items()})
    write_file(folder / f"{step:08d}.safetensors", data)
    record = {"step": step, "digest": hashlib.sha256(data).hexdigest(), "state": state}
    write_file(folder / f"{step:08d}.json", json.dumps(record).encode())
    for old in sorted(folder.glob("[0-9]*.json"))[:-KEEP]:
        old.unlink()
        old.with_suffix(".safetensors").unlink(missing_ok=True)


def latest(folder: Path) -> tuple[int, dict[str, Tensor], dict[str, Any], list[Path]] | None:
    """Return (step, tensors, state, damaged files passed over) of the newest whole checkpoint, or ``None``."""
    damaged: list[Path] = []
    for path in sorted(folder.glob("[0-9]*.json"), reverse=True):
        tensors_path = path.with_suffix(".safetensors")
        try:
            record = json.loads(path.read_bytes())
            data = tensors_path.read_bytes()
            if hashlib.sha256(data).hexdigest() != record["digest"]:
                raise ValueError("digest")
            return int(record["step"]), load(data), record["state"], damaged
        except (OSError, ValueError, KeyError, SafetensorError):
            damaged.append(tensors_path)
    return None


def flatten_optimizer(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Return an optimizer's state as named tensors; :func:`restore_optimizer` is the inverse."""
    out = {}
    for index, entries in optimizer.state_dict()["state"].items():
        for name, value in entries.items():
            out[f"optimizer.{index}.{name}"] = torch.as_tensor(value)
    return out


def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    """Put back what :func:`flatten_optimizer` took."""
    whole = optimizer.state_dict()
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        if key.startswith("optimizer."):
            _, index, name = key.split(".", 2)
            state.setdefault(int(index), {})[name] = value
    whole["state"] = state
    optimizer.load_state_dict(whole)
