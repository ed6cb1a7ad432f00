"""Run folders: each belongs to one recipe and one set of images, which stand in it from the first step on."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path

from aequorea.engine.durable import sweep, write_file
from aequorea.engine.train import process
from aequorea.errors import DataError, SpecError
from aequorea.specs import Spec


def check_claim(run: Path, spec: Spec, prints: Mapping[str, str]) -> None:
    """Check that a run folder, if it was begun, was begun with this recipe and these images.

    Parameters
    ----------
    run
        The folder; need not be there.
    spec
        Recipe.
    prints
        Fingerprint of each image by name; nothing where it is not known yet: then it is not compared.

    Raises
    ------
    SpecError
        If it was begun with another recipe; names the words that differ.
    DataError
        If it was begun with other images or labels; names the first that is gone, new or changed.
    """
    recipe = run / "spec.yaml"
    if not _begun(run):
        return
    before = type(spec).from_yaml(recipe)
    if before != spec:
        changed = [word for word in type(spec).model_fields if getattr(before, word) != getattr(spec, word)]
        raise SpecError(f"{run}: begun with another recipe ({', '.join(changed)} differ): use another --out")
    other = _difference(json.loads((run / "data.json").read_text()), prints)
    if other is not None:
        raise DataError(f"{run}: begun with other images or labels ({other}): use another --out")


def _difference(before: Mapping[str, str], now: Mapping[str, str]) -> str | None:
    """Return what the first difference of two lists of fingerprints is, and how many more there are."""
    names, old = ({re.sub(r"^\d+ ", "", name) for name in one} for one in (now, before))
    found = [f"{name} is gone" for name in sorted(old - names)]
    found += [f"{name} is new" for name in sorted(names - old)]
    if not found and list(before) != list(now):
        found = ["their order is another"]
    if not found:
        found = [
            f"{re.sub(r'^[0-9]+ ', '', name)} has changed"
            for name, print_ in now.items()
            if print_ and print_ != before[name]
        ]
    more = f", and {len(found) - 1} more like that" if len(found) > 1 else ""
    return found[0] + more if found else None


def claim(run: Path, spec: Spec, prints: dict[str, str]) -> None:
    """Write recipe and fingerprints into a new run folder; not before they are known to be good."""
    if process()[0] != 0:
        return
    sweep(run)
    if not _begun(run):
        write_file(run / "data.json", json.dumps(prints, indent=1).encode())
        write_file(run / "spec.yaml", spec.to_yaml().encode())


def _begun(run: Path) -> bool:
    """Whether a folder holds anything of a run but its claim, so that another recipe would destroy something."""
    learnt = any((run / name).exists() for name in ("model.safetensors", "body.safetensors"))
    return (learnt or any(run.glob("**/checkpoints/*"))) and (run / "spec.yaml").exists()


def drop_checkpoints(run: Path) -> None:
    """Delete the checkpoints of a finished run; what a kill leaves of them, the next run deletes."""
    if process()[0] == 0:
        for folder in sorted(run.glob("**/checkpoints")):
            shutil.rmtree(folder)
