"""Weights out of somebody else's PyTorch file, without running what it says."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

from safetensors.torch import load_file
from torch import Tensor

from aequorea.errors import FormatError
from aequorea.workflows.state_dict_reader import REFUSED

MEMORY = 1 << 30
"""Bytes that reading may take, beside as many as the file has."""
SECONDS = 120
PREFIX = "module."


def read_state_dict(path: str | Path, memory: int = MEMORY, seconds: int = SECONDS) -> dict[str, Tensor]:
    """Return the tensors of a ``.pt`` or ``.pth`` file by name.

    Another process reads it, see :mod:`aequorea.workflows.state_dict_reader`. The file may be a dictionary of tensors
    or hold one as ``state_dict``, ``model_state_dict`` or ``model``; ``module.`` before all names is left out.

    Parameters
    ----------
    path
        Made by ``torch.save``.
    memory
        Bytes that reading may take, beside as many as the file has.
    seconds
        That it may take.

    Raises
    ------
    FormatError
        If there is no such file, or it is damaged, or asks for anything that weights have no use for.
    """
    path = Path(path)
    if not path.is_file():
        raise FormatError(f"{path}: no such file")
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "tensors.safetensors"
        words = [str(path.resolve()), str(out), str(memory + path.stat().st_size), str(seconds)]
        try:
            done = subprocess.run(
                [sys.executable, "-m", "aequorea.workflows.state_dict_reader", *words],
                capture_output=True,
                text=True,
                errors="replace",
                timeout=seconds,
            )
        except subprocess.TimeoutExpired:
            raise FormatError(f"{path}: reading it took more than {seconds} s; refused") from None
        if done.returncode == REFUSED:
            raise FormatError(f"{path}: {' '.join(done.stdout.split())}; refused")
        if done.returncode:
            raise FormatError(f"{path}: reading it brought the reader down; refused")
        tensors: dict[str, Tensor] = load_file(out)
    if all(name.startswith(PREFIX) for name in tensors):
        tensors = {name.removeprefix(PREFIX): value for name, value in tensors.items()}
    return tensors
