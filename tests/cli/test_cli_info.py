from __future__ import annotations

import json

import numpy as np
import pytest
import tifffile
import typer
from typer.testing import CliRunner

from aequorea.cli.info import command
from aequorea.errors import FormatError, SpecError


@pytest.fixture
def run():
    app = typer.Typer()
    app.callback()(lambda: None)
    command(app)

    def call(*words: object) -> str:
        result = CliRunner().invoke(app, ["info", *map(str, words)], catch_exceptions=False)
        assert result.exit_code == 0, result.output
        return result.stdout

    return call


def test_lines_and_json(run, tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", np.arange(5 * 6 * 7, dtype="u2").reshape(5, 6, 7))
    text = run(tmp_path / "a.tif", "--spacing", "2,0.5,0.5")
    assert "1 x 5 x 6 x 7 (C Z Y X)" in text
    assert "2, 0.5, 0.5 µm (z, y, x)" in text
    facts = json.loads(run(tmp_path / "a.tif", "--axes", "CYX", "--channel", "1,4", "--json"))
    assert facts["shape"] == [2, 1, 6, 7]


def test_folders(run, tmp_path):
    for i in range(3):
        tifffile.imwrite(tmp_path / f"{i}.tif", np.full((6, 7), i, "u1"))
    assert json.loads(run(tmp_path, "--sequence", "--json"))["shape"] == [1, 3, 6, 7]
    each = json.loads(run(tmp_path, "--each", "--json"))
    assert [facts["intensity"][0]["high"] for facts in each] == [0, 1, 2]
    with pytest.raises(FormatError, match="exclude each other"):
        run(tmp_path, "--each", "--sequence")
    with pytest.raises(SpecError, match="--spacing"):
        run(tmp_path / "0.tif", "--spacing", "2,0.5")
