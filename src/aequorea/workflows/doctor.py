"""What this machine offers: versions, device, threads, memory, disk, and which extras are missing.

Everything is looked up or measured in about a second; nothing is changed, and the file of the write test is
removed.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import tempfile
import time
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from aequorea import __version__

SHOWN = ("torch", "numpy", "zarr", "tifffile", "scikit-image")
TRIAL = 64 * 2**20
"""Bytes of the disk test."""
NOT_FOR_USERS = {"dev"}


@dataclass(frozen=True)
class Line:
    """One thing looked at.

    Attributes
    ----------
    what
        Its name.
    text
        What was found and, where something is missing, what to type.
    fine
        Whether nothing is wrong with it; what is merely missing and not needed is fine.
    """

    what: str
    text: str
    fine: bool = True

    def __str__(self) -> str:
        return f"{'' if self.fine else 'error: '}{self.what:10s} {self.text}"


def doctor(folder: str | Path = ".") -> list[Line]:
    """Look at this machine.

    Parameters
    ----------
    folder
        Where results are going to be written: its disk is measured.
    """
    return [
        Line(
            "aequorea",
            f"{__version__}, Python {platform.python_version()}, {platform.system()} {platform.machine()}",
        ),
        Line("packages", ", ".join(f"{name} {metadata.version(name)}" for name in SHOWN)),
        *_devices(),
        Line("threads", _threads()),
        Line("memory", _memory()),
        _disk(Path(folder)),
        *_extras(),
    ]


def _devices() -> list[Line]:
    import torch

    from aequorea.engine.inference import default_device, resolve_precision

    device = default_device()
    if device.type == "cuda":
        facts = torch.cuda.get_device_properties(device)
        text = f"{facts.name}, {facts.total_memory / 2**30:.0f} GiB"
    else:
        text = f"{device.type} (no GPU that torch can use)" if device.type == "cpu" else device.type
    native = resolve_precision("auto", device) == torch.bfloat16
    return [
        Line("device", text),
        Line(
            "bfloat16", "multiplied natively: used" if native else "not multiplied natively: float32 is used"
        ),
    ]


def _threads() -> str:
    import torch

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    text = f"{torch.get_num_threads()} of {cores} cores"
    return text if torch.get_num_threads() >= cores // 2 else f"{text}; OMP_NUM_THREADS={cores} uses all"


def _memory() -> str:
    from aequorea.engine.memory import machine_memory

    total = machine_memory()
    if total is None:
        return "size unknown on this system"
    limit = Path("/sys/fs/cgroup/memory.max")
    words = limit.read_text().strip() if limit.is_file() else "max"
    text = f"{total / 2**30:.1f} GiB"
    if words.isdigit() and int(words) < total:
        text += f", of which this process may use {int(words) / 2**30:.1f} GiB"
    available = re.search(r"MemAvailable:\s+(\d+) kB", _read("/proc/meminfo"))
    return f"{text}, {int(available[1]) / 2**20:.1f} GiB free" if available else text


def _read(path: str) -> str:
    return Path(path).read_text() if Path(path).is_file() else ""


def _disk(folder: Path) -> Line:
    """Write, flush and read back a trial file; says why where that fails."""
    place = str(folder.absolute())
    block = os.urandom(2**20)
    try:
        free = shutil.disk_usage(folder).free
        if free < 2 * TRIAL:
            return Line(
                "disk", f"{place}: only {free / 2**20:.0f} MiB free; free some or work elsewhere", fine=False
            )
        with tempfile.TemporaryFile(dir=folder) as file:
            begin = time.perf_counter()
            for _ in range(TRIAL // len(block)):
                file.write(block)
            file.flush()
            os.fsync(file.fileno())
            write = TRIAL / (time.perf_counter() - begin)
            file.seek(TRIAL - len(block))
            whole = file.read() == block
    except OSError as error:
        why = (error.strerror or str(error)).lower()
        return Line(
            "disk", f"{place}: cannot be written ({why}); choose another folder with --folder", fine=False
        )
    if not whole:
        return Line(
            "disk", f"{place}: gave back other bytes than were written; do not trust this disk", fine=False
        )
    return Line("disk", f"{place}: writes {write / 1e6:.0f} MB/s, {free / 1e9:.0f} GB free")


def _extras() -> list[Line]:
    """Return a line for each extra of the package: there, or what installs it."""
    needs: dict[str, list[str]] = {}
    for requirement in metadata.requires("aequorea") or []:
        found = re.match(r"""([\w.-]+).*;\s*extra\s*==\s*['"]([\w-]+)['"]""", requirement)
        if found and found[2] not in NOT_FOR_USERS:
            needs.setdefault(found[2], []).append(found[1])
    lines = []
    for extra, names in sorted(needs.items()):
        missing = [name for name in names if not _installed(name)]
        text = "installed" if not missing else f'no {", ".join(missing)}: pip install "aequorea[{extra}]"'
        lines.append(Line(f"[{extra}]", text))
    return lines


def _installed(name: str) -> bool:
    try:
        metadata.version(name)
    except metadata.PackageNotFoundError:
        return False
    return True
