"""The index of a data set: nothing is opened twice, what changed is named, very many files begin at once."""

from __future__ import annotations

import gc
import json
import os
import time
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from safetensors.torch import load_file

from aequorea.engine.train import TrainSpec
from aequorea.errors import AequoreaError, DataError
from aequorea.signal.specimens import touching_nuclei
from aequorea.volume import Volume, from_array
from aequorea.workflows import index as module
from aequorea.workflows import pretrain as verb
from aequorea.workflows.found import Found
from aequorea.workflows.index import Handles, Index
from aequorea.workflows.open import open as open_volume
from aequorea.workflows.pretrain import PretrainSpec, pretrain
from aequorea.workflows.unlabelled import find_volumes

SPEC = PretrainSpec.parse(
    {
        "train": TrainSpec(steps=4, batch=2, checkpoint_every=1, precision="float32").plain(),
        "backbone": {"name": "unet", "levels": 2},
        "patch": (8, 32, 32),
        "held_out": 0.34,
    }
)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """One thread, and nobody paints."""
    torch.set_num_threads(1)
    monkeypatch.setattr(verb, "stroke_probe", lambda *words: [])


def quiet(line: str) -> None:
    pass


def write(path: Path, seed: int) -> str:
    image = touching_nuclei((16, 48, 48), (2.0, 0.5, 0.5), seed).image
    tifffile.imwrite(path, image, metadata={"axes": "ZYX"})
    return str(path)


class Stopped(Exception):
    pass


def stopping(at: int) -> object:
    train = verb.train

    def stopped(*words: object, after_step: object = None, **rest: object) -> object:
        def stop(step: int) -> None:
            if step == at:
                raise Stopped

        return train(*words, after_step=stop, **rest)

    return stopped


def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return a list to which every path that is opened is added."""
    seen: list[str] = []
    before = module.open_volume

    def watched(path: str, **words: object) -> Volume:
        seen.append(path)
        return before(path, **words)

    monkeypatch.setattr(module, "open_volume", watched)
    return seen


def test_nothing_is_opened_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = [write(tmp_path / f"{n}.tif", n) for n in range(3)]
    seen = opened(monkeypatch)
    Index(tmp_path / "index.jsonl").update(paths[:2])
    with (tmp_path / "index.jsonl").open("a") as file:
        file.write('{"kinds": [[[1, 16')  # cut by a kill
    index = Index(tmp_path / "index.jsonl")
    index.update(paths)
    assert sorted(seen) == paths  # two threads look: in any order
    again = Index(tmp_path / "index.jsonl")
    again.update(paths)
    image = again.volume(paths[0])
    assert sorted(seen) == paths
    real = open_volume(paths[0])
    assert np.array_equal(image.read(), real.read()) and seen[3:] == [paths[0]]
    assert image.fingerprint == real.fingerprint and image.chunks == real.chunks
    assert (image.shape, image.dtype, image.spacing) == (real.shape, real.dtype, real.spacing)


def test_few_volumes_stay_open() -> None:
    made: list[int] = []

    def make(n: int) -> Volume:
        made.append(n)
        return from_array(np.zeros((1, 2, 2)))

    handles = Handles(2)
    for n in (0, 1, 0, 2, 0, 1):
        handles.get(n, lambda n=n: make(n))
    assert made == [0, 1, 2, 1]


def test_facts_are_kept(tmp_path: Path) -> None:
    assert Found(tmp_path).get("a", lambda: {"x": (0.1, 2)}) == {"x": [0.1, 2]}
    assert Found(tmp_path).get("a", lambda: pytest.fail("found again")) == {"x": [0.1, 2]}


def test_resumed_equals_uninterrupted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ranges and surveys are found when a volume is first drawn, in one run after the kill, in the other before."""
    paths = [write(tmp_path / f"{n}.tif", n) for n in range(5)]
    whole = pretrain(paths, tmp_path / "a", SPEC, say=quiet)
    with monkeypatch.context() as patch:
        patch.setattr(verb, "train", stopping(3))
        with pytest.raises(Stopped):
            pretrain(paths, tmp_path / "b", SPEC, say=quiet)
    facts = tmp_path / "b" / "found-0.jsonl"
    facts.write_bytes(facts.read_bytes()[:700])  # most of them, and the middle of one, are lost
    again = pretrain(paths, tmp_path / "b", SPEC, say=quiet)
    one, two = load_file(whole.path), load_file(again.path)
    assert all(torch.equal(tensor, two[key]) for key, tensor in one.items())
    assert whole.card["held_out"] == again.card["held_out"]
    told: list[str] = []
    pretrain(paths, tmp_path / "b", SPEC, say=told.append)
    assert any("R²" in line for line in told)
    arrays = [open_volume(path) for path in paths]
    pretrain(arrays, tmp_path / "c", SPEC, say=quiet)
    three = load_file(tmp_path / "c" / "body.safetensors")
    assert all(torch.equal(tensor, three[key]) for key, tensor in one.items())


