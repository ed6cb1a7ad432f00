"""Bad input through the real command line: one line that begins with ``error:``, status 2, nothing half-written."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tifffile
import zarr

from aequorea import __version__, cli
from aequorea.engine import durable
from quick import model_file, nuclei

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Run:
    """Return what a command line leaves: status, output, errors. It runs in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)

    def call(*words: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["aequorea", *map(str, words)])
        with pytest.raises(SystemExit) as left:
            cli.main()
        output = capsys.readouterr()
        return int(left.value.code or 0), output.out, output.err

    return call


@pytest.fixture
def refused(run: Run, tmp_path: Path) -> Callable[..., str]:
    """Return the one line of a command that must be refused and leave the folder as it was."""

    def call(*words: object) -> str:
        before = sorted(tmp_path.rglob("*"))
        status, _, errors = run(*words)
        lines = [line for line in errors.splitlines() if not line.startswith("note: ")]
        assert status == 2, errors
        assert len(lines) == 1 and lines[0].startswith("error: "), errors
        assert sorted(tmp_path.rglob("*")) == before, "something was left behind"
        return lines[0]

    return call


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """A whole image file with labels beside it."""
    values, labels = nuclei(1)
    tifffile.imwrite(tmp_path / "a.tif", values, metadata={"axes": "ZYX"}, imagej=True)
    tifffile.imwrite(
        tmp_path / "a_label.tif", labels.astype(np.uint16), metadata={"axes": "ZYX"}, imagej=True
    )
    return tmp_path / "a.tif"


