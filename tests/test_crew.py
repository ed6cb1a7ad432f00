"""Several processes that write one store: what each does, and that all of it is what one process writes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aequorea.crew import Crew, TakeOver, parse_part
from aequorea.errors import DataError, SpecError
from aequorea.signal.intensity import measure
from aequorea.volume import from_array
from aequorea.workflows.predict import PredictSpec, predict
from quick import SPACING, call, model_file, nuclei
from several import dask_cluster, equal

SPEC = PredictSpec(precision="float32", tile=40_000)
QUICK = """
import torch
torch.set_num_threads(1)
import aequorea.crew as crew
crew.BEAT_S, crew.DEAD_S, crew.POLL_S = 0.2, 2.0, 0.05
"""


class Dead(Crew):
    """A crew of which given parts live."""

    alive_parts: tuple[int, ...] = ()

    def living(self) -> list[int]:
        return sorted({self.part, *self.alive_parts})


@given(st.data(), st.integers(1, 9), st.integers(1, 60))
@settings(max_examples=100, deadline=None)
def test_everything_left_is_somebodys(data: st.DataObject, parts: int, total: int) -> None:
    """The living take what is left apart; whoever has no work of its own takes that of the dead, all of it in turn."""
    left = sorted(data.draw(st.sets(st.integers(0, total - 1), min_size=1)))
    alive = tuple(sorted(data.draw(st.sets(st.integers(1, parts), min_size=1))))
    rounds = 0
    while left:
        taken: list[int] = []
        for part in alive:
            crew = Dead(part, parts, Path())
            crew.alive_parts = alive
            taken += crew.mine(left, total)
        assert len(set(taken)) == len(taken) and set(taken) <= set(left)
        assert taken, "somebody goes on"
        left = [item for item in left if item not in taken]
        rounds += 1
    assert rounds <= 2 + total


def test_waiting_ends_or_becomes_work(tmp_path: Path) -> None:
    """One waits for the living, and takes over from those that show no sign of life."""
    crew = Crew(1, 2, tmp_path)
    with crew.alive():
        with pytest.raises(TakeOver):
            crew.wait(lambda: [1], 2, "x")
        with Crew(2, 2, tmp_path).alive():
            assert crew.living() == [1, 2]
            answers = iter([[1], [1], []])
            crew.wait(lambda: next(answers), 2, "x")
            assert not crew.mine([1], 2) and crew.mine([0, 1], 2) == [0]
        assert crew.living() == [1] and crew.mine([1], 2) == [1]
    with pytest.raises(SpecError, match="--part 3/2"):
        parse_part("3/2")
    with pytest.raises(SpecError, match="--part 2/8"):
        parse_part("half")


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("crew") / "image.npy"
    np.save(path, nuclei(3, (32, 96, 160))[0])
    return path


@pytest.fixture(scope="module")
def alone(image: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Return a model and what one process makes of the image with it."""
    model = model_file("instances")
    out = tmp_path_factory.mktemp("alone") / "out.ome.zarr"
    assert call(*command(model, image, out)) == 0
    return model, out


def command(model: Path, image: Path, out: Path, *more: str) -> list[str]:
    spacing = ",".join(map(str, SPACING))
    return [
        "predict", str(model), str(image), str(out), "--tile", "40000", "--precision", "float32",
        "--spacing", spacing, *more,
    ]  # fmt: skip


def start(*words: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-c", f"{QUICK}from aequorea.cli import main; main()", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


def test_three_parts_of_which_one_is_killed_write_what_one_process_writes(
    alone: tuple[Path, Path], image: Path, tmp_path: Path
) -> None:
    """The others take over; the parts end with 0 and leave a finished store."""
    model, wanted = alone
    out = tmp_path / "out.ome.zarr"
    children = [start(*command(model, image, out, "--part", f"{part}/3")) for part in (1, 2, 3)]
    journal = out / ".aequorea" / "journal"
    until = time.monotonic() + 60
    while not list(journal.glob("*.part2.jsonl")) and time.monotonic() < until:
        time.sleep(0.02)
    os.kill(children[1].pid, signal.SIGKILL)
    said = [child.communicate(timeout=120)[0].decode() for child in children]
    assert [child.returncode for child in children] == [0, -9, 0], said
    assert equal(wanted, out)
    left = sorted(path.name for path in (out / ".aequorea").iterdir())
    assert left == ["journal", "state.json", "tiles.json", "zarr.json"]


def test_parts_may_run_one_after_another(image: Path, tmp_path: Path) -> None:
    """The first of a job array that starts alone does what the others would have; they find it done."""
    model, wanted, out = model_file("semantic"), tmp_path / "alone.ome.zarr", tmp_path / "out.ome.zarr"
    assert call(*command(model, image, wanted)) == 0
    for part in ("2/3", "1/3"):
        assert call(*command(model, image, out, "--part", part)) == 0
    assert equal(wanted, out)
    with pytest.raises(DataError, match="--overwrite would delete"):
        predict(model, from_array(np.load(image), SPACING), out, SPEC, part=(1, 2), overwrite=True)


def test_the_intensity_range_is_counted_together(tmp_path: Path) -> None:
    """Each part counts its share, of types that are read once and twice; the sum is that of one process."""
    from aequorea.engine.counting import measure_together

    for dtype in (np.uint16, np.float32):
        volume = from_array((nuclei(5, (24, 96, 96))[0] * 7).astype(dtype), SPACING)
        crew = Crew(1, 3, tmp_path / "parts")
        while True:
            try:
                found = measure_together(volume, crew, tmp_path / np.dtype(dtype).name)
                break
            except TakeOver:
                continue
        assert found == measure(volume)


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[tuple[str, list[subprocess.Popen[bytes]]]]:
    """Yield the address of a Dask cluster and its two workers, which are processes of this machine."""
    pytest.importorskip("distributed")
    with dask_cluster(tmp_path, QUICK) as found:
        yield found


def test_a_dask_cluster_that_loses_a_worker_writes_what_one_process_writes(
    alone: tuple[Path, Path],
    image: Path,
    tmp_path: Path,
    cluster: tuple[str, list[subprocess.Popen[bytes]]],
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Killed when both have begun to write."""
    import threading

    model, wanted = alone
    out = tmp_path / "out.ome.zarr"
    address, workers = cluster
    journal = out / ".aequorea" / "journal"

    def kill() -> None:
        until = time.monotonic() + 60
        while len(list(journal.glob("dense*.jsonl"))) < 2 and time.monotonic() < until:
            time.sleep(0.02)
        workers[0].kill()

    killer = threading.Thread(target=kill)
    killer.start()
    code = call(*command(model, image, out, "--scheduler", address))
    killer.join()
    assert code == 0 and "2 workers" in capsys.readouterr().out and workers[0].poll() is not None
    assert equal(wanted, out)


def test_a_cluster_that_is_not_there_is_named(image: Path, tmp_path: Path) -> None:
    """One line that says how to start one."""
    pytest.importorskip("distributed")
    code = call(*command(model_file("semantic"), image, tmp_path / "o", "--scheduler", "tcp://127.0.0.1:9"))
    assert code == 2
