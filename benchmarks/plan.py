"""What ``aequorea plan`` says beside what the run then takes, and whether ``--memory`` holds.

Three runs, each in a process of its own: a prediction of objects, a fine-tuning and a pretraining on simulated
nuclei. Time is that of the wall clock, memory the peak of the process tree. Then each with a cap, and with one that is
too small, whose refusal must name one that works. On a machine that does other work as well the times of two equal
runs differ by more than the bar: what is judged is the median of three plans and runs.

    python benchmarks/plan.py            # 64 x 512 x 512, 100 steps
    python benchmarks/plan.py --quick    # 64 x 128 x 256, 12 steps, memory alone, under a minute on a quiet machine
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import tifffile

import material
from aequorea.engine.memory import as_bytes, size_text
from aequorea.signal.specimens import NucleiSpec, touching_nuclei
from predict_memory import peak

TIME, MEMORY = 0.25, 0.15
"""Bars: how far the plan may be from what the run takes, as a share of it."""
REPEATS = 3
CAPS = {"predict": "700MB", "finetune": "800MB", "pretrain": "1.1GB"}
TOO_SMALL = "200MB"
UNITS = {"s": 1, "min": 60, "h": 3600}


def aequorea(*words: str) -> list[str]:
    """Return a command."""
    return [sys.executable, "-m", "aequorea", *words]


def planned(words: list[str]) -> tuple[float, float]:
    """Return seconds and gigabytes that a plan tells."""
    said = subprocess.run(aequorea("plan", *words), capture_output=True, text=True, check=True).stdout
    time = re.search(r"^time +(\S+) (s|min|h)", said, re.M)
    memory = re.search(r"^memory +(\S+)", said, re.M)
    assert time and memory, said
    big, _, small = time[1].partition(":")
    seconds = UNITS[time[2]] * (int(big) + (int(small) / 60 if small else 0))
    return seconds, (as_bytes(memory[1]) or 0) / 1e9


def specimens(folder: Path) -> Path:
    """Write labelled simulated nuclei."""
    folder.mkdir()
    words = {"axes": "ZYX", "PhysicalSizeZ": 2.0, "PhysicalSizeY": 0.5, "PhysicalSizeX": 0.5}
    for seed in range(4):
        fish = touching_nuclei((24, 96, 96), (2.0, 0.5, 0.5), seed, NucleiSpec(diameter=(6.0, 9.0)))
        tifffile.imwrite(folder / f"fish_{seed}.ome.tif", fish.image, metadata=words)
        tifffile.imwrite(folder / f"fish_{seed}_label.ome.tif", fish.labels.astype("uint16"), metadata=words)
    return folder


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="smaller, and times are told but not judged")
    parser.add_argument("--verbs", nargs="*", default=list(CAPS), choices=list(CAPS))
    told = parser.parse_args()
    quick: bool = told.quick
    missed: list[str] = []
    said: list[str] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        size = (64, 128, 256) if quick else (64, 512, 512)
        steps = "12" if quick else "100"
        source = material.store_volume(folder / "in.ome.zarr", size)
        model = material.blob_finder("instances").save(folder / "model.safetensors")
        data = str(specimens(folder / "data"))

        def words(verb: str, out: str) -> list[str]:
            place = str(folder / f"{verb}-{out}")
            if verb == "predict":
                # Several shards, of which the plan computes two.
                return [verb, str(model), str(source), f"{place}.ome.zarr", "--tile", "900000"]
            more = ["--backbone", "unet"] if verb == "finetune" else []
            return [verb, data, "-o", place, "--steps", steps, *more]

        for verb in told.verbs:
            times, memories = [], []
            for repeat in range(1 if quick else REPEATS):
                seconds, memory = planned(words(verb, f"run{repeat}"))
                gib, took, _ = peak(aequorea(*words(verb, f"run{repeat}")))
                gigabytes = gib * 2**30 / 1e9
                off, heavier = seconds / took - 1, memory / gigabytes - 1
                print(
                    f"{verb:9} planned {seconds:.0f} s, {memory:.2f} GB; took {took:.0f} s, {gigabytes:.2f} GB "
                    f"({off:+.0%}, {heavier:+.0%})",
                    flush=True,
                )
                times.append(off)
                memories.append(heavier)
            off, heavier = float(np.median(times)), float(np.median(memories))
            said.append(f"{verb} {off:+.0%} time {heavier:+.0%} memory")
            if abs(heavier) > MEMORY:
                missed.append(f"memory of {verb}")
            if abs(off) > TIME and not quick:
                missed.append(f"time of {verb}")
            small = subprocess.run(
                aequorea(*words(verb, "small"), "--memory", TOO_SMALL), capture_output=True, text=True
            )
            named = re.search(r"the smallest that works: --memory (\S+)", small.stderr)
            if small.returncode != 2 or not named:
                missed.append(f"refusal of {verb}")
            for cap in (CAPS[verb],) if quick else (CAPS[verb], named[1] if named else CAPS[verb]):
                gib, took, _ = peak(aequorea(*words(verb, f"cap{cap}"), "--memory", cap))
                held = gib * 2**30 <= (as_bytes(cap) or 0)
                print(f"{verb:9} --memory {cap}: peak {size_text(gib * 2**30)}, {took:.0f} s", flush=True)
                if not held:
                    missed.append(f"{cap} of {verb}")
    print(
        f"plan beside run: {', '.join(said)} (bars {TIME:.0%}, {MEMORY:.0%}), caps and refusals: "
        f"{'MISSED ' + ', '.join(missed) if missed else 'met'}"
    )
    return int(bool(missed))


if __name__ == "__main__":
    sys.exit(main())