def test_a_truncated_tiff(refused: Callable[..., str], image: Path) -> None:
    image.write_bytes(image.read_bytes()[: image.stat().st_size // 2])
    for words in (
        ("info", image),
        ("predict", model_file(), image, "out.ome.zarr"),
        ("crops", image, "--size", "8"),
        ("finetune", image.parent, "--task", "semantic", "--set", "any_object=true"),
    ):
        assert "a.tif" in refused(*words)


def test_missing_and_unknown_files(refused: Callable[..., str], image: Path, tmp_path: Path) -> None:
    model = model_file()
    assert "b.tif: no such file" in refused("predict", model, "b.tif", "out.ome.zarr")
    assert "m.safetensors: no such file" in refused("predict", "m.safetensors", image, "out.ome.zarr")
    assert "no such file" in refused("finetune", "nowhere")
    assert "no such file" in refused("check", "nowhere")
    assert "no such file" in refused("crops", "nowhere.tif")
    assert "no such file" in refused("evaluate", "m.safetensors", tmp_path)
    (tmp_path / "notes.txt").write_text("no image")
    assert "no known image format" in refused("predict", model, "notes.txt", "out.ome.zarr")
    (tmp_path / "fake.tif").write_text("no image")
    assert "named like tiff, but is none" in refused("info", "fake.tif")
    assert "a.tif" in refused("predict", image, image, "out.ome.zarr")  # an image in place of the model
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(model.read_bytes()[:1000])
    assert "no whole safetensors file" in refused("predict", cut, image, "out.ome.zarr")


def test_wrong_words_name_the_nearest(refused: Callable[..., str], image: Path, tmp_path: Path) -> None:
    data = ("finetune", tmp_path, "--task", "semantic", "--set", "any_object=true")
    assert "did you mean 'semantic'?" in refused("finetune", tmp_path, "--task", "semantics")
    assert "did you mean 'unet'?" in refused(*data, "--backbone", "unett")
    assert "did you mean 'lora'?" in refused(*data, "--backbone", "unet", "--adapter", "loar")
    assert "did you mean 'any_object'?" in refused(
        "finetune", tmp_path, "--task", "semantic", "--set", "any_objects=1"
    )
    assert "expected WORD=VALUE" in refused("finetune", tmp_path, "--set", "any_object")
    assert "semantic" in refused("finetune", tmp_path, "--task", "semantic", "--set", "loss=hinge")
    assert "halo" in refused("predict", model_file(), image, "out.ome.zarr", "--halo", "wide")
    assert "float16" in refused("predict", model_file(), image, "out.ome.zarr", "--precision", "float16")
    assert "is not of the form" in refused("predict", model_file(), image, "out.ome.zarr", "--region", "0:3")
    assert "inside" in refused("predict", model_file(), image, "out.ome.zarr", "--region", "0:3,0:9999,0:3")
    assert "see aequorea predict --help" in refused("predict", "--nonsense")
    assert "did you mean 'predict'" in refused("predic").lower()
    assert "argument" in refused("info").lower()


def test_labels_that_are_missing_or_do_not_fit(
    refused: Callable[..., str], image: Path, tmp_path: Path
) -> None:
    label = tmp_path / "a_label.tif"
    labels = tifffile.imread(label)
    tifffile.imwrite(label, labels[:-2], metadata={"axes": "ZYX"}, imagej=True)
    assert "a_label.tif" in refused("finetune", tmp_path)
    tifffile.imwrite(label, labels * 0, metadata={"axes": "ZYX"}, imagej=True)
    assert "object" in refused("finetune", tmp_path, "--task", "instances")
    assert "background" in refused("finetune", tmp_path, "--task", "semantic")
    label.unlink()
    assert "has a label" in refused("finetune", tmp_path)
    mask = tmp_path / "mask.tif"
    tifffile.imwrite(mask, np.ones((3, 4, 5), np.uint8))
    assert "mask.tif" in refused("predict", model_file(), image, "out.ome.zarr", "--mask", mask)


def test_complex_and_empty_images(refused: Callable[..., str], tmp_path: Path) -> None:
    np.save("complex.npy", np.ones((4, 8, 8), np.complex64))
    np.save("empty.npy", np.ones((0, 8, 8), np.float32))
    np.save("text.npy", np.array(["a", "b"]))
    for name in ("complex", "empty", "text"):
        assert f"{name}.npy" in refused("predict", model_file(), f"{name}.npy", "out.ome.zarr")
        assert f"{name}.npy" in refused("info", f"{name}.npy")


def test_a_zarr_that_declares_petabytes(run: Run, refused: Callable[..., str], tmp_path: Path) -> None:
    shape = (20_000, 200_000, 200_000)
    array = zarr.create_array(tmp_path / "huge.zarr", shape=shape, chunks=(64, 256, 256), dtype="u2")
    array[:64, :256, :256] = np.random.default_rng(0).integers(1, 999, (64, 256, 256))
    line = refused("predict", model_file(), "huge.zarr", "out.ome.zarr")
    assert "--region" in line and "TB" in line
    status, _, errors = run(
        "predict", model_file(), "huge.zarr", "out.ome.zarr", "--region", "0:16,0:48,0:48", "--tile", 200_000
    )
    assert status == 0, errors
    assert (tmp_path / "out.ome.zarr" / "zarr.json").exists()


def test_a_full_disk(run: Run, image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Predict and finetune stop with one line; what they left is taken up when there is room again."""
    model, write = model_file(), durable._write_all
    left = 3

    def full(handle: int, piece: bytes) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write(handle, piece)

    for words in (
        ("finetune", tmp_path, "--task", "semantic", "--set", "any_object=true", "--backbone", "filters"),
        ("predict", model, image, "out.ome.zarr"),
    ):
        left = 3
        with monkeypatch.context() as patch:
            patch.setattr(durable, "_write_all", full)
            status, _, errors = run(*words)
        assert status == 2
        assert errors.splitlines()[-1].startswith("error: ") and "no space left" in errors
        assert not list(tmp_path.rglob("*.partial"))
        assert run(*words)[0] == 0


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root may read and write anything")
def test_no_permission(refused: Callable[..., str], image: Path, tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir()
    closed.chmod(0o500)
    assert "no permission" in refused("predict", model_file(), image, closed / "out.ome.zarr")
    assert "no permission" in refused("crops", image, "--size", "8", "--out", closed / "crops")
    image.chmod(0)
    assert "is not readable" in refused("info", image)


def test_places_that_hold_something_else(refused: Callable[..., str], image: Path, tmp_path: Path) -> None:
    other = tmp_path / "letters"
    other.mkdir()
    (other / "a.txt").write_text("dear")
    assert "letters" in refused("predict", model_file(), image, other)
    assert "letters" in refused("predict", model_file(), image, other, "--overwrite")
    assert (other / "a.txt").read_text() == "dear"
    assert "a.tif" in refused("predict", model_file(), image, image)


def test_a_run_folder_of_another_recipe(
    run: Run, refused: Callable[..., str], image: Path, tmp_path: Path
) -> None:
    words = ("finetune", tmp_path, "--task", "semantic", "--set", "any_object=true", "--backbone", "filters")
    assert run(*words, "--out", "run")[0] == 0
    assert "begun with another recipe (held_out" in refused(*words, "--out", "run", "--held-out", "0.4")
    status, output, _ = run(*words, "--out", "run")
    assert status == 0 and "nothing to do" in output


def test_a_damaged_csv(refused: Callable[..., str], image: Path, tmp_path: Path) -> None:
    for text, word in (
        ("", "no lines below a header"),
        ("picture,label\na.tif,a_label.tif\n", "no column 'image'"),
        ("image,label\nb.tif,a_label.tif\n", "line 2: image 'b.tif' is not there"),
        ("image,label,splt\na.tif,a_label.tif,val\n", "did you mean 'split'?"),
    ):
        (tmp_path / "data.csv").write_text(text)
        assert word in refused("finetune", "data.csv")


def test_the_status_of_the_real_command(tmp_path: Path) -> None:
    """What a shell sees: one line on standard error and nothing on standard output."""
    done = subprocess.run(
        [sys.executable, "-m", "aequorea", "info", str(tmp_path / "missing.tif")],
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"error: {tmp_path / 'missing.tif'}: no such file or folder\n"
    version = subprocess.run([sys.executable, "-m", "aequorea", "--version"], capture_output=True, text=True)
    assert (version.returncode, version.stdout) == (0, f"aequorea {__version__}\n")


def test_internal_faults_keep_their_traceback(run: Run, image: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError("ours")

    monkeypatch.setattr("aequorea.workflows.info.info", broken)
    with pytest.raises(ZeroDivisionError):
        run("info", image)


def test_ctrl_c_says_how_to_go_on(run: Run, image: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("aequorea.workflows.info.info", stopped)
    status, _, errors = run("info", image)
    assert status == 130 and "the same command goes on" in errors


def test_notes_are_lines_too(run: Run, image: Path) -> None:
    status, output, errors = run("info", image, "--json")
    assert status == 0 and json.loads(output)["shape"]
    assert all(line.startswith("note: ") for line in errors.splitlines())