def test_what_changed_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = [write(tmp_path / f"{n}.tif", n) for n in range(3)]
    run = tmp_path / "run"
    monkeypatch.setattr(verb, "train", stopping(1))
    spec = SPEC.model_copy(update={"held_out": 0.0})

    def go(some: list[str]) -> None:
        pretrain(some, run, spec, say=quiet)

    with pytest.raises(Stopped):
        go(paths)
    with pytest.raises(DataError, match=r"1\.tif is gone\): use another --out"):
        go([paths[0], paths[2]])
    seen = opened(monkeypatch)
    with pytest.raises(DataError, match=r"4\.tif is new\)"):
        go([*paths, write(tmp_path / "4.tif", 4)])
    with pytest.raises(DataError, match="order"):
        go(paths[::-1])
    assert seen == []
    os.utime(paths[1])  # the same image, copied: goes on
    with pytest.raises(Stopped):
        go(paths)
    assert seen[0] == paths[1]
    before = Path(paths[1]).read_bytes()
    write(tmp_path / "1.tif", 9)
    with pytest.raises(DataError, match=r"1\.tif has changed\): use another --out"):
        go(paths)
    Path(paths[1]).write_bytes(before)
    with pytest.raises(Stopped):
        go(paths)
    Path(paths[2]).unlink()
    with pytest.raises(AequoreaError, match=r"2\.tif: no such file"):
        go(paths)


def test_a_change_while_it_is_read_is_named(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tif", 0)
    index = Index(tmp_path / "index.jsonl")
    index.update([path])
    write(tmp_path / "a.tif", 1)
    with pytest.raises(DataError, match=r"a\.tif: changed while it was used; run the same command again"):
        index.volume(path).read()


def test_planes_of_folders_are_volumes(tmp_path: Path) -> None:
    for folder in ("a/x", "a/y", "b"):
        (tmp_path / folder).mkdir(parents=True)
        for z in range(3):
            tifffile.imwrite(tmp_path / folder / f"{z}.tif", np.full((8, 9), z, np.uint8))
    found = find_volumes([tmp_path], sequence=True)
    assert [path.relative_to(tmp_path).as_posix() for path, _ in found] == ["a/x", "a/y", "b"]
    assert len({specimen for _, specimen in found}) == 2
    index = Index(tmp_path / "index.jsonl", "sequence")
    path = str(found[0][0])
    index.update([path])
    assert index.volume(path).read()[0, :, 0, 0].tolist() == [0, 1, 2]
    assert len(find_volumes([tmp_path])) == 9


def test_100_000_files_begin_within_ten_seconds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Simulated: entries of an index without the files, which are neither listed nor looked at; CPU seconds."""
    number, run = 100_000, tmp_path / "run"
    run.mkdir()
    image = from_array(np.random.default_rng(0).random((8, 48, 48)), (2.0, 0.5, 0.5))
    kind = [image.shape, "<f8", image.spacing, image.channels, image.chunks, "tiff", "none"]
    paths = [f"specimen {n // 100}/{n}.tif" for n in range(number)]
    with (run / "index.jsonl").open("w") as file:
        for start in range(0, number, 64):
            rows = {path: [9, 9, image.fingerprint, 0] for path in paths[start : start + 64]}
            file.write(json.dumps({"kinds": [kind], "files": rows}) + "\n")
    seen: list[str] = []
    monkeypatch.setattr(module, "stamp_of", lambda path: (9, 9))
    monkeypatch.setattr(module, "open_volume", lambda path, many: (seen.append(path), image)[1])

    def train(*words: object, **rest: object) -> None:
        raise Stopped

    monkeypatch.setattr(verb, "train", train)
    gc.freeze()  # what the tests before left is not what a user's process holds
    began = time.process_time()
    with pytest.raises(Stopped):
        pretrain(paths, run, SPEC, groups=[path.split("/")[0] for path in paths], say=quiet)
    assert time.process_time() - began < 10
    assert 0 < len(set(seen)) <= 2 * SPEC.train.batch
    assert len(json.loads((run / "data.json").read_text())) == number
