"""The doctor says what is there and what to type for what is not."""

import errno
from importlib import metadata
from pathlib import Path

import pytest
from typer import Typer
from typer.testing import CliRunner

from aequorea.cli import doctor as doctor_command
from aequorea.workflows import doctor as workflow
from aequorea.workflows.doctor import doctor


def run(*words: str) -> tuple[int, str]:
    app = Typer()
    app.callback()(lambda: None)
    doctor_command.command(app)
    result = CliRunner().invoke(app, ["doctor", *words])
    return result.exit_code, result.stdout


def test_everything_is_looked_at_and_nothing_is_left_behind(tmp_path: Path) -> None:
    lines = {line.what: line for line in doctor(tmp_path)}
    for what in (
        "aequorea",
        "packages",
        "device",
        "bfloat16",
        "threads",
        "memory",
        "disk",
        "[formats]",
        "[dask]",
    ):
        assert lines[what].fine and lines[what].text
    assert "MB/s" in lines["disk"].text and metadata.version("torch") in lines["packages"].text
    assert not list(tmp_path.iterdir()) and "[dev]" not in lines
    assert run("--folder", str(tmp_path))[0] == 0


def test_missing_extras_come_with_the_line_that_installs_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workflow, "_installed", lambda name: name != "h5py")
    texts = {line.what: line.text for line in doctor(tmp_path)}
    assert texts["[formats]"] == 'no h5py: pip install "aequorea[formats]"'
    assert texts["[dask]"] == "installed"


def test_disks_that_do_not_serve(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code, text = run("--folder", str(tmp_path / "gone"))
    assert code == 2 and "error: disk" in text and "--folder" in text

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", full)
        assert "no space left" in workflow._disk(tmp_path).text
    monkeypatch.setattr(workflow, "TRIAL", 2**60)
    assert "MiB free" in workflow._disk(tmp_path).text and not workflow._disk(tmp_path).fine
